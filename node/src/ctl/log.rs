//! `thimblectl log`. For programs it is an object a line, whoever wrote it and wherever it is asked for: all have `source` and
//! `text`, and those of the host what its log knows beside ([`LogLine`]).

use std::io::{IsTerminal, stdout};

use hyper::Method;
use serde::Serialize;
use thimble_spec::console::one_line;
use thimble_spec::host::{LogLine, Logs};

use super::client::Client;
use super::failure::Failure;
use crate::host::logs;

/// Many more lines than PID 1 keeps.
const LINES_MAX: usize = 100_000;
/// Most bytes of a line that a terminal is shown.
const LINE_MAX: usize = 4096;

/// A line of a guest's console, as far as its words go like one of the host's log: when it was written, nobody noted.
#[derive(Debug, Serialize)]
struct ConsoleLine<'a> {
    source: &'a str,
    text: &'a str,
}

/// What a guest wrote to its console. On a terminal it moves no cursor.
///
/// # Errors
/// It is off.
pub async fn guest(client: &Client, guest: &str, json: bool) -> Result<String, Failure> {
    let bytes = client.text(Method::GET, &format!("/v1/guests/{guest}/log")).await?;
    let text = String::from_utf8_lossy(&bytes);
    if json {
        return text.lines().map(|line| object(&ConsoleLine { source: guest, text: line })).collect();
    }
    if !stdout().is_terminal() {
        return Ok(text.into_owned());
    }
    Ok(text.lines().map(|line| one_line(line, LINE_MAX) + "\n").collect())
}

/// Lines of the host's log.
///
/// # Errors
/// A line is none: not of those that are read here.
pub fn text(lines: &[LogLine], json: bool) -> Result<String, Failure> {
    if json {
        return lines.iter().map(object).collect();
    }
    Ok(lines.iter().map(|line| logs::shown(line) + "\n").collect())
}

/// On a line of its own.
fn object(line: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(line).map(|text| text + "\n").map_err(|error| Failure::failed(error.to_string()))
}

/// What the host logged, as its daemon tells it.
///
/// # Errors
/// Nobody is there, or PID 1 does not answer.
pub async fn of_node(client: &Client) -> Result<Vec<LogLine>, Failure> {
    let mut lines = Vec::new();
    let mut from = 0;
    loop {
        let (logs, _): (Logs, _) = client.json(Method::GET, &format!("/v1/node/log?from={from}")).await?;
        lines.extend(logs.lines);
        // What comes faster than it is read would never end.
        if !logs.more || logs.next <= from || lines.len() > LINES_MAX {
            return Ok(lines);
        }
        from = logs.next;
    }
}

/// What the host logged: PID 1 keeps it.
///
/// # Errors
/// PID 1 does not answer.
pub fn host(json: bool) -> Result<(), Failure> {
    logs::parse(&[], false, None, None)
        .map_err(Failure::usage)
        .and_then(|wanted| logs::run(&wanted, json).map_err(|error| Failure::nobody(format!("{error:#}"))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use thimble_spec::host::Level;

    #[test]
    fn lines_for_programs_have_the_same_shape() {
        let host =
            LogLine { number: 7, ms: 5140, level: Level::Error, source: "kernel".into(), text: "sda: gone".into() };
        let host = text(&[host.clone(), host], true).unwrap();
        let guest = object(&ConsoleLine { source: "web1", text: "\u{1b}[2Jready \"now\"" }).unwrap();
        assert_eq!(guest, "{\"source\":\"web1\",\"text\":\"\\u001b[2Jready \\\"now\\\"\"}\n");
        let all = format!("{host}{guest}");
        let lines: Vec<Value> = all.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line["source"].is_string() && line["text"].is_string()), "{all}");
        assert_eq!(
            (&lines[0]["number"], &lines[0]["ms"], &lines[0]["level"]),
            (&7.into(), &5140.into(), &"error".into())
        );
    }
}
