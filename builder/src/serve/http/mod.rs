//! HTTP/1.1 for reading files: GET and HEAD, ranges, lengths, connections that stay (RFC 9110, RFC 9112).
//!
//! `hyper` speaks the protocol: the same as everywhere in Rust, maintained, and on the `tokio` that we have. Bounded are: a
//! request's head ([`HEAD`]) and the time for it ([`HEAD_TIME`]), memory for each connection (a head and two pieces of a file),
//! connections ([`crate::serve::admission`]), and how long one may stand still ([`STILL`]).

mod answer;
mod body;
mod path;
mod range;

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

use crate::error::Result;
use crate::serve::admission::{Admission, Place};
use crate::serve::board::Board;
use crate::serve::sockets;
use crate::serve::tree::Tree;

/// Bytes of a request's head, at most: firmware's are a few hundred.
const HEAD: usize = 16 << 10;
/// Headers of a request, at most.
const HEADERS: usize = 64;
/// How long a client may take to send a head, and how long a connection waits for its next one.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// How long a client may take nothing of what it asked for.
const STILL: Duration = Duration::from_secs(120);
/// How often that is looked at.
const LOOK: Duration = Duration::from_secs(10);

/// When something last went on with a connection.
#[derive(Debug)]
pub struct Heartbeat {
    start: Instant,
    millis: AtomicU64,
}

impl Heartbeat {
    fn new() -> Self {
        Self { start: Instant::now(), millis: AtomicU64::new(0) }
    }

    /// Something does.
    pub fn beat(&self) {
        self.millis.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    async fn stops(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let last = Duration::from_millis(self.millis.load(Ordering::Relaxed));
            if self.start.elapsed().saturating_sub(last) > STILL {
                return;
            }
        }
    }
}

/// The listening socket.
///
/// # Errors
/// The port is taken, a privilege is missing.
pub fn bind(at: SocketAddrV4) -> Result<TcpListener> {
    sockets::tcp(at, "HTTP")
}

/// Serves until the task is ended.
pub async fn serve(listener: TcpListener, tree: Tree, board: Arc<Board>, admission: Admission) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            // One that went away before it was accepted, or no descriptors left.
            Err(_) => {
                tokio::time::sleep(sockets::AFTER_ERROR).await;
                continue;
            }
        };
        let Some(place) = admission.admit(peer.ip()) else {
            board.refused_at(peer.ip(), "a connection", "too many at once");
            continue;
        };
        tokio::spawn(connection(stream, peer, tree.clone(), Arc::clone(&board), place));
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, tree: Tree, board: Arc<Board>, _place: Place) {
    converse(stream, peer.ip(), tree, board).await;
}

/// Answers what comes from a peer, until it ends that, does what the protocol does not allow, or takes nothing any more.
pub async fn converse<S>(stream: S, peer: IpAddr, tree: Tree, board: Arc<Board>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let heartbeat = Arc::new(Heartbeat::new());
    let beat = Arc::clone(&heartbeat);
    let service = service_fn(move |request| {
        let response = answer::answer(&request, peer, &tree, &board, &beat);
        async move { response as io::Result<_> }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_headers(HEADERS)
        .max_buf_size(HEAD)
        // GRUB 2.06 knows `Content-Length` in this spelling only.
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // What a client does wrong is its own matter; a transfer that it leaves is on the board.
        _ = connection => {}
        () = heartbeat.stops() => {}
    }
}
