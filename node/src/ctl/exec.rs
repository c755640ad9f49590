//! `thimblectl exec`: a command in a guest reads what we read, and we write what it writes ([`thimble_spec::exec`]).

use std::io::{IsTerminal, stdin, stdout};
use std::process::ExitCode;

use hyper::Method;
use hyper_util::rt::TokioIo;
use thimble_spec::api::EXEC_PROTOCOL;
use thimble_spec::exec::{Command, Frame, Frames};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::signal::unix::{SignalKind, signal};

use super::client::Client;
use super::failure::Failure;
use super::raw::{self, Raw};
use super::words::Exec;

/// The size of a terminal that says none (POSIX, `LINES` and `COLUMNS`, have no default; VT100s had this).
const USUAL: (u16, u16) = (24, 80);

/// Runs it; the exit status is the command's.
///
/// # Errors
/// The node refuses, or the connection ends before the command does.
pub async fn run(client: &Client, exec: &Exec) -> Result<ExitCode, Failure> {
    let has_terminal = stdin().is_terminal() && stdout().is_terminal();
    let terminal = (exec.terminal || (has_terminal && !exec.no_terminal)).then(|| raw::size().unwrap_or(USUAL));
    let mut environment = exec.environment();
    if let (Some(_), Ok(kind)) = (terminal, std::env::var("TERM")) {
        environment.entry("TERM".to_owned()).or_insert(kind);
    }
    let command = Frame::Run(Command { arguments: exec.command.clone(), environment, terminal }).write();
    let command = command.map_err(|_| Failure::usage("the command is longer than 32 KiB".to_owned()))?;

    let path = format!("/v1/guests/{}/exec", exec.guest);
    let headers = [("connection", "upgrade"), ("upgrade", EXEC_PROTOCOL)];
    let response = client.ask(Method::POST, &path, &headers, None).await?;
    let upgraded = hyper::upgrade::on(response).await;
    let upgraded = upgraded.map_err(|error| Failure::failed(format!("the connection was not given: {error}")))?;
    let (from, mut to) = split(TokioIo::new(upgraded));
    to.write_all(&command).await.map_err(|error| gone(&error.to_string()))?;

    let raw = terminal.and_then(|_| Raw::start());
    let outcome = tokio::select! {
        outcome = hear(from, tokio::io::stdout(), tokio::io::stderr()) => outcome,
        error = speak(to, terminal.is_some()) => Err(error),
    };
    drop(raw);
    outcome
}

fn gone(why: &str) -> Failure {
    Failure::nobody(format!("the command was cut off: {why}"))
}

/// Writes what the command writes, until it has ended.
async fn hear(
    mut from: impl AsyncRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
    mut errors: impl AsyncWrite + Unpin,
) -> Result<ExitCode, Failure> {
    let mut frames = Frames::default();
    let mut piece = vec![0; 32 << 10];
    loop {
        let unwritten = |error: std::io::Error| Failure::failed(format!("what it wrote cannot be written: {error}"));
        match frames.take().map_err(|error| gone(&error.to_string()))? {
            Some(Frame::Output(bytes)) => {
                output.write_all(&bytes).await.map_err(unwritten)?;
                output.flush().await.map_err(unwritten)?;
            }
            Some(Frame::Errors(bytes)) => {
                errors.write_all(&bytes).await.map_err(unwritten)?;
                errors.flush().await.map_err(unwritten)?;
            }
            Some(Frame::Ended(status)) => return Ok(ExitCode::from(status)),
            Some(Frame::Refused(status, why)) => return Err(Failure::status(status, why)),
            Some(_) => return Err(gone("the guest says what only we can say")),
            None => match from.read(&mut piece).await {
                Ok(0) => return Err(gone("the guest, its VMM or the node daemon has ended")),
                Ok(count) => frames.feed(&piece[..count]),
                Err(error) => return Err(gone(&error.to_string())),
            },
        }
    }
}

/// Sends what is typed, and the terminal's size when it changes, for as long as there is somebody who takes it.
async fn speak(mut to: impl AsyncWrite + Unpin, has_terminal: bool) -> Failure {
    let mut keys = tokio::io::stdin();
    let mut bytes = [0; 16 << 10];
    // A host without signals keeps the size that it has.
    let mut resized = signal(SignalKind::window_change()).ok().filter(|_| has_terminal);
    let mut typing = true;
    loop {
        let size_changed = async {
            match &mut resized {
                Some(resized) => resized.recv().await,
                None => std::future::pending().await,
            }
        };
        let frame = tokio::select! {
            read = keys.read(&mut bytes), if typing => {
                let count = read.unwrap_or(0);
                typing = count > 0;
                Frame::Input(bytes[..count].to_vec())
            }
            _ = size_changed => match raw::size() {
                Some((rows, columns)) => Frame::Size(rows, columns),
                None => continue,
            },
        };
        let sent = match frame.write() {
            Ok(bytes) => to.write_all(&bytes).await.is_ok() && to.flush().await.is_ok(),
            Err(_) => true,
        };
        if !sent {
            // Whoever hears knows how it ended.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn heard(frames: &[Frame]) -> (Result<ExitCode, Failure>, Vec<u8>, Vec<u8>) {
        let bytes = frames.iter().map(|frame| frame.write().unwrap()).collect::<Vec<_>>().concat();
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let outcome = hear(bytes.as_slice(), &mut output, &mut errors).await;
        (outcome, output, errors)
    }

    #[tokio::test]
    async fn what_it_writes_and_its_end_are_ours() {
        let said = [Frame::Output(b"a".to_vec()), Frame::Errors(b"b".to_vec()), Frame::Ended(7)];
        let (outcome, output, errors) = heard(&said).await;
        assert_eq!((outcome, output, errors), (Ok(ExitCode::from(7)), b"a".to_vec(), b"b".to_vec()));
        let refused = Frame::Refused(127, "cannot start x: not there".to_owned());
        assert_eq!(heard(&[refused]).await.0.unwrap_err().code(), ExitCode::from(127));
        for said in [&[][..], &[Frame::Input(vec![])]] {
            let failure = heard(said).await.0.unwrap_err();
            assert!(failure.to_string().starts_with("the command was cut off: "), "{failure}");
        }
    }
}
