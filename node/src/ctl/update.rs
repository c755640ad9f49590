//! `thimblectl update`: a newer release onto a host that runs, from a file here.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use bytes::Bytes;
use hyper::Method;
use serde_json::Value;
use tokio::sync::mpsc;

use super::client::{self, Client};
use super::failure::Failure;
use crate::api::answer::Content;

/// What is read and sent at a time.
const PIECE: usize = 256 << 10;
/// Pieces that wait to be sent.
const PIECES: usize = 4;
/// The longest line of an answer.
const LINE_MAX: usize = 1 << 20;

/// Sends it, and says what the host says of it.
///
/// # Errors
/// It cannot be read; the host refuses it.
pub async fn run(client: &Client, file: &Path, flags: [(&str, bool); 3]) -> Result<(), Failure> {
    let shown = file.display();
    let opened = File::open(file).and_then(|opened| Ok((opened.metadata()?.is_dir(), opened)));
    let (is_directory, source) = opened.map_err(|error| Failure::failed(format!("{shown}: {error}")))?;
    if is_directory {
        return Err(Failure::failed(format!("{shown} is a directory: name the thimble.update in it")));
    }
    let words: Vec<String> = flags.iter().filter(|(_, set)| *set).map(|(name, _)| format!("{name}=true")).collect();
    let path = format!("/v1/node/update?{}", words.join("&"));
    let (send, pieces) = mpsc::channel(PIECES);
    let reading = std::thread::spawn(move || read(source, &send));
    let headers = [("content-type", "application/octet-stream")];
    let mut answer = client.send(Method::PUT, &path, &headers, Content::Stream(pieces)).await?.into_body();
    let mut text = Vec::new();
    let mut code = None;
    // With the code all is said.
    while code.is_none()
        && let Some(bytes) = client::next(&mut answer).await?
    {
        text.extend_from_slice(&bytes);
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            code = told(&line).or(code);
        }
        if text.len() > LINE_MAX {
            return Err(Failure::failed("the node's answer is not understood".to_owned()));
        }
    }
    match code {
        Some(0) => Ok(()),
        // It has said why.
        Some(_) => Err(Failure::failed("the host has not taken the update".to_owned())),
        None if reading.is_finished() && matches!(reading.join(), Ok(Err(_))) => {
            Err(Failure::failed(format!("{shown} cannot be read to its end")))
        }
        None => Err(Failure::nobody("the node daemon is gone in the middle of it".to_owned())),
    }
}

fn read(mut source: File, send: &mpsc::Sender<Bytes>) -> std::io::Result<()> {
    loop {
        let mut piece = vec![0; PIECE];
        let count = source.read(&mut piece)?;
        piece.truncate(count);
        if count == 0 || send.blocking_send(piece.into()).is_err() {
            return Ok(());
        }
    }
}

/// Says what a line of the answer says; the last one has the exit code.
fn told(line: &[u8]) -> Option<i64> {
    let line: Value = serde_json::from_slice(line).ok()?;
    if let Some(text) = line["err"].as_str() {
        eprintln!("{text}");
    }
    if let Some(text) = line["out"].as_str() {
        println!("{text}");
    }
    line["code"].as_i64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_has_the_code() {
        assert_eq!(told(b"{\"code\":3}\n"), Some(3));
        for line in
            [&b"{\"err\":\"update: writing\"}\n"[..], b"{\"out\":\"update: wrote\"}\n", b"{\"code\":\"x\"}\n", b"\n"]
        {
            assert_eq!(told(line), None);
        }
    }
}
