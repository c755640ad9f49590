//! The daemon's API ([`thimble_spec::api`]): HTTP/1.1 on a Unix socket, and over the network ([`tls`]) where the definition asks
//! for it.
//!
//! ```text
//! transport (here)  ->  who asks (peer)  ->  routing (routes)  ->  may they (peer)  ->  audit  ->  a resource's handler
//! ```
//! Bounded are: connections ([`CLIENTS_MAX`]), requests on each ([`RATE`]), a request's head ([`HEAD`], [`HEADERS`]) and the time
//! for it ([`HEAD_TIME`]), its body (only what is put has one: [`call::Call::body`]), the time for an answer ([`ANSWER_TIME`]), and how long a client may take
//! nothing of what it asked for ([`patient::STILL`]).

pub mod answer;
pub mod call;
mod change;
mod clone;
pub mod history;
#[cfg(test)]
mod openapi;
mod patient;
pub mod peer;
mod rate;
mod resources;
pub mod routes;
mod snapshots;
#[cfg(test)]
pub mod tests;
pub mod tls;
mod volumes;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use hyper::body::{Body, Incoming};
use hyper::header::{ALLOW, CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};

use crate::audit;
use crate::definitions::{Book, Defined};
use crate::events::{Epoch, Events};
use crate::life::{self, Entry, Post};
use crate::tasks::Tasks;
use answer::Content;
use call::{Call, Refusal};
use history::Histories;
use patient::Patient;
use peer::{Peer, Role};
use rate::Rate;
use resources::console::{self, Consoles};
use resources::{exec, page};

/// Connections at a time; one more waits until another ends.
const CLIENTS_MAX: usize = 64;
/// Bytes of a request's head, at most.
const HEAD: usize = 16 << 10;
/// Headers of a request, at most.
const HEADERS: usize = 32;
/// How long a client may take to send a head, and how long a connection waits for its next one.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// Requests on a connection: so many at once, and so many a second.
const RATE: (u32, u32) = (200, 100);
/// How long an answer may take to begin. Who waits for a task's end asks for less.
const ANSWER_TIME: Duration = Duration::from_secs(120);
/// How long nobody is answered when a guest's VMM does not say what it does.
const KNOWN_LIMIT: Duration = Duration::from_secs(15);
/// The pause after a connection that could not be accepted.
const AFTER_ERROR: Duration = Duration::from_millis(100);

/// What there is to ask about.
#[derive(Debug)]
pub struct Api {
    /// What definitions are held to.
    pub book: Book,
    /// The guests, in the order of the definition; then those that were defined here, by name.
    guests: Mutex<Vec<Entry>>,
    /// Where the keeper of a new guest is asked for.
    keepers: mpsc::UnboundedSender<Post>,
    /// Held by whoever changes a definition.
    changes: tokio::sync::Mutex<()>,
    /// What happens.
    pub events: Events,
    /// What takes its time.
    pub tasks: Tasks,
    /// Who changed what.
    pub audit: audit::Log,
    /// Who looks at which console.
    pub consoles: Consoles,
    /// Places for commands in guests.
    pub commands: Arc<Semaphore>,
    /// Whoever installs a release has this.
    pub updates: Arc<tokio::sync::Mutex<()>>,
    /// What the guests did of late.
    pub histories: Histories,
}

impl Api {
    /// Of these guests. The other ends are given back, those of guests that come later too.
    pub fn of(book: Book, guests: Vec<Defined>, audit: audit::Log) -> (Self, mpsc::UnboundedReceiver<Post>) {
        let epoch = Epoch::now();
        let events = Events::new(epoch.clone());
        let tasks = Tasks::new(epoch, events.clone());
        let (keepers, posts) = mpsc::unbounded_channel();
        let (list, changes, consoles) = (Mutex::default(), tokio::sync::Mutex::default(), Consoles::default());
        let (updates, histories) = (Arc::default(), Histories::default());
        let commands = Arc::new(Semaphore::new(exec::COMMANDS_MAX));
        let api =
            Self { book, guests: list, keepers, changes, events, tasks, audit, consoles, commands, updates, histories };
        for guest in guests {
            api.keep(guest, false);
        }
        (api, posts)
    }

    fn list(&self) -> MutexGuard<'_, Vec<Entry>> {
        // A panic ends the daemon: nobody sees what one left.
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All guests.
    pub fn guests(&self) -> Vec<Entry> {
        self.list().clone()
    }

    /// From now on there is this guest; one that is `fresh` is not started by itself.
    fn keep(&self, defined: Defined, fresh: bool) {
        let of_image = |entry: &Entry| self.book.of_image(&entry.name).is_some();
        let (mut post, entry) = life::pair(defined, &self.events);
        post.fresh = fresh;
        let mut list = self.list();
        let place = match of_image(&entry) {
            true => list.len(),
            false => list.partition_point(|other| of_image(other) || other.name < entry.name),
        };
        list.insert(place, entry);
        // Whoever takes it lives as long as the daemon.
        let _ = self.keepers.send(post);
    }

    /// Waits until it is known what each guest does: one that ran before this daemon is not told to be off. A VMM that does
    /// not answer is not waited for any longer than [`KNOWN_LIMIT`].
    pub async fn known(&self) {
        let all = async {
            for mut entry in self.guests() {
                // A keeper that is gone tells nothing more.
                let _ = entry.life.wait_for(|life| !life.reason.is_empty()).await;
            }
        };
        let _ = timeout(KNOWN_LIMIT, all).await;
    }

    /// The guest with this name.
    ///
    /// # Errors
    /// There is none.
    pub fn guest(&self, name: &str) -> Result<Entry, Refusal> {
        let found = self.list().iter().find(|entry| *entry.name == *name).cloned();
        found.ok_or_else(|| Refusal::missing("there is no guest of that name on this node: thimblectl list --all"))
    }
}

/// The socket, for root alone. A daemon that was killed leaves its own behind.
///
/// # Errors
/// It cannot be made.
pub fn bind(path: &Path) -> Result<UnixListener> {
    let doing = || format!("listening at {}", path.display());
    // Another name first: nobody connects before the mode is right. The one before goes in the same moment: who finds a socket
    // at which nobody listens tries again, who finds none does not.
    let beside = path.with_extension("new");
    let _ = fs::remove_file(&beside);
    let listener = UnixListener::bind(&beside).with_context(doing)?;
    fs::set_permissions(&beside, Permissions::from_mode(0o600)).with_context(doing)?;
    fs::rename(&beside, path).with_context(doing)?;
    Ok(listener)
}

/// Serves until the task is ended.
pub async fn serve(listener: UnixListener, api: Arc<Api>) {
    let places = Arc::new(Semaphore::new(CLIENTS_MAX));
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let Ok(peer) = Peer::of(&stream) else { continue };
                tokio::spawn(converse(Patient::new(stream), peer, Arc::clone(&api), place));
            }
            // No descriptors left, or one that went away before it was accepted.
            Err(_) => sleep(AFTER_ERROR).await,
        }
    }
}

async fn converse<S>(stream: S, peer: Peer, api: Arc<Api>, _place: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let rate = Mutex::new(Rate::new(RATE.0, RATE.1));
    let service = service_fn(move |request| {
        let (api, peer) = (Arc::clone(&api), peer.clone());
        // A panic ends the daemon: nobody sees what one left.
        let allowed = rate.lock().unwrap_or_else(PoisonError::into_inner).take().is_ok();
        async move {
            let answer = if allowed { answer(request, peer, api).await } else { Refusal::too_many().response() };
            Ok::<_, std::convert::Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_headers(HEADERS)
        .max_buf_size(HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    // What a client does wrong is its own matter.
    let _ = connection.await;
}

async fn answer(request: Request<Incoming>, peer: Peer, api: Arc<Api>) -> Response<Content> {
    let form = request.method() != Method::GET && page::is_for_people(request.headers());
    let (path, has_body) = (request.uri().path().to_owned(), !request.body().is_end_stream());
    let mut response = match carry_out(request, peer, api).await {
        answered if form => page::to_people(answered),
        Ok(response) => response,
        Err(refusal) => refusal.response(),
    };
    if response.status() == StatusCode::METHOD_NOT_ALLOWED
        && let Ok(methods) = HeaderValue::try_from(routes::allowed(&path))
    {
        response.headers_mut().insert(ALLOW, methods);
    }
    // A body that nobody has read stands before the next request: the connection ends, and the client is told so.
    if has_body && !response.status().is_success() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn carry_out(request: Request<Incoming>, peer: Peer, api: Arc<Api>) -> Result<Response<Content>, Refusal> {
    let (route, parameters) = routes::find(request.method(), request.uri().path())?;
    // A console in a browser is asked for by GET, whatever is typed there.
    let types = console::websocket::types(&request);
    peer.may(if types { route.role.max(Role::Operate) } else { route.role })?;
    if route.method != Method::PUT {
        call::without_body(&request)?;
    }
    let changes = route.method != Method::GET || types;
    if changes || console::websocket::is_asked(request.headers()) {
        peer::of_this_site(request.headers())?;
    }
    let what = changes.then(|| format!("{} {}", request.method(), request.uri()));
    let audited = |refused: Option<&str>| match &what {
        Some(what) => {
            api.audit.remember(&peer.who, what, refused).map_err(|error| Refusal::broken(format!("{error:#}")))
        }
        None => Ok(()),
    };
    audited(None)?;
    let call = Call { parameters, request, peer: peer.clone(), api: Arc::clone(&api) };
    let answered = match timeout(ANSWER_TIME, (route.serve)(call)).await {
        Ok(answered) => answered,
        Err(_) => Err(Refusal::busy("this takes too long: ask again")),
    };
    if let Err(refusal) = &answered {
        audited(Some(&refusal.sentence))?;
    }
    answered
}
