//! A guest's console: the connection becomes it (RFC 9110, 7.8). First comes what the VMM's ring holds, then what the guest
//! writes. Several may look, one may type; what the others send is left unread. Browsers have [`websocket`].

pub mod websocket;

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::{Method, Response, StatusCode};
use hyper_util::rt::TokioIo;
use thimble_spec::api::CONSOLE_PROTOCOL;
use thimble_spec::vmm::{CONTROL_FILE, Verb};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, copy, split};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::api::answer::{self, Content};
use crate::api::call::{Call, Refusal};
use crate::api::peer::Role;
use crate::api::routes::{Gives, Route};
use crate::control::Control;
use crate::plan::Place;

/// Readers of a guest's console, its writer included.
const READERS_MAX: usize = 8;
/// Most of a console's past: what the VMM's ring holds.
const PAST_MAX: usize = 256 << 10;
/// The past has ended when nothing comes for so long: a VMM sends it all at once.
const PAST_PAUSE: Duration = Duration::from_millis(300);

/// Its routes.
pub const ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "/v1/guests/{name}/console",
        role: Role::Read,
        summary: "Look at a guest's console",
        query: &[
            ("write", "true: type there too, unless somebody else does; of a WebSocket, for the role operate"),
            ("force", "true: the same, and whoever types there may only look from now on"),
        ],
        gives: Gives::Connection(CONSOLE_PROTOCOL),
        serve: |call| {
            Box::pin(async {
                match websocket::is_asked(call.request.headers()) {
                    true => websocket::open(call).await,
                    false => open(call, false).await,
                }
            })
        },
    },
    Route {
        method: Method::POST,
        path: "/v1/guests/{name}/console",
        role: Role::Operate,
        summary: "Look at a guest's console and type there, unless somebody else does",
        query: &[("force", "true: whoever types there may only look from now on")],
        gives: Gives::Connection(CONSOLE_PROTOCOL),
        serve: |call| Box::pin(open(call, true)),
    },
    Route {
        method: Method::GET,
        path: "/v1/guests/{name}/log",
        role: Role::Read,
        summary: "The newest that a guest wrote to its console, 256 KiB at most",
        query: &[],
        gives: Gives::Kind("text/plain"),
        serve: |call| Box::pin(past(call)),
    },
];

/// Who looks at which console.
#[derive(Clone, Debug, Default)]
pub struct Consoles(Arc<Mutex<BTreeMap<String, Lookers>>>);

#[derive(Debug, Default)]
struct Lookers {
    count: usize,
    /// The one who types, told by this that somebody else does.
    writer: Option<watch::Sender<bool>>,
}

/// A place at a console; it is given back with the value.
#[derive(Debug)]
struct Seat {
    consoles: Consoles,
    guest: String,
    /// Turns true when it may not type any more; none for who may not at all.
    deposed: Option<watch::Receiver<bool>>,
}

impl Consoles {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Lookers>> {
        // A panic ends the daemon: nobody sees what one left.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sit(&self, guest: &str, writes: bool, force: bool) -> Result<Seat, Refusal> {
        let mut all = self.lock();
        let lookers = all.entry(guest.to_owned()).or_default();
        if lookers.count >= READERS_MAX {
            return Err(Refusal::busy("eight look at this console already: close one"));
        }
        if writes && !force && lookers.writer.is_some() {
            let sentence = format!(
                "somebody types on the console of {guest} already: look on (--read-only), or take it over (--force)"
            );
            return Err(Refusal::conflict(sentence));
        }
        let deposed = writes.then(|| {
            let (depose, deposed) = watch::channel(false);
            if let Some(before) = lookers.writer.replace(depose) {
                before.send_replace(true);
            }
            deposed
        });
        lookers.count += 1;
        Ok(Seat { consoles: self.clone(), guest: guest.to_owned(), deposed })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut all = self.consoles.lock();
        let Some(lookers) = all.get_mut(&self.guest) else { return };
        lookers.count -= 1;
        if self.deposed.as_ref().is_some_and(|deposed| !*deposed.borrow()) {
            lookers.writer = None;
        }
        if lookers.count == 0 {
            all.remove(&self.guest);
        }
    }
}

async fn connect(guest: &str) -> Result<BufReader<UnixStream>, Refusal> {
    let failed = |why: String| Refusal::conflict(format!("guest {guest} has no console now, for it is off ({why})"));
    let mut control =
        Control::connect(&Place::of(guest).file(CONTROL_FILE)).await.map_err(|error| failed(error.to_string()))?;
    control.ask(Verb::Console).await.map_err(|error| failed(format!("{error:#}")))?;
    Ok(control.into_stream())
}

async fn open(mut call: Call, writes: bool) -> Result<Response<Content>, Refusal> {
    call.becomes(CONSOLE_PROTOCOL, "a console")?;
    let force = call.query("force")?.unwrap_or(false);
    let seat = call.api.consoles.sit(&call.api.guest(call.name())?.name, writes, force)?;
    let console = connect(&call.api.guest(call.name())?.name).await?;
    Ok(call.switch(CONSOLE_PROTOCOL, |client| look(TokioIo::new(client), console, seat)))
}

/// Copies until either side ends.
async fn look(client: impl AsyncRead + AsyncWrite, console: BufReader<UnixStream>, mut seat: Seat) {
    let (mut from_client, mut to_client) = split(client);
    let (mut from_guest, mut to_guest) = split(console);
    let output = async {
        let _ = copy(&mut from_guest, &mut to_client).await;
        let _ = to_client.shutdown().await;
    };
    tokio::select! {
        () = output => {}
        () = type_in(&mut from_client, &mut to_guest, &mut seat) => {}
    }
}

/// Copies what is typed as long as that may be, then reads on until the client ends.
async fn type_in(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin), seat: &mut Seat) {
    if let Some(deposed) = &mut seat.deposed {
        let over = async {
            let _ = deposed.wait_for(|deposed| *deposed).await;
        };
        tokio::select! {
            copied = copy(from, to) => {
                if copied.is_err() {
                    // A guest that is gone ends the output, and all of it is to be seen.
                    pending::<()>().await;
                }
                return;
            }
            () = over => {}
        }
    }
    let _ = copy(from, &mut tokio::io::sink()).await;
}

async fn past(call: Call) -> Result<Response<Content>, Refusal> {
    let text = newest(&call.api.guest(call.name())?.name).await?;
    Ok(answer::whole(StatusCode::OK, "text/plain; charset=utf-8", text))
}

/// The newest that a guest wrote to its console.
///
/// # Errors
/// It is off.
pub async fn newest(guest: &str) -> Result<Vec<u8>, Refusal> {
    let mut console = connect(guest).await?;
    let mut text = Vec::new();
    let mut piece = vec![0; 16 << 10];
    while text.len() < PAST_MAX {
        match timeout(PAST_PAUSE, console.read(&mut piece)).await {
            Ok(Ok(count @ 1..)) => text.extend_from_slice(&piece[..count]),
            _ => break,
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_look_and_one_types() {
        let consoles = Consoles::default();
        let writer = consoles.sit("web1", true, false).unwrap();
        let _reader = consoles.sit("web1", false, false).unwrap();
        assert_eq!(consoles.sit("web1", true, false).unwrap_err().status, StatusCode::CONFLICT);
        assert!(consoles.sit("web2", true, false).is_ok());

        let second = consoles.sit("web1", true, true).unwrap();
        assert!(*writer.deposed.as_ref().unwrap().borrow());
        drop(writer);
        assert!(consoles.sit("web1", true, false).is_err(), "the second still types");
        drop(second);
        assert!(consoles.sit("web1", true, false).is_ok());

        let all: Vec<_> = (1..READERS_MAX).map(|_| consoles.sit("web1", false, false).unwrap()).collect();
        assert_eq!(consoles.sit("web1", false, false).unwrap_err().status, StatusCode::SERVICE_UNAVAILABLE);
        drop(all);
    }
}
