//! Requests to the daemon's API: at the Unix socket of this host, or at another host over TLS. By either it is known who asks.

use std::error::Error;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::header::ETAG;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use thimble_spec::api::Problem;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};

use super::failure::Failure;
use super::remote::Remote;
use super::words::Where;
use crate::api::answer::Content;

/// Most bytes of an answer: a thousand guests take a third of a megabyte.
const ANSWER_MAX: usize = 16 << 20;

/// How long a daemon that died may take to be there again, and the pause between two tries.
const PATIENCE: Duration = Duration::from_secs(20);
const AGAIN: Duration = Duration::from_millis(100);

/// Where to ask.
#[derive(Clone, Debug)]
pub enum Client {
    /// This host, at a socket.
    Here(PathBuf),
    /// Another one.
    There(Remote),
}

/// The other end of a connection.
type Sender = http1::SendRequest<Content>;

impl Client {
    /// At this socket.
    #[cfg(test)]
    pub fn at(socket: &Path) -> Self {
        Self::Here(socket.to_owned())
    }

    /// Where the command line says.
    ///
    /// # Errors
    /// The certificate for it is not there, or wrong.
    pub fn of(place: &Where) -> Result<Self, Failure> {
        match &place.host {
            Some(host) => Remote::of(host, place).map(Self::There),
            None => Ok(Self::Here(place.socket.clone())),
        }
    }

    /// Whether this host is asked.
    pub fn is_here(&self) -> bool {
        matches!(self, Self::Here(_))
    }

    /// The host that is asked over the network, with the port if that was said.
    pub fn authority(&self) -> Option<&str> {
        match self {
            Self::Here(_) => None,
            Self::There(remote) => Some(remote.authority()),
        }
    }

    async fn connect(&self) -> Result<Sender, Failure> {
        match self {
            Self::Here(socket) => {
                let stream = knock(socket).await.map_err(|error| {
                    let socket = socket.display();
                    Failure::nobody(format!(
                        "no node daemon listens at {socket} ({error}): is this a host of Thimble, are you root? --host \
                         NAME asks another one"
                    ))
                })?;
                self.converse(stream).await
            }
            Self::There(remote) => {
                let stream = remote.connect().await.map_err(|error| {
                    let authority = remote.authority();
                    Failure::nobody(format!("no node daemon is reached at {authority}: {error}"))
                })?;
                self.converse(stream).await
            }
        }
    }

    async fn converse<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, stream: S) -> Result<Sender, Failure> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.gone(&error))?;
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }

    /// It is gone in the middle of it. A node that refuses a certificate does so after the client's side of the handshake.
    fn gone(&self, error: &hyper::Error) -> Failure {
        let mut cause: Option<&dyn Error> = Some(error);
        while let Some(error) = cause {
            let alert = error.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref());
            if let Some(rustls::Error::AlertReceived(alert)) = alert.and_then(|error| error.downcast_ref()) {
                return Failure::failed(format!(
                    "the node refuses this certificate ({alert:?}): it takes those that its own authority has signed"
                ));
            }
            cause = error.source();
        }
        Failure::nobody(format!("the node daemon is gone in the middle of it: {error}"))
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
        body: Option<Vec<u8>>,
    ) -> Result<Response<Incoming>, Failure> {
        self.send(method, path, headers, Content::Whole(body.map(Bytes::from))).await
    }

    /// The same with a body that is yet to come.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Content,
    ) -> Result<Response<Incoming>, Failure> {
        let mut sender = self.connect().await?;
        let host = self.authority().unwrap_or("node");
        let mut request = Request::builder().method(method).uri(path).header("host", host);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body);
        let request = request.map_err(|error| Failure::usage(format!("this cannot be asked: {error}")))?;
        let response = sender.send_request(request).await.map_err(|error| self.gone(&error))?;
        let status = response.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let text = whole(response.into_body()).await?;
        let problem = serde_json::from_slice::<Problem>(&text).map(|problem| problem.error);
        let sentence = problem.unwrap_or_else(|_| format!("the node answers {status}"));
        Err(match status {
            StatusCode::PRECONDITION_FAILED => Failure::stale(sentence),
            _ => Failure::failed(sentence),
        })
    }

    /// All of an answer.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub async fn text(&self, method: Method, path: &str) -> Result<Vec<u8>, Failure> {
        whole(self.ask(method, path, &[], None).await?.into_body()).await
    }

    /// An answer that is JSON, with the text that it was.
    ///
    /// # Errors
    /// As [`Self::ask`]; or it is something else.
    pub async fn json<T: DeserializeOwned>(&self, method: Method, path: &str) -> Result<(T, String), Failure> {
        understood(&self.text(method, path).await?)
    }

    /// What is there, as JSON, and its `ETag`.
    ///
    /// # Errors
    /// As [`Self::ask`]; or it is something else.
    pub async fn tagged(&self, path: &str) -> Result<(Value, String), Failure> {
        let response = self.ask(Method::GET, path, &[], None).await?;
        let tag = response.headers().get(ETAG).and_then(|tag| tag.to_str().ok()).unwrap_or_default().to_owned();
        let (value, _) = understood(&whole(response.into_body()).await?)?;
        Ok((value, tag))
    }

    /// Puts JSON there, and gives the answer.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        text: Vec<u8>,
    ) -> Result<(T, String), Failure> {
        let response = self.ask(Method::PUT, path, headers, Some(text)).await?;
        understood(&whole(response.into_body()).await?)
    }
}

fn understood<T: DeserializeOwned>(text: &[u8]) -> Result<(T, String), Failure> {
    let value = serde_json::from_slice(text)
        .map_err(|error| Failure::failed(format!("the node's answer is not understood: {error}")))?;
    Ok((value, String::from_utf8_lossy(text).trim_end().to_owned()))
}

/// Connects. A socket at which nobody listens is a dead daemon's: PID 1 is about to start another.
async fn knock(socket: &Path) -> std::io::Result<UnixStream> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(socket).await {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused && Instant::now() < deadline => {
                sleep(AGAIN).await;
            }
            outcome => return outcome,
        }
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
