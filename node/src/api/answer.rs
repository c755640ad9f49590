//! What is answered.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::sync::mpsc;

use super::call::Refusal;

/// The body of an answer.
#[derive(Debug)]
pub enum Content {
    /// All of it.
    Whole(Option<Bytes>),
    /// What comes, as it comes.
    Stream(mpsc::Receiver<Bytes>),
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(bytes) => bytes.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// An answer of this kind.
pub fn whole(status: StatusCode, kind: &'static str, bytes: impl Into<Bytes>) -> Response<Content> {
    let mut response = Response::new(Content::Whole(Some(bytes.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A value as JSON.
///
/// # Errors
/// It holds what JSON cannot say.
pub fn json(status: StatusCode, value: &impl serde::Serialize) -> Result<Response<Content>, Refusal> {
    let mut bytes =
        serde_json::to_vec(value).map_err(|error| Refusal::broken(format!("writing the answer: {error}")))?;
    bytes.push(b'\n');
    Ok(whole(status, "application/json", bytes))
}

/// A stream of this kind.
pub fn stream(kind: &'static str, bytes: mpsc::Receiver<Bytes>) -> Response<Content> {
    let mut response = Response::new(Content::Stream(bytes));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
