//! TFTP, for reading only: RFC 1350, with options (2347), block size (2348), transfer size and timeout (2349) and window
//! (7440).
//!
//! Our own: of the maintained crates, `async-tftp` brings a second asynchronous runtime and `tftpd` a thread and a window's
//! memory for each client, and neither tells how far a transfer is. The protocol is six packets.

pub mod packet;
pub mod sender;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::task::AbortHandle;

use crate::error::Result;
use crate::serve::admission::Admission;
use crate::serve::board::{Board, Transfer};
use crate::serve::event::Protocol;
use crate::serve::sockets;
use crate::serve::tftp::packet::{Bad, Code, Options, Reply, Request};
use crate::serve::tftp::sender::{Sender, Step};
use crate::serve::tree::{Refusal, Tree};

/// The largest packet that a client has to say: a request has 512 bytes at most, an error a sentence.
const LARGEST: usize = 1024;
/// Attempts before a client is given up, each after twice the time of the one before.
const ATTEMPTS: u32 = 6;
/// The longest time between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(8);
/// A request that comes twice within this time, before its first answer was acknowledged, is one request: its answer is late.
const REPEATED: Duration = Duration::from_secs(1);

/// The server's socket.
///
/// # Errors
/// The port is taken, a privilege is missing.
pub fn bind(at: SocketAddrV4) -> Result<UdpSocket> {
    sockets::udp(at, "TFTP", sockets::many_requests)
}

/// Serves until the task is ended.
pub async fn serve(socket: UdpSocket, own: SocketAddrV4, tree: Tree, board: Arc<Board>, admission: Admission) {
    let under_way = Arc::new(UnderWay::default());
    let mut buffer = [0; LARGEST];
    loop {
        let (length, peer) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(_) => {
                tokio::time::sleep(sockets::AFTER_ERROR).await;
                continue;
            }
        };
        let packet = &buffer[..length];
        let answer = match Request::parse(packet) {
            Ok(request) => begin(request, packet, peer, own, &tree, &board, &admission, &under_way),
            Err(Bad::Silence) => None,
            Err(Bad::Error(code, why)) => {
                board.refused_at(peer.ip(), "by TFTP", why);
                Some(packet::error(code, why))
            }
        };
        if let Some(answer) = answer {
            // Whoever misses it asks again.
            let _ = socket.send_to(&answer, peer).await;
        }
    }
}

/// Begins a transfer, or says why not.
#[expect(clippy::too_many_arguments, reason = "all that a server has, in its one place of use")]
fn begin(
    request: Request,
    packet: &[u8],
    peer: SocketAddr,
    own: SocketAddrV4,
    tree: &Tree,
    board: &Arc<Board>,
    admission: &Admission,
    under_way: &Arc<UnderWay>,
) -> Option<Vec<u8>> {
    if under_way.repeats(peer, packet) {
        return None;
    }
    let refuse = |code, why: String| {
        board.refused_at(peer.ip(), &request.file, why.as_str());
        Some(packet::error(code, &why))
    };
    let opened = match tree.open(&request.file) {
        Ok(opened) => opened,
        Err(refusal @ Refusal::Outside) => return refuse(Code::Access, refusal.to_string()),
        Err(refusal) => return refuse(Code::NotFound, refusal.to_string()),
    };
    let Some(place) = admission.admit(peer.ip()) else {
        return refuse(Code::Undefined, "too many transfers at once".to_owned());
    };
    let socket = match sockets::for_client(own, peer) {
        Ok(socket) => socket,
        Err(error) => return refuse(Code::Undefined, format!("no socket: {error}")),
    };
    let transfer = board.begin(peer.ip(), Protocol::Tftp, &request.file, opened.size);
    let moving = Arc::<AtomicBool>::default();
    let (mark, list) = (Arc::clone(&moving), Arc::clone(under_way));
    let (file, size, options) = (opened.file, opened.size, request.options);
    let task = tokio::spawn(async move {
        let _place = place;
        send(&socket, &file, size, options, transfer, &mark).await;
        list.over(peer, &mark);
    });
    under_way.begun(peer, packet, moving, task.abort_handle());
    None
}

/// Sends a file.
async fn send(socket: &UdpSocket, file: &File, size: u64, options: Options, transfer: Transfer, moving: &AtomicBool) {
    let mut sender = Sender::new(size, options.block(), options.window());
    // What comes first is acknowledged as block 0 if there are options, else it is block 1 itself.
    let mut greeting = options.acknowledgement(size);
    let mut buffer = vec![0; 4 + options.block() as usize];
    let mut attempt = 0;
    let mut deadline = Instant::now();
    loop {
        if let Some(greeting) = &greeting {
            if Instant::now() >= deadline {
                let _ = socket.send(greeting).await;
            }
        } else {
            while let Some(block) = sender.next_block() {
                let packet = &mut buffer[..4 + block.length];
                packet[..2].copy_from_slice(&[0, 3]);
                packet[2..4].copy_from_slice(&block.number.to_be_bytes());
                if file.read_exact_at(&mut packet[4..], block.offset).is_err() {
                    let why = "the file became shorter or cannot be read";
                    let _ = socket.send(&packet::error(Code::Undefined, why)).await;
                    return transfer.fail(why);
                }
                if let Err(error) = socket.send(packet).await
                    && error.kind() == io::ErrorKind::ConnectionRefused
                {
                    return gone(transfer, moving);
                }
            }
        }
        let wait = options.patience() * 2u32.saturating_pow(attempt);
        deadline = Instant::now() + wait.min(LONGEST_WAIT.max(options.patience()));
        match answer(socket, deadline, &mut sender, &mut greeting).await {
            Heard::Step(Step::Done) => return transfer.finish(),
            Heard::Step(_) => {
                attempt = 0;
                moving.store(true, Ordering::Relaxed);
                transfer.at(sender.arrived());
            }
            // Its port is closed, or it wanted to know the size and no more: firmware does that before it fetches.
            // The last acknowledgement was lost, and the client has gone on.
            Heard::Gone if sender.all_sent() && moving.load(Ordering::Relaxed) => return transfer.finish(),
            Heard::Gone if !moving.load(Ordering::Relaxed) => return gone(transfer, moving),
            Heard::Gone => return transfer.fail("the other side closed its port"),
            Heard::Error(_) if greeting.is_some() => return gone(transfer, moving),
            Heard::Error(text) => return transfer.fail(format!("the other side says: {text}")),
            Heard::Nothing => {
                attempt += 1;
                if attempt == ATTEMPTS {
                    // A loader that has all of it starts the kernel, and its card may lose the acknowledgement in that.
                    if sender.lacks_the_last_word() {
                        return transfer.finish();
                    }
                    return transfer.fail("the other side is silent");
                }
                sender.again();
            }
        }
    }
}

/// The client only looked: that is no failure.
fn gone(transfer: Transfer, moving: &AtomicBool) {
    if moving.load(Ordering::Relaxed) {
        transfer.fail("the other side closed its port");
    } else {
        transfer.look();
    }
}

enum Heard {
    Step(Step),
    Error(String),
    Gone,
    Nothing,
}

/// Waits for something that moves the transfer on.
async fn answer(socket: &UdpSocket, deadline: Instant, sender: &mut Sender, greeting: &mut Option<Vec<u8>>) -> Heard {
    let mut buffer = [0; LARGEST];
    loop {
        let received = tokio::time::timeout_at(deadline.into(), socket.recv(&mut buffer)).await;
        let length = match received {
            Err(_) => return Heard::Nothing,
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => return Heard::Gone,
            Ok(Err(_)) => {
                tokio::time::sleep(sockets::AFTER_ERROR).await;
                if Instant::now() >= deadline {
                    return Heard::Nothing;
                }
                continue;
            }
            Ok(Ok(length)) => length,
        };
        match Reply::parse(&buffer[..length]) {
            Reply::Acknowledgement(0) if greeting.is_some() => {
                *greeting = None;
                return Heard::Step(Step::Send);
            }
            Reply::Acknowledgement(number) if greeting.is_none() => match sender.acknowledged(number) {
                Step::Wait => {}
                step => return Heard::Step(step),
            },
            Reply::Error(text) => return Heard::Error(crate::serve::event::printable(&text)),
            Reply::Acknowledgement(_) | Reply::Other => {}
        }
    }
}

/// Transfers by their client's address and port: a client that begins anew at the same port ends what it had.
#[derive(Debug, Default)]
struct UnderWay(Mutex<HashMap<SocketAddr, Begun>>);

#[derive(Debug)]
struct Begun {
    request: Vec<u8>,
    at: Instant,
    moving: Arc<AtomicBool>,
    task: AbortHandle,
}

impl UnderWay {
    /// The same request again, whose answer is on its way. Another one from the same port ends what was under way.
    fn repeats(&self, peer: SocketAddr, packet: &[u8]) -> bool {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(begun) = list.get(&peer) else { return false };
        if begun.request == packet && begun.at.elapsed() < REPEATED && !begun.moving.load(Ordering::Relaxed) {
            return true;
        }
        begun.task.abort();
        list.remove(&peer);
        false
    }

    fn begun(&self, peer: SocketAddr, packet: &[u8], moving: Arc<AtomicBool>, task: AbortHandle) {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // It may be over already: then nobody would take it off the list.
        if !task.is_finished() {
            list.insert(peer, Begun { request: packet.to_vec(), at: Instant::now(), moving, task });
        }
        list.retain(|_, begun| !begun.task.is_finished());
    }

    fn over(&self, peer: SocketAddr, moving: &Arc<AtomicBool>) {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if list.get(&peer).is_some_and(|begun| Arc::ptr_eq(&begun.moving, moving)) {
            list.remove(&peer);
        }
    }
}
