//! `thimblectl edit`: a definition in an editor. What the node refuses is not lost, and neither is what somebody else has changed
//! meanwhile: both are brought together, and where both changed the same, it is told.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, IsTerminal, Write, stdin, stdout};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value};
use thimble_spec::api::guest::Definition;

use super::client::Client;
use super::define::{path, told};
use super::failure::Failure;

/// The editor, if neither $VISUAL nor $EDITOR names one.
const EDITOR: &str = "vi";

/// Edits it until the node takes it, or nobody wants to go on.
///
/// # Errors
/// The node refuses, and nobody wants to go on: the text is in the file that the failure names.
pub async fn run(client: &Client, guest: &str, json: bool) -> Result<(), Failure> {
    let path = path(guest);
    let (mut base, mut tag) = client.tagged(&path).await?;
    let file = create(guest, &base)?;
    loop {
        edit(&file)?;
        let text = fs::read(&file).map_err(|error| failed("reading", &file, &error))?;
        let mine = serde_json::from_slice::<Value>(&text);
        if mine.as_ref().is_ok_and(|mine| *mine == base) {
            let _ = fs::remove_file(&file);
            println!("guest {guest} is left as it is");
            return Ok(());
        }
        let refusal = match client.put::<Definition>(&path, &[("if-match", &tag)], text).await {
            Ok((done, text)) => {
                let _ = fs::remove_file(&file);
                println!("{}", if json { text } else { told(&done) });
                return Ok(());
            }
            Err(failure) => failure,
        };
        eprintln!("thimblectl: {refusal}");
        if let (true, Ok(mine)) = (refusal.is_stale(), mine) {
            let (theirs, their_tag) = client.tagged(&path).await?;
            let mut both = Vec::new();
            let merged = merge(&base, &mine, &theirs, "", &mut both);
            for conflict in both {
                eprintln!("thimblectl: {conflict}");
            }
            write(&file, &merged)?;
            (base, tag) = (theirs, their_tag);
        }
        if !again(&file) {
            return Err(Failure::failed(format!("nothing is changed; your text is in {}", file.display())));
        }
    }
}

/// Whether somebody is there, and wants to go on.
fn again(file: &Path) -> bool {
    if !stdin().is_terminal() {
        return false;
    }
    print!("Edit {} again? [Y/n] ", file.display());
    let _ = stdout().flush();
    let mut line = String::new();
    // Nobody, or somebody who is gone, does not.
    matches!(stdin().lock().read_line(&mut line), Ok(1..)) && !line.trim_start().to_lowercase().starts_with('n')
}

fn failed(doing: &str, file: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("{doing} {}: {error}", file.display()))
}

/// A file of one's own, with the definition in it.
fn create(guest: &str, definition: &Value) -> Result<PathBuf, Failure> {
    let directory = std::env::temp_dir();
    let mut number = std::process::id();
    loop {
        let file = directory.join(format!("thimble-{guest}-{number}.json"));
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file) {
            Ok(open) => {
                fill(open, definition).map_err(|error| failed("writing", &file, &error))?;
                return Ok(file);
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number = number.wrapping_add(1),
            Err(error) => return Err(failed("making", &file, &error)),
        }
    }
}

fn write(file: &Path, definition: &Value) -> Result<(), Failure> {
    File::create(file).and_then(|open| fill(open, definition)).map_err(|error| failed("writing", file, &error))
}

fn fill(mut file: File, definition: &Value) -> std::io::Result<()> {
    file.write_all(&serde_json::to_vec_pretty(definition)?)?;
    file.write_all(b"\n")
}

/// The words of $VISUAL or $EDITOR, and the file behind them; no shell reads it.
fn edit(file: &Path) -> Result<(), Failure> {
    let named = ["VISUAL", "EDITOR"].iter().filter_map(std::env::var_os).find(|words| !words.is_empty());
    let words = named.unwrap_or_else(|| OsString::from(EDITOR));
    let words = words.to_string_lossy();
    let mut words = words.split_whitespace();
    let program = words.next().unwrap_or(EDITOR);
    let status = Command::new(program).args(words).arg(file).status();
    let kept = || format!("your text is in {}", file.display());
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::failed(format!("the editor {program} ended with {status}; {}", kept()))),
        Err(error) => {
            Err(Failure::failed(format!("the editor {program} cannot be started ({error}): set EDITOR; {}", kept())))
        }
    }
}

/// What both have made of `base`. Where both changed the same in different ways, `mine` goes, and it is told.
fn merge(base: &Value, mine: &Value, theirs: &Value, path: &str, both: &mut Vec<String>) -> Value {
    if mine == theirs || theirs == base {
        return mine.clone();
    }
    if mine == base {
        return theirs.clone();
    }
    if let (Value::Object(one), Value::Object(other)) = (mine, theirs) {
        let mut merged = Map::new();
        let mut keys: Vec<&String> = one.keys().collect();
        keys.extend(other.keys().filter(|key| !one.contains_key(*key)));
        for key in keys {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            let of = |it: &Map<String, Value>| it.get(key).cloned().unwrap_or_default();
            let value = merge(base.get(key).unwrap_or(&Value::Null), &of(one), &of(other), &path, both);
            merged.insert(key.clone(), value);
        }
        return Value::Object(merged);
    }
    both.push(format!("{path}: they have made it {theirs}, and you {mine}: yours is in the text"));
    mine.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn changes_of_two_are_brought_together() {
        let base = json!({"vcpus": 1, "autostart": true, "disk": {"limits": {"a": 1, "b": null}}});
        let mut mine = base.clone();
        (mine["vcpus"], mine["disk"]["limits"]["b"]) = (json!(2), json!(5));
        let mut theirs = base.clone();
        (theirs["autostart"], theirs["disk"]["limits"]["a"]) = (json!(false), json!(3));
        let mut both = Vec::new();
        let merged = merge(&base, &mine, &theirs, "", &mut both);
        assert_eq!(merged, json!({"vcpus": 2, "autostart": false, "disk": {"limits": {"a": 3, "b": 5}}}));
        assert!(both.is_empty());
        theirs["vcpus"] = json!(4);
        assert_eq!(merge(&base, &mine, &theirs, "", &mut both)["vcpus"], 2);
        assert_eq!(both, ["vcpus: they have made it 4, and you 2: yours is in the text"]);
        // Somebody took the disk away, and somebody else changed it.
        theirs["disk"] = json!(null);
        both.clear();
        assert_eq!(merge(&base, &mine, &theirs, "", &mut both)["disk"], mine["disk"]);
        assert!(both[0].starts_with("disk: they have made it null"), "{both:?}");
    }
}
