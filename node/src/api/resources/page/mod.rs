//! The status page: the node as a person sees it, rendered here. A script makes it stay true while it is looked at; without it
//! the page shows the same.

mod curves;
mod html;
pub mod terminal;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use hyper::header::{ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderValue, LOCATION};
use hyper::{HeaderMap, Method, Response, StatusCode};
use thimble_spec::cmdline::Cmdline;
use thimble_spec::console::one_line;
use thimble_spec::host::{Answer, NetworkStatus, NetworkVerb, Verb};
use thimble_spec::paths;
use thimble_spec::slot::Origin;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::{console, guests, node};
use crate::api::Api;
use crate::api::answer::{self, Content};
use crate::api::call::{Call, Refusal};
use crate::api::peer::Role;
use crate::api::routes::{Gives, Route};
use crate::host::{self, Connection};
use html::{One, Shown};

/// Guests whose console's last lines are shown when none is named.
const CONSOLES: usize = 8;
/// So many lines are shown; of the one guest that is named, more.
const LINES: usize = 6;
/// See [`LINES`].
const LINES_OF_ONE: usize = 60;
/// Most bytes of a line.
const LINE_MAX: usize = 200;
/// Tasks and events that are shown.
const NEWEST: usize = 12;
/// How long PID 1 and the disks may take; what does not answer in time is not shown.
const LIMIT: Duration = Duration::from_secs(3);
/// Nothing from elsewhere, nothing that stands in the page itself, in no other page: what a guest writes is text.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; \
     frame-ancestors 'none'",
);

/// Its routes; [`terminal`] has more.
pub const ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "/",
        role: Role::Read,
        summary: "The status page",
        query: &[("guest", "only this guest, with its console")],
        gives: Gives::Kind("text/html"),
        serve: |call| Box::pin(get(call)),
    },
    Route {
        method: Method::GET,
        path: "/page.css",
        role: Role::Read,
        summary: "How the status page looks",
        query: &[],
        gives: Gives::Kind("text/css"),
        serve: |_| Box::pin(async { Ok(answer::whole(StatusCode::OK, "text/css", include_str!("style.css"))) }),
    },
    Route {
        method: Method::GET,
        path: "/page.js",
        role: Role::Read,
        summary: "What keeps the status page true",
        query: &[],
        gives: Gives::Kind("text/javascript"),
        serve: |_| Box::pin(async { Ok(answer::whole(StatusCode::OK, "text/javascript", include_str!("script.js"))) }),
    },
];

/// Whether a browser asks that shows the answer to a person.
pub fn is_for_people(headers: &HeaderMap) -> bool {
    headers.get(ACCEPT).and_then(|kinds| kinds.to_str().ok()).is_some_and(|kinds| kinds.contains("text/html"))
}

/// What a browser is answered that has sent a form: back to the page, or why not.
pub fn to_people(answered: Result<Response<Content>, Refusal>) -> Response<Content> {
    match answered {
        Ok(_) => {
            let mut response = answer::whole(StatusCode::SEE_OTHER, "text/plain", "");
            response.headers_mut().insert(LOCATION, HeaderValue::from_static("/"));
            response
        }
        Err(refusal) => {
            guarded(answer::whole(refusal.status, "text/html; charset=utf-8", html::refused(&refusal.sentence)))
        }
    }
}

fn guarded(mut response: Response<Content>) -> Response<Content> {
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, POLICY);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn get(call: Call) -> Result<Response<Content>, Refusal> {
    let named: Option<String> = call.query("guest")?;
    if let Some(name) = &named {
        call.api.guest(name)?;
    }
    let about = |guest: &str| named.as_deref().is_none_or(|name| name == guest);
    let api = &call.api;
    let (mut tasks, mut events) = (api.tasks.all(), api.events.after(api.events.oldest(), usize::MAX).events);
    tasks.retain(|task| about(&task.guest));
    tasks.reverse();
    tasks.truncate(NEWEST);
    events.retain(|event| event.what.guest().is_none_or(about));
    events.reverse();
    events.truncate(NEWEST);
    let consoles = consoles(api, named.as_deref());
    let (network, storage, guests) = tokio::join!(asked(network), asked(storage), consoles);
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let addresses = network.iter().flat_map(|network| &network.links).flat_map(|link| &link.addresses);
    let lines = |text: String| text.lines().map(str::to_owned).collect();
    let shown = Shown {
        node: node::node(api),
        named: named.is_some(),
        terminal: terminal::is_packed(),
        addresses: addresses.map(|address| address.address.to_string()).collect(),
        slot: Origin::of(&Cmdline::parse(&line)).ok().flatten(),
        guests,
        links: lines(network.as_ref().map(host::network_text).unwrap_or_default()),
        storage: lines(storage.unwrap_or_default()),
        tasks,
        events: events.into_iter().map(Arc::unwrap_or_clone).collect(),
        may_operate: call.peer.may(Role::Operate).is_ok(),
    };
    Ok(guarded(answer::whole(StatusCode::OK, "text/html; charset=utf-8", html::page(&shown))))
}

/// The one that is named, or all, with the last lines of the consoles of the first ones.
async fn consoles(api: &Api, named: Option<&str>) -> Vec<One> {
    let mut shown = Vec::new();
    let (mut left, most) = if named.is_some() { (1, LINES_OF_ONE) } else { (CONSOLES, LINES) };
    for guest in guests::list(api).guests {
        if named.is_some_and(|name| name != guest.name) {
            continue;
        }
        let mut console = None;
        if guest.state.is_active() && left > 0 {
            left -= 1;
            console = console::newest(&guest.name).await.ok().map(|bytes| last_lines(&bytes, most));
        }
        let past = api.histories.of(&guest.name);
        shown.push(One { guest, console, past });
    }
    shown
}

fn last_lines(bytes: &[u8], most: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut lines: Vec<String> = text
        .lines()
        .rev()
        .map(|line| one_line(line, LINE_MAX))
        .filter(|line| !line.trim().is_empty())
        .take(most)
        .collect();
    lines.reverse();
    lines.join("\n")
}

/// What is asked elsewhere, and may take its time.
async fn asked<T: Send + 'static>(ask: fn() -> anyhow::Result<T>) -> Option<T> {
    timeout(LIMIT, spawn_blocking(ask)).await.ok()?.ok()?.ok()
}

fn network() -> anyhow::Result<NetworkStatus> {
    match Connection::open(Path::new(paths::HOST_CONTROL))?.ask(&Verb::Network(NetworkVerb::Show))? {
        Answer::Network(status) => Ok(status),
        _ => bail!("PID 1 answers something else"),
    }
}

fn storage() -> anyhow::Result<String> {
    crate::storage::status_text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_text_without_blanks() {
        assert_eq!(last_lines(b"a\n\n\x1b[2Jb\r\n<c>\xff\n  \n", 2), "[2Jb\n<c>\u{fffd}");
    }
}
