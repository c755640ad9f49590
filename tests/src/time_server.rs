//! A time server (RFC 5905, as far as a client of one server looks), at the port that all of them have.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The port (RFC 5905, section 7.2).
const PORT: u16 = 123;
/// Bytes of a packet without extensions (section 7.3).
const PACKET: usize = 48;
/// Seconds from 1900, where the protocol's time begins, to 1970 (section 6).
const ERA: u64 = 2_208_988_800;

/// The server; it ends with the value.
#[derive(Debug)]
pub struct TimeServer {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl TimeServer {
    /// Starts it on 127.0.0.1, with a clock so many seconds ahead of this machine's.
    ///
    /// # Panics
    /// It needs root, or the port is in use.
    pub fn start(ahead: u64) -> Self {
        let socket = UdpSocket::bind(("127.0.0.1", PORT)).expect("the port of time servers is free, and we are root");
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("it is a socket");
        let ends = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&ends);
        let thread = thread::spawn(move || {
            let mut packet = [0; 256];
            while !asked.load(Ordering::Relaxed) {
                if let Ok((PACKET.., client)) = socket.recv_from(&mut packet) {
                    // A client that has gone meanwhile gets nothing.
                    let _ = socket.send_to(&answer(&packet, time(ahead)), client);
                }
            }
        });
        Self { ends, thread: Some(thread) }
    }
}

impl Drop for TimeServer {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Seconds since 1900 and their fraction, 32 bits each.
fn time(ahead: u64) -> [u8; 8] {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let fraction = (u64::from(now.subsec_nanos()) << 32) / 1_000_000_000;
    (((now.as_secs() + ERA + ahead) << 32) | fraction).to_be_bytes()
}

/// Of a primary server (section 7.3): the client's own time comes back as the origin.
fn answer(query: &[u8], now: [u8; 8]) -> [u8; PACKET] {
    let mut answer = [0; PACKET];
    // No leap second, the client's version, mode 4: a server's; stratum 1; the poll interval that was asked for; 2^-20 s.
    answer[..4].copy_from_slice(&[(query[0] & 0o70) | 4, 1, query[2], 0xec]);
    answer[12..16].copy_from_slice(b"TEST");
    answer[24..32].copy_from_slice(&query[40..48]);
    for at in [16, 32, 40] {
        answer[at..at + 8].copy_from_slice(&now);
    }
    answer
}
