//! What guests are: `define`, `undefine`, `autostart`, `setmem`, `setvcpus`, `vcpupin`, `blockresize`, `attach-disk`,
//! `detach-disk`. A change of one thing is read, made and written on the condition that nobody has written meanwhile, and else
//! made again.

use std::io::Read;
use std::path::Path;

use hyper::Method;
use serde_json::{Value, json};
use thimble_spec::api::guest::{Definition, Origin};
use thimble_spec::names::check_name;
use thimble_spec::units::ByteSize;

use super::client::Client;
use super::failure::Failure;
use super::words::Word;

/// The longest file that is read.
const FILE_MAX: u64 = 1 << 20;
/// Times that a change is tried while others are faster.
const TRIES: u32 = 10;

/// Where a guest's definition is.
pub fn path(guest: &str) -> String {
    format!("/v1/guests/{guest}/definition")
}

/// Does it.
///
/// # Errors
/// The node refuses or is not there; the file is no definition.
pub async fn run(client: &Client, word: &Word, json: bool) -> Result<(), Failure> {
    let (done, text) = match word {
        Word::Define { file } => define(client, file).await?,
        Word::Undefine { guest } => client.json(Method::DELETE, &path(guest)).await?,
        Word::Autostart { guest, disable } => {
            change(client, guest, &|it| set(it, "autostart", json!(!disable))).await?
        }
        Word::Setmem { guest, size } => {
            let size = self::size(size).map_err(Failure::usage)?.to_string();
            change(client, guest, &|it| set(it, "memory", json!(size))).await?
        }
        Word::Blockresize { guest, size } => {
            let size = self::size(size).map_err(Failure::usage)?;
            change(client, guest, &|it| grow(it, size)).await?
        }
        Word::AttachDisk { guest, source } => {
            let source = self::source(source).map_err(Failure::usage)?;
            change(client, guest, &|it| attach(it, &source)).await?
        }
        Word::DetachDisk { guest } => change(client, guest, &detach).await?,
        Word::Setvcpus { guest, count } => change(client, guest, &|it| set(it, "vcpus", json!(count))).await?,
        Word::Vcpupin { guest, vcpu, processors } => {
            let processors = self::processors(processors).map_err(Failure::usage)?;
            change(client, guest, &|it| pin(it, *vcpu, &processors)).await?
        }
        _ => return Ok(()),
    };
    println!("{}", if json { text } else { told(&done) });
    Ok(())
}

/// For people.
pub fn told(done: &Definition) -> String {
    let guest = &done.guest;
    let mut text = match done.defined {
        None => return format!("guest {guest} is no more; its disk, if it has one, is left as it is"),
        Some(Origin::Image) => format!("guest {guest} is what the image says"),
        Some(origin) => format!("guest {guest} is defined {}", origin.words()),
    };
    if done.waits {
        text += "; it runs, and its next start goes by this";
    }
    text
}

/// All of a file; `-` is standard input.
fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    let outcome = match file == Path::new("-") {
        true => std::io::stdin().take(FILE_MAX).read_to_end(&mut text),
        false => std::fs::File::open(file).and_then(|file| file.take(FILE_MAX).read_to_end(&mut text)),
    };
    outcome.map_err(|error| Failure::failed(format!("reading {}: {error}", file.display())))?;
    Ok(text)
}

async fn define(client: &Client, file: &Path) -> Result<(Definition, String), Failure> {
    let text = read(file)?;
    let wrong = |why: String| Failure::failed(format!("{}: {why}", file.display()));
    let given: Value = serde_json::from_slice(&text).map_err(|error| {
        wrong(format!("this is no definition of a guest, as thimblectl dumpconfig prints it: {error}"))
    })?;
    let name = given["name"].as_str().ok_or_else(|| wrong("name: say which guest this is".to_owned()))?;
    check_name(name).map_err(|error| wrong(format!("name: {error}")))?;
    client.put(&path(name), &[], text).await
}

/// Changes one thing.
async fn change(
    client: &Client,
    guest: &str,
    make: &dyn Fn(&mut Value) -> Result<(), Failure>,
) -> Result<(Definition, String), Failure> {
    let path = path(guest);
    let mut left = TRIES;
    loop {
        let (mut definition, tag) = client.tagged(&path).await?;
        make(&mut definition)?;
        left -= 1;
        match client.put(&path, &[("if-match", &tag)], definition.to_string().into_bytes()).await {
            Err(failure) if failure.is_stale() && left > 0 => {}
            outcome => return outcome,
        }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "as all changes do")]
fn set(definition: &mut Value, key: &str, value: Value) -> Result<(), Failure> {
    definition[key] = value;
    Ok(())
}

/// What a disk is on: a device or a file of the host, or room that the node makes.
fn source(text: &str) -> Result<Value, String> {
    match text {
        device if device.starts_with("/dev/") => Ok(json!({ "device": device })),
        file if file.starts_with('/') => Ok(json!({ "file": file })),
        room => Ok(json!({ "size": size(room)?.to_string() })),
    }
}

fn attach(definition: &mut Value, source: &Value) -> Result<(), Failure> {
    let disk = &mut definition["disk"];
    if !disk.is_null() {
        return Err(Failure::failed("the guest has a disk, and has one at most: detach-disk first".to_owned()));
    }
    *disk = json!({ "source": source });
    Ok(())
}

fn detach(definition: &mut Value) -> Result<(), Failure> {
    if definition["disk"].is_null() {
        return Err(Failure::failed("the guest has no disk of its own".to_owned()));
    }
    set(definition, "disk", Value::Null)
}

fn grow(definition: &mut Value, size: ByteSize) -> Result<(), Failure> {
    let now = &mut definition["disk"]["source"]["size"];
    let Some(old) = now.as_str().and_then(|text| text.parse::<ByteSize>().ok()) else {
        let why =
            "the guest has no disk that the node made: what it is on grows on the host, and its next start takes that";
        return Err(Failure::failed(why.to_owned()));
    };
    if size < old {
        return Err(Failure::failed(format!("a disk does not shrink: it has {old}, say more")));
    }
    *now = json!(size.to_string());
    Ok(())
}

fn pin(definition: &mut Value, vcpu: u64, processors: &[u16]) -> Result<(), Failure> {
    let count = definition["vcpus"].as_u64().unwrap_or_default();
    if vcpu >= count {
        return Err(Failure::failed(format!("there is no vCPU {vcpu}: the guest has {count}, from 0 on")));
    }
    let pins = &mut definition["cpu"]["pins"];
    let mut list: Vec<Value> = pins.as_array().cloned().unwrap_or_default();
    // A guest has 64 at most.
    let place = vcpu as usize;
    if list.len() <= place {
        list.resize(place + 1, json!([]));
    }
    list[place] = json!(processors);
    while list.last().is_some_and(|last| *last == json!([])) {
        list.pop();
    }
    *pins = Value::Array(list);
    Ok(())
}

/// Processors as `0-3,7`; `r` is all of them.
fn processors(text: &str) -> Result<Vec<u16>, String> {
    let wrong = || format!("`{text}` is no list of processors: write 0-3,7, or r for all of them");
    let mut list = Vec::new();
    if text == "r" {
        return Ok(list);
    }
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.parse::<u16>().ok().filter(|number| *number < 1024).ok_or_else(wrong);
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(wrong());
        }
        list.extend(first..=last);
    }
    Ok(list)
}

/// A size with a unit: what a number alone means is one thing to one program and another to the next.
fn size(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text.parse().map_err(|error| format!("{error}"))?;
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("say the unit: {text}MiB"));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_lists() {
        assert_eq!(processors("0-2,7"), Ok(vec![0, 1, 2, 7]));
        assert_eq!(processors("r"), Ok(vec![]));
        for bad in ["", "a", "3-1", "1024", "1,", "-1", "0-99999"] {
            assert!(processors(bad).is_err(), "{bad}");
        }
        assert_eq!(size("96MiB"), Ok(ByteSize::mib(96)));
        assert!(size("96").unwrap_err().contains("96MiB") && size("-1MiB").is_err());
    }

    #[test]
    fn a_disk_comes_and_goes() {
        let mut it = json!({ "disk": null });
        assert!(detach(&mut it).unwrap_err().to_string().contains("has no disk"));
        for (text, wanted) in [
            ("/dev/vg/web1", json!({ "device": "/dev/vg/web1" })),
            ("/data/files/web1.raw", json!({ "file": "/data/files/web1.raw" })),
            ("64MiB", json!({ "size": "64MiB" })),
        ] {
            attach(&mut it, &source(text).unwrap()).unwrap();
            assert_eq!(it["disk"]["source"], wanted);
            assert!(attach(&mut it, &wanted).unwrap_err().to_string().contains("detach-disk first"));
            detach(&mut it).unwrap();
        }
        assert!(source("64").unwrap_err().contains("64MiB") && source("web1.raw").is_err());
    }

    #[test]
    fn a_disk_grows() {
        let mut it = json!({ "disk": { "source": { "size": "16MiB" } } });
        grow(&mut it, ByteSize::mib(32)).unwrap();
        assert_eq!(it["disk"]["source"]["size"], "32MiB");
        assert!(grow(&mut it, ByteSize::mib(16)).unwrap_err().to_string().contains("it has 32MiB"));
        for mut other in [json!({}), json!({ "disk": null }), json!({ "disk": { "source": { "device": "/dev/vdb" } } })]
        {
            assert!(grow(&mut other, ByteSize::mib(16)).unwrap_err().to_string().contains("grows on the host"));
        }
    }

    #[test]
    fn a_pin_has_its_place() {
        let mut it = json!({"vcpus": 3, "cpu": {"pins": []}});
        pin(&mut it, 1, &[4, 5]).unwrap();
        assert_eq!(it["cpu"]["pins"], json!([[], [4, 5]]));
        pin(&mut it, 0, &[1]).unwrap();
        pin(&mut it, 1, &[]).unwrap();
        assert_eq!(it["cpu"]["pins"], json!([[1]]));
        assert!(pin(&mut it, 3, &[1]).unwrap_err().to_string().contains("there is no vCPU 3"));
    }
}
