//! `thimblectl log`.

use std::io::{IsTerminal, stdout};

use hyper::Method;
use thimble_spec::console::one_line;
use thimble_spec::host::Logs;

use super::client::Client;
use super::failure::Failure;
use crate::host::logs;

/// Many more lines than PID 1 keeps.
const LINES_MAX: usize = 100_000;
/// Most bytes of a line that a terminal is shown.
const LINE_MAX: usize = 4096;

/// What a guest wrote to its console. On a terminal it moves no cursor.
///
/// # Errors
/// It is off.
pub async fn guest(client: &Client, guest: &str) -> Result<String, Failure> {
    let bytes = client.text(Method::GET, &format!("/v1/guests/{guest}/log")).await?;
    let text = String::from_utf8_lossy(&bytes);
    if !stdout().is_terminal() {
        return Ok(text.into_owned());
    }
    Ok(text.lines().map(|line| one_line(line, LINE_MAX) + "\n").collect())
}

/// What the host logged, as its daemon tells it.
///
/// # Errors
/// Nobody is there, or PID 1 does not answer.
pub async fn of_node(client: &Client) -> Result<Vec<String>, Failure> {
    let mut lines = Vec::new();
    let mut from = 0;
    loop {
        let (logs, _): (Logs, _) = client.json(Method::GET, &format!("/v1/node/log?from={from}")).await?;
        lines.extend(logs.lines.iter().map(logs::shown));
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
