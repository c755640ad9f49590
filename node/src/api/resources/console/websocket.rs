//! A console for browsers: a WebSocket (RFC 6455) instead of our own protocol, with the same seats. Binary messages are the
//! console's bytes, both ways; a text from here is a sentence about it. A script is not told why an upgrade is refused, so the
//! connection is opened all the same, says why, and is closed with 4000 and the status of the refusal.
//!
//! Any page can open one in the name of whoever looks at it, and read: the policy of same origins does not hold for WebSockets
//! (RFC 6455, 10.2). So each is held to its origin ([`crate::api::peer::of_this_site`]), and one that types to the role
//! for that.

use std::future::pending;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::SplitStream;
use futures_util::{SinkExt, StreamExt};
use hyper::header::{HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, DuplexStream, WriteHalf, duplex, split,
};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::interval;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};

use super::{Seat, connect, look};
use crate::api::answer::Content;
use crate::api::call::{self, Call, Refusal};

/// What stands in the header `Upgrade`.
const PROTOCOL: &str = "websocket";
/// The version of RFC 6455, section 4.1.
const VERSION: &str = "13";
/// Bytes of a message from a browser, at most: what is pasted.
const MESSAGE_MAX: usize = 64 << 10;
/// Bytes of a message to it, and what waits there.
const PIECE: usize = 16 << 10;
/// How often it is asked whether it is still there.
const PING: Duration = Duration::from_secs(30);
/// What one is told whose place somebody else took.
const DEPOSED: &str = "somebody else types here now: you look on";

/// Whether a WebSocket is asked for.
pub fn is_asked(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(PROTOCOL.as_bytes()))
}

/// Whether one is asked for to type there, which takes more than looking does.
pub fn types<B>(request: &Request<B>) -> bool {
    let says = |key| call::query(request.uri().query().unwrap_or_default(), key).ok().flatten().unwrap_or(false);
    is_asked(request.headers()) && (says("write") || says("force"))
}

/// The connection becomes one.
///
/// # Errors
/// It is not asked for as the RFC says.
pub async fn open(mut call: Call) -> Result<Response<Content>, Refusal> {
    if call.header(&SEC_WEBSOCKET_VERSION)? != VERSION {
        let sentence = format!("a WebSocket is asked for by Sec-WebSocket-Version: {VERSION}");
        return Err(Refusal { status: StatusCode::UPGRADE_REQUIRED, sentence });
    }
    let accept = match call.header(&SEC_WEBSOCKET_KEY)? {
        "" => return Err(Refusal::wrong("a WebSocket is asked for with a Sec-WebSocket-Key".to_owned())),
        key => derive_accept_key(key.as_bytes()),
    };
    let accept = HeaderValue::try_from(accept).map_err(|error| Refusal::broken(error.to_string()))?;
    let guest = call.api.guest(call.name())?.name;
    let (_, force): (Option<bool>, Option<bool>) = (call.query("write")?, call.query("force")?);
    let (writes, force) = (types(&call.request), force.unwrap_or(false));
    let seated = match call.api.consoles.sit(&guest, writes, force) {
        Ok(seat) => connect(&guest).await.map(|console| (seat, console)),
        Err(refusal) => Err(refusal),
    };
    let mut response = call.switch(PROTOCOL, |client| async move {
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(client), Role::Server, Some(limits())).await;
        match seated {
            Ok((seat, console)) => converse(socket, console, seat).await,
            Err(refusal) => refuse(socket, &refusal).await,
        }
    });
    response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    Ok(response)
}

fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(4 << 10)
        .write_buffer_size(0)
        .max_write_buffer_size(2 * PIECE)
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX))
}

async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(mut socket: WebSocketStream<S>, refusal: &Refusal) {
    // A frame that closes has room for 123 bytes only.
    let why = Message::text(refusal.sentence.as_str());
    let close = CloseFrame { code: CloseCode::from(4000 + refusal.status.as_u16()), reason: "".into() };
    // Who is gone need not be told.
    if socket.send(why).await.is_ok() {
        let _ = socket.close(Some(close)).await;
    }
}

async fn converse<S>(socket: WebSocketStream<S>, console: BufReader<UnixStream>, seat: Seat)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut deposed = seat.deposed.clone();
    let (pipe, other) = duplex(PIECE);
    let (mut to_browser, mut from_browser) = socket.split();
    let (mut output, mut input) = split(pipe);
    let speak = async {
        let mut pings = interval(PING);
        let mut bytes = vec![0; PIECE];
        loop {
            let message = tokio::select! {
                count = output.read(&mut bytes) => match count {
                    Ok(count @ 1..) => Message::binary(Bytes::copy_from_slice(&bytes[..count])),
                    _ => break,
                },
                () = over(&mut deposed) => Message::text(DEPOSED),
                _ = pings.tick() => Message::Ping(Bytes::new()),
            };
            if to_browser.send(message).await.is_err() {
                return;
            }
        }
        let _ = to_browser.close().await;
    };
    let copy = async {
        look(other, console, seat).await;
        // What it wrote last is still to be said.
        pending::<()>().await;
    };
    tokio::select! {
        () = speak => {}
        () = hear(&mut from_browser, &mut input) => {}
        () = copy => {}
    }
}

/// Hands on what is typed, until the browser is gone.
async fn hear<S>(from: &mut SplitStream<WebSocketStream<S>>, to: &mut WriteHalf<DuplexStream>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = from.next().await {
        let typed: Bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => text.into(),
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
        };
        if to.write_all(&typed).await.is_err() {
            // The guest is gone, and all that it wrote is to be seen.
            pending::<()>().await;
        }
    }
}

/// Waits until somebody else types; once.
async fn over(deposed: &mut Option<watch::Receiver<bool>>) {
    let Some(waiting) = deposed else { return pending().await };
    // A sender that is gone goes with the seat.
    if waiting.wait_for(|deposed| *deposed).await.is_err() {
        pending::<()>().await;
    }
    *deposed = None;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::resources::console::Consoles;

    fn asked(query: &str, upgrade: &str) -> Request<()> {
        Request::builder().uri(format!("/v1/guests/web1/console{query}")).header(UPGRADE, upgrade).body(()).unwrap()
    }

    #[test]
    fn who_types_is_known_from_the_request() {
        for (query, upgrade, wanted) in [
            ("", "websocket", false),
            ("?write=true", "websocket", true),
            ("?write=true", "WebSocket", true),
            ("?force=true", "websocket", true),
            ("?write=false", "websocket", false),
            ("?write=true", "thimble-console", false),
        ] {
            assert_eq!(types(&asked(query, upgrade)), wanted, "{query} {upgrade}");
        }
    }

    type Browser = WebSocketStream<DuplexStream>;

    /// A browser that sits so, and the guest at the other end.
    async fn sitting(consoles: &Consoles, writes: bool, force: bool) -> (Browser, UnixStream) {
        let (browser, node) = duplex(PIECE);
        let (guest, console) = UnixStream::pair().unwrap();
        let seat = consoles.sit("web1", writes, force).unwrap();
        tokio::spawn(async move {
            let socket = WebSocketStream::from_raw_socket(node, Role::Server, Some(limits())).await;
            converse(socket, BufReader::new(console), seat).await;
        });
        (WebSocketStream::from_raw_socket(browser, Role::Client, None).await, guest)
    }

    /// The next that is no ping.
    async fn next(browser: &mut Browser) -> Option<Message> {
        loop {
            match browser.next().await?.ok()? {
                Message::Ping(_) => {}
                message => return Some(message),
            }
        }
    }

    #[tokio::test]
    async fn bytes_go_both_ways_and_the_end_is_told() {
        let consoles = Consoles::default();
        let (mut browser, mut guest) = sitting(&consoles, true, false).await;
        guest.write_all(b"login: \xff").await.unwrap();
        assert_eq!(next(&mut browser).await, Some(Message::binary(&b"login: \xff"[..])));
        browser.send(Message::text("root\r")).await.unwrap();
        let mut typed = [0; 5];
        guest.read_exact(&mut typed).await.unwrap();
        assert_eq!(&typed, b"root\r");
        guest.write_all(b"bye").await.unwrap();
        drop(guest);
        assert_eq!(next(&mut browser).await, Some(Message::binary(&b"bye"[..])));
        assert_eq!(next(&mut browser).await, Some(Message::Close(None)));
        assert_eq!(next(&mut browser).await, None);
        assert!(consoles.lock().is_empty(), "the seat is free again");
    }

    #[tokio::test]
    async fn who_may_not_type_or_may_no_more_looks_on() {
        let consoles = Consoles::default();
        let (mut reader, mut of_reader) = sitting(&consoles, false, false).await;
        let (mut first, mut of_first) = sitting(&consoles, true, false).await;
        let (mut second, mut of_second) = sitting(&consoles, true, true).await;
        assert_eq!(next(&mut first).await, Some(Message::text(DEPOSED)));
        for browser in [&mut reader, &mut first, &mut second] {
            browser.send(Message::binary(&b"x"[..])).await.unwrap();
        }
        of_second.read_exact(&mut [0; 1]).await.unwrap();
        for (browser, guest) in [(&mut reader, &mut of_reader), (&mut first, &mut of_first)] {
            guest.write_all(b"seen").await.unwrap();
            assert_eq!(next(browser).await, Some(Message::binary(&b"seen"[..])));
            assert!(guest.try_read(&mut [0; 1]).is_err(), "nothing was typed");
        }
    }

    #[tokio::test]
    async fn a_message_that_is_too_large_ends_it() {
        let consoles = Consoles::default();
        let (mut browser, mut guest) = sitting(&consoles, true, false).await;
        let _ = browser.send(Message::binary(vec![b'x'; MESSAGE_MAX + 1])).await;
        assert_eq!(guest.read(&mut [0; 1]).await.unwrap(), 0, "none of it is typed");
    }

    #[tokio::test]
    async fn a_refusal_is_a_sentence_and_a_number() {
        let (browser, node) = duplex(PIECE);
        let refusal = Refusal::conflict("somebody types there: ".repeat(10));
        let refused =
            async { refuse(WebSocketStream::from_raw_socket(node, Role::Server, None).await, &refusal).await };
        let seen = async {
            let mut browser = WebSocketStream::from_raw_socket(browser, Role::Client, None).await;
            (next(&mut browser).await, next(&mut browser).await)
        };
        let ((), (sentence, close)) = tokio::join!(refused, seen);
        assert_eq!(sentence, Some(Message::text(refusal.sentence.as_str())));
        assert!(matches!(close, Some(Message::Close(Some(frame))) if u16::from(frame.code) == 4409));
    }
}
