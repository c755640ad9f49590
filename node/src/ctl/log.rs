//! `thimblectl log`.

use std::io::{IsTerminal, stdout};

use hyper::Method;
use thimble_spec::console::one_line;

use super::client::Client;
use super::failure::Failure;
use crate::host::logs;

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

/// What the host logged: PID 1 keeps it.
///
/// # Errors
/// PID 1 does not answer.
pub fn host(json: bool) -> Result<(), Failure> {
    logs::parse(&[], false, None, None)
        .map_err(Failure::usage)
        .and_then(|wanted| logs::run(&wanted, json).map_err(|error| Failure::nobody(format!("{error:#}"))))
}
