//! A request that was understood, and one that is refused.

use std::future::poll_fn;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONNECTION, HeaderName, HeaderValue, RETRY_AFTER, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use thimble_spec::api::Problem;
use thimble_spec::appliance::Guest;
use tokio::time::timeout;

use super::Api;
use super::answer::{self, Content};
use super::peer::{Peer, Role};
use crate::definitions::without_secrets;

/// How long a client may take to send a body.
const BODY_TIME: Duration = Duration::from_secs(30);

/// A request.
#[derive(Debug)]
pub struct Call {
    /// What stands in the path for the names in braces, in their order.
    pub parameters: Vec<String>,
    /// The request itself.
    pub request: Request<Incoming>,
    /// Who asks.
    pub peer: Peer,
    /// What there is to ask about.
    pub api: Arc<Api>,
}

impl Call {
    /// The first name in the path.
    pub fn name(&self) -> &str {
        self.parameters.first().map_or("", String::as_str)
    }

    /// A definition, as far as who asks may see it.
    pub fn shown(&self, guest: &Arc<Guest>) -> Arc<Guest> {
        match self.peer.may(Role::Admin) {
            Ok(()) => Arc::clone(guest),
            Err(_) => Arc::new(without_secrets(guest)),
        }
    }

    /// What a header says; nothing is empty.
    ///
    /// # Errors
    /// It is no text.
    pub fn header(&self, name: &HeaderName) -> Result<&str, Refusal> {
        let value = self.request.headers().get(name).map(HeaderValue::to_str).unwrap_or(Ok(""));
        value.map_err(|_| Refusal::wrong(format!("the header {name} is no text")))
    }

    /// All of the body, of so many bytes at most.
    ///
    /// # Errors
    /// It is longer, or does not come.
    pub async fn body(&mut self, most: usize) -> Result<Vec<u8>, Refusal> {
        let body = self.request.body_mut();
        let large = || Refusal {
            status: StatusCode::PAYLOAD_TOO_LARGE,
            sentence: format!("a body has {most} bytes at most here"),
        };
        if body.size_hint().lower() > most as u64 {
            return Err(large());
        }
        let read = async {
            let mut all = Vec::new();
            while let Some(bytes) = piece(body).await {
                all.extend(bytes.map_err(|error| Refusal::wrong(format!("the body does not come: {error}")))?);
                if all.len() > most {
                    return Err(large());
                }
            }
            Ok(all)
        };
        let late = |_| Refusal { status: StatusCode::REQUEST_TIMEOUT, sentence: "the body does not come".to_owned() };
        timeout(BODY_TIME, read).await.map_err(late)?
    }

    /// Whether the client wants the connection to speak `protocol` (RFC 9110, 7.8), as it must for `what`.
    ///
    /// # Errors
    /// It does not.
    pub fn becomes(&self, protocol: &str, what: &str) -> Result<(), Refusal> {
        if self.request.headers().get(UPGRADE).is_some_and(|wanted| wanted == protocol) {
            return Ok(());
        }
        let sentence = format!("{what} is reached by the header Upgrade: {protocol}");
        Err(Refusal { status: StatusCode::UPGRADE_REQUIRED, sentence })
    }

    /// The answer after which the connection speaks another protocol, as `speak` does.
    pub fn switch<F>(
        &mut self,
        protocol: &'static str,
        speak: impl FnOnce(Upgraded) -> F + Send + 'static,
    ) -> Response<Content>
    where
        F: Future<Output = ()> + Send,
    {
        let upgrade = hyper::upgrade::on(&mut self.request);
        tokio::spawn(async move {
            if let Ok(client) = upgrade.await {
                speak(client).await;
            }
        });
        let mut response = Response::new(Content::Whole(None));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static(protocol));
        response
    }

    /// What the query says of `key`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn query<T: FromStr>(&self, key: &str) -> Result<Option<T>, Refusal> {
        query(self.request.uri().query().unwrap_or_default(), key)
    }
}

/// The next piece of a body; none at its end.
pub async fn piece(body: &mut Incoming) -> Option<Result<Bytes, hyper::Error>> {
    loop {
        let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await?;
        match frame.map(Frame::into_data) {
            Ok(Ok(bytes)) => return Some(Ok(bytes)),
            // Trailers are nobody's business.
            Ok(Err(_)) => {}
            Err(error) => return Some(Err(error)),
        }
    }
}

/// What `text`, `KEY=VALUE&...`, says of `key`. Values are numbers and words: nothing is escaped.
///
/// # Errors
/// It cannot be read.
pub fn query<T: FromStr>(text: &str, key: &str) -> Result<Option<T>, Refusal> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    let Some((_, value)) = pairs.into_iter().find(|(name, _)| *name == key) else { return Ok(None) };
    match value.parse() {
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(Refusal::wrong(format!("`{}` cannot be the value of {key}", value.escape_debug()))),
    }
}

/// A request says all in its head, but for what is put.
///
/// # Errors
/// It has a body.
pub fn without_body<B: Body>(request: &Request<B>) -> Result<(), Refusal> {
    if request.body().is_end_stream() {
        return Ok(());
    }
    let sentence = "this has no body: all is said in its path and its query".to_owned();
    Err(Refusal { status: StatusCode::PAYLOAD_TOO_LARGE, sentence })
}

/// Why a request is refused.
#[derive(Debug)]
pub struct Refusal {
    /// By number.
    pub status: StatusCode,
    /// In words.
    pub sentence: String,
}

impl Refusal {
    /// It says something that cannot be.
    pub fn wrong(sentence: String) -> Self {
        Self { status: StatusCode::BAD_REQUEST, sentence }
    }

    /// Who asks may not.
    pub fn forbidden(sentence: String) -> Self {
        Self { status: StatusCode::FORBIDDEN, sentence }
    }

    /// There is no such thing.
    pub fn missing(sentence: &str) -> Self {
        Self { status: StatusCode::NOT_FOUND, sentence: sentence.to_owned() }
    }

    /// It cannot be done as things are.
    pub fn conflict(sentence: String) -> Self {
        Self { status: StatusCode::CONFLICT, sentence }
    }

    /// Somebody else was faster.
    pub fn stale(sentence: String) -> Self {
        Self { status: StatusCode::PRECONDITION_FAILED, sentence }
    }

    /// Something is wrong on the node.
    pub fn broken(sentence: String) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, sentence }
    }

    /// Too much is asked.
    pub fn too_many() -> Self {
        let sentence = "so many requests a second are not answered on one connection: slow down".to_owned();
        Self { status: StatusCode::TOO_MANY_REQUESTS, sentence }
    }

    /// It can be done later.
    pub fn busy(sentence: &str) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, sentence: sentence.to_owned() }
    }

    /// As an answer.
    pub fn response(self) -> Response<Content> {
        let problem = Problem { error: self.sentence };
        // A sentence has nothing in it that JSON could not say.
        let text = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = answer::whole(self.status, "application/json", text);
        if [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&self.status) {
            // Seconds.
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_query_is_pairs() {
        assert_eq!(query("wait_s=5&mode=write", "wait_s").unwrap(), Some(5));
        assert_eq!(query("wait_s=5&mode=write", "mode").unwrap(), Some("write".to_owned()));
        assert_eq!(query::<u64>("wait_s", "wait_s").unwrap(), None);
        assert_eq!(query::<u64>("wait_s=-1", "wait_s").unwrap_err().status, StatusCode::BAD_REQUEST);
    }

    proptest! {
        #[test]
        fn any_query_is_safe(text in ".*", key in ".*") {
            let _ = query::<u64>(&text, &key);
        }
    }
}
