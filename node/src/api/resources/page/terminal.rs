//! The terminal that the page has for a guest's console: xterm.js, of the distribution's package, which `thimble` packs by the
//! host's feature `terminal`. A host without it has the page without one.

use std::fs;
use std::path::Path;

use hyper::header::{CACHE_CONTROL, CONTENT_ENCODING, HeaderValue};
use hyper::{Method, Response, StatusCode};

use crate::api::answer::{self, Content};
use crate::api::call::Refusal;
use crate::api::peer::Role;
use crate::api::routes::{Gives, Route};

/// As the feature's `script` has it.
const SCRIPT: &str = "/usr/share/thimble/xterm.js.gz";
/// As the package has it.
const STYLE: &str = "/usr/share/nodejs/xterm/lib/xterm.css";
/// It changes with the host's image alone; a browser asks once a day.
const KEPT: HeaderValue = HeaderValue::from_static("private, max-age=86400");

/// Its routes.
pub const ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "/console.js",
        role: Role::Read,
        summary: "What makes a terminal of a guest's console",
        query: &[],
        gives: Gives::Kind("text/javascript"),
        serve: |_| Box::pin(async { Ok(answer::whole(StatusCode::OK, "text/javascript", include_str!("console.js"))) }),
    },
    Route {
        method: Method::GET,
        path: "/xterm.js",
        role: Role::Read,
        summary: "The terminal, as gzip",
        query: &[],
        gives: Gives::Kind("text/javascript"),
        serve: |_| {
            Box::pin(async {
                let mut response = packed(SCRIPT, "text/javascript")?;
                response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                Ok(response)
            })
        },
    },
    Route {
        method: Method::GET,
        path: "/xterm.css",
        role: Role::Read,
        summary: "How the terminal looks",
        query: &[],
        gives: Gives::Kind("text/css"),
        serve: |_| Box::pin(async { packed(STYLE, "text/css") }),
    },
];

/// Whether this host has one.
pub fn is_packed() -> bool {
    Path::new(SCRIPT).exists()
}

fn packed(path: &'static str, kind: &'static str) -> Result<Response<Content>, Refusal> {
    let missing = || Refusal::missing("this host has no terminal: its definition has no [api]");
    let mut response = answer::whole(StatusCode::OK, kind, fs::read(path).map_err(|_| missing())?);
    response.headers_mut().insert(CACHE_CONTROL, KEPT);
    Ok(response)
}
