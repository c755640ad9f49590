//! `thimblectl console`: the terminal becomes a guest's console. First comes what the console's ring holds.

use std::io::{IsTerminal, stdin};

use hyper::Method;
use hyper_util::rt::TokioIo;
use thimble_spec::api::CONSOLE_PROTOCOL;
use tokio::io::{AsyncReadExt, AsyncWriteExt, split};

use super::client::Client;
use super::failure::Failure;
use super::raw::Raw;

/// Ctrl-]: leave.
const ESCAPE: u8 = 0x1d;

/// Copies until the guest ends or Ctrl-] is typed.
///
/// # Errors
/// The node refuses: the guest is off, or somebody types there already.
pub async fn run(client: &Client, guest: &str, read_only: bool, force: bool) -> Result<(), Failure> {
    let method = if read_only { Method::GET } else { Method::POST };
    let path = format!("/v1/guests/{guest}/console{}", if force { "?force=true" } else { "" });
    let headers = [("connection", "upgrade"), ("upgrade", CONSOLE_PROTOCOL)];
    let response = client.ask(method, &path, &headers, None).await?;
    let console = hyper::upgrade::on(response).await;
    let console = console.map_err(|error| Failure::failed(format!("the console was not given: {error}")))?;
    let (mut output, mut input) = split(TokioIo::new(console));

    let people = stdin().is_terminal();
    if people {
        eprintln!("Connected to guest {guest}; Ctrl-] leaves\r");
    }
    let raw = Raw::start();
    let write = async {
        let mut out = tokio::io::stdout();
        let mut bytes = [0; 16 << 10];
        while let Ok(count @ 1..) = output.read(&mut bytes).await {
            if out.write_all(&bytes[..count]).await.is_err() || out.flush().await.is_err() {
                return;
            }
        }
    };
    let read = async {
        let mut keys = tokio::io::stdin();
        let mut bytes = [0; 4096];
        loop {
            let typed = match keys.read(&mut bytes).await {
                // Whoever types no more looks on.
                Ok(0) | Err(_) => return std::future::pending().await,
                Ok(count) => &bytes[..count],
            };
            let end = typed.iter().position(|key| *key == ESCAPE);
            let keys = &typed[..end.unwrap_or(typed.len())];
            if !read_only && (input.write_all(keys).await.is_err() || input.flush().await.is_err()) {
                return std::future::pending().await;
            }
            if end.is_some() {
                return;
            }
        }
    };
    let left = tokio::select! {
        () = write => false,
        () = read => true,
    };
    drop(raw);
    if people {
        eprintln!("\n{}", if left { "Left the console" } else { "The console has ended" });
    }
    Ok(())
}
