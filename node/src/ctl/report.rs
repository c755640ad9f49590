//! `thimblectl report`: all that a node tells of itself, in one file for whoever is to find out what is wrong with it.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::Method;
use serde_json::{Map, Value, json};
use thimble_spec::api::guest::Guests;

use super::client::Client;
use super::failure::Failure;
use super::log;
use crate::host::logs;
use crate::syslog::format::timestamp;

/// What stands for a secret.
const LEFT_OUT: &str = "(left out)";
/// A part of a key's name, of which the value is nobody's business.
const SECRET: [&str; 5] = ["environment", "password", "private", "secret", "token"];

/// Asks for everything and writes it to a file, or to the standard output for `-`. What the node does not tell is told, too:
/// a report is made when something is broken.
///
/// # Errors
/// Nobody is there; the file is there already, or cannot be written.
pub async fn run(client: &Client, output: Option<&Path>, json: bool) -> Result<String, Failure> {
    let (node, _): (Value, _) = client.json(Method::GET, "/v1/node").await?;
    let name = client.authority().or(node["name"].as_str()).unwrap_or("node").to_owned();
    let path = output.map_or_else(|| PathBuf::from(format!("{}-report.json", file_name(&name))), Path::to_owned);
    let report = gather(client, node).await;
    let mut text = serde_json::to_string_pretty(&report).map_err(|error| Failure::failed(error.to_string()))?;
    text.push('\n');
    if path == Path::new("-") {
        return Ok(text);
    }
    write(&path, text.as_bytes()).map_err(|error| Failure::failed(format!("{}: {error}", path.display())))?;
    let size = text.len();
    Ok(if json {
        json!({ "report": path, "bytes": size }).to_string()
    } else {
        format!("{} ({size} bytes): read it before you give it away", path.display())
    })
}

async fn gather(client: &Client, node: Value) -> Value {
    let mut report = Map::new();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    report.insert("made".to_owned(), timestamp(now).into());
    report.insert("thimblectl".to_owned(), env!("CARGO_PKG_VERSION").into());
    report.insert("node".to_owned(), node);
    for (name, path) in [
        ("sysinfo", "/v1/node/sysinfo"),
        ("hardware", "/v1/node/hardware"),
        ("networks", "/v1/node/networks"),
        ("tasks", "/v1/tasks"),
        ("audit", "/v1/audit"),
    ] {
        report.insert(name.to_owned(), asked(client, path).await);
    }
    let guests = match client.json::<Guests>(Method::GET, "/v1/guests").await {
        Ok((guests, _)) => {
            let mut all = Map::new();
            for guest in guests.guests {
                let mut one = Map::new();
                for (name, path) in [("detail", ""), ("config", "/config"), ("stats", "/stats")] {
                    one.insert(name.to_owned(), asked(client, &format!("/v1/guests/{}{path}", guest.name)).await);
                }
                all.insert(guest.name, one.into());
            }
            all.into()
        }
        Err(failure) => error(&failure),
    };
    report.insert("guests".to_owned(), guests);
    let log = log::of_node(client).await;
    let log = log.map(|lines| lines.iter().map(logs::shown).map(Value::from).collect());
    report.insert("log".to_owned(), log.unwrap_or_else(|failure| error(&failure)));
    let metrics = client.text(Method::GET, "/metrics").await.map(|text| String::from_utf8_lossy(&text).into_owned());
    let metrics = metrics.map(|text| text.lines().map(Value::from).collect());
    report.insert("metrics".to_owned(), metrics.unwrap_or_else(|failure| error(&failure)));
    let mut report = Value::Object(report);
    leave_out(&mut report);
    report
}

async fn asked(client: &Client, path: &str) -> Value {
    match client.json(Method::GET, path).await {
        Ok((value, _)) => value,
        Err(failure) => error(&failure),
    }
}

fn error(failure: &Failure) -> Value {
    json!({ "error": failure.to_string() })
}

/// Takes the values of keys whose names promise secrets.
fn leave_out(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if !value.is_null() && SECRET.iter().any(|part| key.to_lowercase().contains(part)) {
                    *value = LEFT_OUT.into();
                } else {
                    leave_out(value);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(leave_out),
        _ => {}
    }
}

/// A host's name as a file's.
fn file_name(host: &str) -> String {
    let sound = |c: char| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '-' };
    host.trim_start_matches('.').chars().map(sound).collect()
}

/// Writes a file that is not there yet, for its owner only; a part of it stays for nobody.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).inspect_err(|_| {
        let _ = fs::remove_file(path);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_left_out_wherever_they_are() {
        let mut value =
            json!({ "a": [{ "Environment": { "X": "y" }, "keep": 1 }], "password": null, "db_password": "x" });
        leave_out(&mut value);
        assert_eq!(
            value,
            json!({ "a": [{ "Environment": LEFT_OUT, "keep": 1 }], "password": null, "db_password": LEFT_OUT })
        );
    }

    #[test]
    fn a_file_is_named_after_the_host_and_written_once() {
        assert_eq!(file_name("../[fd00::1]:7443"), "--fd00--1--7443");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a-report.json");
        write(&path, b"one").unwrap();
        assert_eq!(write(&path, b"two").unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"one");
    }
}
