//! What is answered to a request.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{
    ACCEPT_RANGES, ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, IF_RANGE, RANGE,
};
use hyper::{Method, Request, Response, StatusCode};

use crate::serve::board::Board;
use crate::serve::event::Protocol;
use crate::serve::http::Heartbeat;
use crate::serve::http::body::{Content, Part};
use crate::serve::http::path;
use crate::serve::http::range::{self, Wanted};
use crate::serve::tree::{Opened, Refusal, Tree};

/// Answers a request.
///
/// # Errors
/// None: what is wrong is an answer, too.
pub fn answer<B>(
    request: &Request<B>,
    peer: IpAddr,
    tree: &Tree,
    board: &Arc<Board>,
    heartbeat: &Arc<Heartbeat>,
) -> io::Result<Response<Content>> {
    heartbeat.beat();
    if request.method() != Method::GET && request.method() != Method::HEAD {
        board.refused_at(peer, request.uri().path(), format!("its method is {}", printable(request.method())));
        let mut response = sentence(StatusCode::METHOD_NOT_ALLOWED, "files are only read here\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        // It may have a body, which nobody reads.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        return Ok(response);
    }
    let target = request.uri().path();
    let opened = path::name(target).ok_or(Refusal::Missing).and_then(|name| tree.open(&name).map(|file| (name, file)));
    let (name, opened) = match opened {
        Ok(found) => found,
        Err(refusal) => {
            board.refused_at(peer, target, refusal.to_string());
            let status = match refusal {
                Refusal::Outside => StatusCode::FORBIDDEN,
                Refusal::Missing => StatusCode::NOT_FOUND,
                Refusal::Unreadable => StatusCode::INTERNAL_SERVER_ERROR,
            };
            return Ok(sentence(status, &format!("{refusal}\n")));
        }
    };
    // We have no validator that `If-Range` could name: then all of the file is sent (RFC 9110 section 13.1.5).
    let header = request.headers().get(RANGE).filter(|_| !request.headers().contains_key(IF_RANGE));
    let wanted = range::wanted(header.and_then(|value| value.to_str().ok()), opened.size);
    let mut response = Response::new(Content::Text(None));
    let (from, length) = match wanted {
        Wanted::All => (0, opened.size),
        Wanted::Part { from, length } => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let value = format!("bytes {from}-{}/{}", from + length - 1, opened.size);
            response.headers_mut().insert(CONTENT_RANGE, header_value(&value));
            (from, length)
        }
        Wanted::Nothing => {
            let mut response = sentence(StatusCode::RANGE_NOT_SATISFIABLE, "the file is not that long\n");
            response.headers_mut().insert(CONTENT_RANGE, header_value(&format!("bytes */{}", opened.size)));
            return Ok(response);
        }
    };
    let headers = response.headers_mut();
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type(&name)));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    if request.method() == Method::GET {
        let Opened { file, .. } = opened;
        let transfer = board.begin(peer, Protocol::Http, &name, length);
        *response.body_mut() = Content::Part(Part::new(file, from, length, transfer, Arc::clone(heartbeat)));
    }
    Ok(response)
}

fn sentence(status: StatusCode, text: &str) -> Response<Content> {
    let mut response = Response::new(Content::Text(Some(Bytes::copy_from_slice(text.as_bytes()))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// Digits and letters only: it always is one.
fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn printable(method: &Method) -> String {
    crate::serve::event::printable(method.as_str())
}

/// UEFI's HTTP boot tells a program from a disk image by this (UEFI specification 2.10 section 24.7.5.4).
fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, end)| end) {
        Some("efi") => "application/efi",
        Some("ipxe" | "cfg") => "text/plain",
        _ => "application/octet-stream",
    }
}
