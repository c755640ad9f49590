//! As much of an HTTP client as a test needs.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// How long one request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(20);
/// Pause before the next try.
const PAUSE: Duration = Duration::from_millis(300);

/// Fetches `path` from a port of 127.0.0.1, and gives the body; tries again until `limit`, for a forwarded port accepts
/// connections before the guest behind it does.
///
/// # Errors
/// What went wrong at the last try.
pub fn get(port: u16, path: &str, limit: Duration) -> Result<String> {
    let deadline = Instant::now() + limit;
    loop {
        match get_once(port, path) {
            Err(_) if Instant::now() < deadline => std::thread::sleep(PAUSE),
            result => return result.with_context(|| format!("GET {path} from port {port}")),
        }
    }
}

fn get_once(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), REQUEST_LIMIT)?;
    stream.set_read_timeout(Some(REQUEST_LIMIT))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: guest\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { bail!("no answer: {answer:?}") };
    let status = head.lines().next().unwrap_or_default();
    ensure!(status.split(' ').nth(1) == Some("200"), "{status}");
    Ok(body.to_owned())
}

/// `curl URL`, with more words, quietly.
///
/// # Panics
/// It is not installed.
pub fn curl(words: &[&str], url: &str) -> std::process::Output {
    let mut command = std::process::Command::new("curl");
    command.args(["--silent", "--max-time", "30"]).args(words).arg(url);
    command.output().expect("curl starts: see scripts/setup")
}
