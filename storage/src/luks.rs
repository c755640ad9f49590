//! LUKS containers by Debian's cryptsetup.
//!
//! What is made is version 2 with AES-256 in XTS. A key is bytes that nobody chose, so that there is nothing to be guessed and
//! nothing to be stretched: opening one costs no memory and no second. Containers of others are opened as they are.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use thimble_spec::appliance::{Luks, LuksKey};

use crate::execute::{clear, mark, path_of, unmark};
use crate::mark::Place;
use crate::observed::Container;
use crate::signature::LUKS_FRESH;
use crate::step::Target;
use crate::{Error, Result, doing, tools};

/// Before a container's name in the device mapper's. No volume's begins so: in the names of groups there is no `+`.
const PREFIX: &str = "luks+";
/// Where the device mapper's library makes devices.
const MAPPER: &str = "/dev/mapper";
/// The label of a container that is whole.
const LABEL: &str = "thimble";
/// Rounds of PBKDF2: the fewest that there may be.
const ROUNDS: &str = "1000";

/// Makes one in which nothing is, and leaves it open. Until its content was cleared, it has a label that says so.
pub(crate) fn make(target: &Target, key: &Target, luks: &Luks) -> Result<()> {
    let words = key_words(key, &luks.key)?;
    let path = path_of(target).display().to_string();
    clear(target)?;
    mark(target, Place::Last)?;
    let format = ["luksFormat", "--batch-mode", "--type=luks2", "--cipher=aes-xts-plain64", "--key-size=512"];
    let rounds = format!("--pbkdf-force-iterations={ROUNDS}");
    let label = format!("--label={LUKS_FRESH}");
    cryptsetup(&[&format[..], &["--hash=sha256", "--pbkdf=pbkdf2", &rounds, &label]].concat(), &words, &[&path])?;
    let flush = || doing(File::open(&path).and_then(|file| file.sync_all()), || format!("write {target} out"));
    flush()?;
    unmark(target, Place::Last)?;
    open(target, key, luks)?;
    // What was there before is deciphered to noise, which would be taken for somebody's data.
    let inner = format!("{MAPPER}/{PREFIX}{}", luks.name);
    clear(&Target { block: inner.trim_start_matches("/dev/").to_owned(), path: luks.path() })?;
    cryptsetup(&["config", &format!("--label={LABEL}")], &[], &[&path])?;
    flush()
}

/// Opens one.
pub(crate) fn open(target: &Target, key: &Target, luks: &Luks) -> Result<()> {
    let words = key_words(key, &luks.key)?;
    let (path, name) = (path_of(target).display().to_string(), format!("{PREFIX}{}", luks.name));
    // Discards go through: a thin volume or a flash disk below learns what is free.
    cryptsetup(&["open", "--type=luks", "--allow-discards", "--disable-keyring"], &words, &[&path, &name])
}

/// Closes one.
pub(crate) fn close(name: &str) -> Result<()> {
    cryptsetup(&["close"], &[], &[&format!("{PREFIX}{name}")])
}

/// Those that are open, by name.
pub(crate) fn containers() -> BTreeMap<String, Container> {
    let blocks = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    blocks.filter_map(|entry| container(&entry.path())).collect()
}

fn container(sys: &Path) -> Option<(String, Container)> {
    let name = fs::read_to_string(sys.join("dm/name")).ok()?;
    let name = name.trim().strip_prefix(PREFIX)?.to_owned();
    let below = fs::read_dir(sys.join("slaves")).ok()?.flatten().next()?;
    let text = |name: &std::ffi::OsStr| name.to_string_lossy().into_owned();
    Some((name, Container { block: text(sys.file_name()?), on: text(&below.file_name()) }))
}

/// Where the key is, in cryptsetup's words.
fn key_words(target: &Target, key: &LuksKey) -> Result<[String; 3]> {
    let path = path_of(target);
    let mut bytes = vec![0; usize::from(key.size)];
    let what = || format!("read the key on {target}");
    doing(File::open(&path).and_then(|file| file.read_exact_at(&mut bytes, key.offset.bytes())), what)?;
    let first = bytes[0];
    if bytes.iter().all(|byte| *byte == first) {
        let (size, offset) = (key.size, key.offset.bytes());
        return Err(Error(format!(
            "there is no key on {target}: its {size} bytes from byte {offset} on are all the same; write random ones there"
        )));
    }
    Ok([
        format!("--key-file={}", path.display()),
        format!("--keyfile-offset={}", key.offset.bytes()),
        format!("--keyfile-size={}", key.size),
    ])
}

fn cryptsetup(words: &[&str], key: &[String], names: &[&str]) -> Result<()> {
    // Nobody else opens it at the same time.
    let all = words.iter().copied().chain(["--disable-locks"]).chain(key.iter().map(String::as_str));
    let all: Vec<&str> = all.chain(names.iter().copied()).collect();
    tools::cryptsetup(&all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_spec::units::ByteSize;

    #[test]
    fn a_key_is_bytes_that_differ() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..=255).chain([7; 64]).collect();
        fs::write(file.path(), bytes).unwrap();
        let target = Target { block: file.path().display().to_string(), path: "/dev/thimble/stick".to_owned() };
        let words = |offset, size| {
            let key = LuksKey { device: String::new(), offset: ByteSize(offset), size };
            key_words(&target, &key)
        };
        assert_eq!(words(16, 32).unwrap()[1..], ["--keyfile-offset=16", "--keyfile-size=32"]);
        let told = words(256, 64).unwrap_err().0;
        assert!(told.contains("64 bytes from byte 256 on are all the same"), "{told}");
        assert!(words(300, 64).unwrap_err().0.starts_with("cannot read the key on /dev/thimble/stick"));
    }
}
