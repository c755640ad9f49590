//! Requests to the daemon's API. The transport is a Unix socket; who asks is known by it.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use thimble_spec::api::Problem;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};

use super::failure::Failure;
use crate::api::answer::Content;

/// Most bytes of an answer: a thousand guests take a third of a megabyte.
const ANSWER_MAX: usize = 16 << 20;

/// How long a daemon that died may take to be there again, and the pause between two tries.
const PATIENCE: Duration = Duration::from_secs(20);
const AGAIN: Duration = Duration::from_millis(100);

/// Where to ask.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// At this socket.
    pub fn at(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Connects. A socket at which nobody listens is a dead daemon's: PID 1 is about to start another.
    async fn connect(&self) -> std::io::Result<UnixStream> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match UnixStream::connect(&self.socket).await {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused && Instant::now() < deadline => {
                    sleep(AGAIN).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Asks, and gives the answer, whose body is yet to be read. What is refused is a failure.
    ///
    /// # Errors
    /// Nobody is there, or refuses.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Response<Incoming>, Failure> {
        let stream = self.connect().await.map_err(|error| {
            let socket = self.socket.display();
            Failure::nobody(format!(
                "no node daemon listens at {socket} ({error}): is this a host of Thimble, are you root?"
            ))
        })?;
        let gone =
            |error: hyper::Error| Failure::nobody(format!("the node daemon is gone in the middle of it: {error}"));
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(gone)?;
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder().method(method).uri(path).header("host", "node");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Content::Whole(None));
        let request = request.map_err(|error| Failure::usage(format!("this cannot be asked: {error}")))?;
        let response = sender.send_request(request).await.map_err(gone)?;
        let status = response.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let text = whole(response.into_body()).await?;
        let problem = serde_json::from_slice::<Problem>(&text).map(|problem| problem.error);
        Err(Failure::failed(problem.unwrap_or_else(|_| format!("the node answers {status}"))))
    }

    /// All of an answer.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub async fn text(&self, method: Method, path: &str) -> Result<Vec<u8>, Failure> {
        whole(self.ask(method, path, &[]).await?.into_body()).await
    }

    /// An answer that is JSON, with the text that it was.
    ///
    /// # Errors
    /// As [`Self::ask`]; or it is something else.
    pub async fn json<T: DeserializeOwned>(&self, method: Method, path: &str) -> Result<(T, String), Failure> {
        let text = self.text(method, path).await?;
        let value = serde_json::from_slice(&text)
            .map_err(|error| Failure::failed(format!("the node's answer is not understood: {error}")))?;
        Ok((value, String::from_utf8_lossy(&text).trim_end().to_owned()))
    }
}

/// The next bytes of a body; none at its end.
///
/// # Errors
/// The other end is gone.
pub async fn next(body: &mut Incoming) -> Result<Option<Bytes>, Failure> {
    loop {
        match poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await {
            None => return Ok(None),
            Some(Ok(frame)) => {
                if let Ok(bytes) = frame.into_data() {
                    return Ok(Some(bytes));
                }
            }
            Some(Err(error)) => return Err(Failure::nobody(format!("the node daemon is gone: {error}"))),
        }
    }
}

async fn whole(mut body: Incoming) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    while let Some(bytes) = next(&mut body).await? {
        text.extend_from_slice(&bytes);
        if text.len() > ANSWER_MAX {
            return Err(Failure::failed(format!("the node's answer is longer than {ANSWER_MAX} bytes")));
        }
    }
    Ok(text)
}
