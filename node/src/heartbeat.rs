//! The daemon's sign of life to PID 1, whose watchdog depends on it: one line now and then, written by the same loop that
//! keeps the guests.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use thimble_spec::appliance::Watchdog;
use thimble_spec::host::{LINE_MAX, Request, VERSION, Verb};
use thimble_spec::json::Json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use crate::say;

/// How long PID 1 may take to answer.
const LIMIT: Duration = Duration::from_secs(10);

/// Says for ever that the daemon is well: four times in the time that it may be silent.
pub async fn beat_for_ever(watchdog: Watchdog, socket: &Path) {
    let interval = Duration::from_millis(u64::from(watchdog.node_s) * 250);
    let mut told = false;
    loop {
        if let Err(error) = beat(socket).await
            && !std::mem::replace(&mut told, true)
        {
            say::error(&format!("PID 1 cannot be told that the node daemon is well: {error:#}"));
        }
        sleep(interval).await;
    }
}

async fn beat(socket: &Path) -> Result<()> {
    let mut stream = BufReader::new(UnixStream::connect(socket).await.context("connecting to PID 1")?);
    let mut line = Request { v: VERSION, verb: Verb::Heartbeat }.to_json()?;
    line.push(b'\n');
    let answer = async {
        stream.get_mut().write_all(&line).await?;
        let mut answer = String::new();
        (&mut stream).take(LINE_MAX as u64).read_line(&mut answer).await?;
        ensure!(answer.contains("\"ok\""), "PID 1 says {answer}");
        Ok(())
    };
    timeout(LIMIT, answer).await.context("PID 1 does not answer")?
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    #[tokio::test]
    async fn a_beat_is_a_request_that_pid_1_knows() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let peer = tokio::spawn(async move {
            let mut peer = BufReader::new(listener.accept().await.unwrap().0);
            let mut line = String::new();
            peer.read_line(&mut line).await.unwrap();
            peer.get_mut().write_all(b"{\"v\":1,\"ok\":\"done\"}\n").await.unwrap();
            line
        });
        beat(&path).await.unwrap();
        let request: Request = serde_json::from_str(&peer.await.unwrap()).unwrap();
        assert_eq!(request.verb, Verb::Heartbeat);
        assert!(beat(&directory.path().join("nobody")).await.is_err());
    }
}
