//! `thimble-node syslog`: sends the log that PID 1 keeps to a syslog server (RFC 5424), a service of PID 1's.
//!
//! The queue is PID 1's ring: what the server does not take stays there, and what gives way to newer lines meanwhile is
//! counted and told as a line of its own. How far it came is kept in a file, so that the next one goes on there.

pub mod format;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};
use thimble_spec::appliance::{Syslog, SyslogTransport};
use thimble_spec::host::{Level, LogLine, LogsVerb};
use thimble_spec::paths::{APPLIANCE, HOST_CONTROL};

use crate::host::{Connection, logs};

/// PID 1 is asked so often.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long a server may take to accept a connection, and to read.
const PATIENCE: Duration = Duration::from_secs(10);
/// The first pause after a failure, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// What a server must take in a datagram (RFC 5426, 3.2); the rest of a longer line is cut off.
const DATAGRAM_MAX: usize = 2048;
/// So many datagrams are sent in a row, and then none for a moment. A boot's log at once would overrun the queue of a network
/// card, and that of a neighbour whose address is not known yet (101 packets of this size: `unres_qlen_bytes` in Linux'
/// Documentation/networking/ip-sysctl.rst), and what others send at that time would be lost with it.
const BURST: (usize, Duration) = (16, Duration::from_millis(10));
/// How far the last one came.
const POSITION: &str = "/run/thimble/syslog.position";
/// The clock was set if it shows this time or a later one, 2020: until then there is no time to tell.
const SET_SINCE: Duration = Duration::from_secs(1_577_836_800);

/// Sends for ever.
///
/// # Errors
/// The appliance cannot be read, or has no syslog server.
pub fn run() -> Result<()> {
    let appliance = crate::node::appliance(Path::new(APPLIANCE))?;
    let syslog = appliance.host.syslog.context("the appliance names no syslog server")?;
    let from = fs::read_to_string(POSITION).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let mut sender = Sender { syslog, host: appliance.name, connection: None };
    let mut asked = LogsVerb { from, level: None, source: None };
    let mut pause = PAUSES.0;
    let mut down = false;
    loop {
        match sender.send(&asked) {
            Ok(Some(next)) => {
                if std::mem::take(&mut down) {
                    println!("<5>{} takes the log again", syslog.server);
                }
                pause = PAUSES.0;
                asked.from = next;
                fs::write(POSITION, next.to_string()).with_context(|| format!("writing {POSITION}"))?;
            }
            Ok(None) => sleep(INTERVAL),
            Err(error) => {
                if !std::mem::replace(&mut down, true) {
                    println!("<4>{} does not take the log, which waits: {error:#}", syslog.server);
                }
                sender.connection = None;
                sleep(pause);
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }
}

/// A way to the server.
enum Way {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

struct Sender {
    syslog: Syslog,
    host: String,
    connection: Option<Way>,
}

impl Sender {
    /// Sends what there is from a line on; gives where to go on, none if there is nothing new.
    fn send(&mut self, asked: &LogsVerb) -> Result<Option<u64>> {
        let logs = logs::ask(&mut Connection::open(Path::new(HOST_CONTROL))?, asked)?;
        if logs.next == asked.from || (logs.lines.is_empty() && logs.lost == 0) {
            return Ok(None);
        }
        let started = started();
        let mut messages = Vec::new();
        if logs.lost > 0 {
            let text = format!("{} lines were dropped before they could be sent", logs.lost);
            let ms = logs.lines.first().map_or(0, |line| line.ms);
            let line = LogLine { number: 0, ms, level: Level::Warning, source: "syslog".to_owned(), text };
            messages.push(format::message(&line, &self.host, started));
        }
        messages.extend(logs.lines.iter().map(|line| format::message(line, &self.host, started)));
        let way = match &mut self.connection {
            Some(way) => way,
            none => none.insert(connect(&self.syslog)?),
        };
        way.send(&messages)?;
        Ok(Some(logs.next))
    }
}

fn connect(syslog: &Syslog) -> Result<Way> {
    match syslog.transport {
        SyslogTransport::Udp => {
            let any: SocketAddr = match syslog.server {
                SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
            };
            let socket = UdpSocket::bind(any).context("opening a socket")?;
            // What the server refuses is told by the next call.
            socket.connect(syslog.server).with_context(|| format!("sending to {}", syslog.server))?;
            Ok(Way::Udp(socket))
        }
        SyslogTransport::Tcp => {
            let stream = TcpStream::connect_timeout(&syslog.server, PATIENCE)
                .with_context(|| format!("connecting to {}", syslog.server))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(Way::Tcp(stream))
        }
    }
}

impl Way {
    fn send(&mut self, messages: &[String]) -> Result<()> {
        match self {
            Self::Udp(socket) => {
                for burst in messages.chunks(BURST.0) {
                    for message in burst {
                        let cut = message.floor_char_boundary(DATAGRAM_MAX);
                        socket.send(&message.as_bytes()[..cut])?;
                    }
                    if burst.len() == BURST.0 {
                        sleep(BURST.1);
                    }
                }
            }
            Self::Tcp(stream) => {
                // A server never says anything but that it is gone; what is written after that would be lost.
                stream.set_nonblocking(true)?;
                let gone = matches!(stream.read(&mut [0; 16]), Ok(0));
                stream.set_nonblocking(false)?;
                anyhow::ensure!(!gone, "the server closed the connection");
                stream.write_all(&counted(messages))?;
            }
        }
        Ok(())
    }
}

/// Each behind its length in bytes and a space (RFC 6587, 3.4.1).
fn counted(messages: &[String]) -> Vec<u8> {
    messages.iter().flat_map(|message| format!("{} {message}", message.len()).into_bytes()).collect()
}

/// When the kernel started, by the clock on the wall, if that was set.
fn started() -> Option<SystemTime> {
    let since_boot = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?);
    let now = SystemTime::now();
    let set = now.duration_since(UNIX_EPOCH).is_ok_and(|now| now >= SET_SINCE);
    now.checked_sub(since_boot).filter(|_| set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn messages_are_counted_in_bytes() {
        assert_eq!(counted(&["ab".to_owned(), "\u{e4}".to_owned()]), "2 ab2 \u{e4}".as_bytes());
    }

    #[test]
    fn a_server_gets_lines_by_udp_and_by_tcp_and_its_end_is_noticed() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let syslog = Syslog { transport: SyslogTransport::Udp, server: server.local_addr().unwrap() };
        connect(&syslog).unwrap().send(&["one".to_owned(), "x".repeat(3000)]).unwrap();
        let mut buffer = [0; 4096];
        assert_eq!(server.recv(&mut buffer).unwrap(), 3);
        assert_eq!(server.recv(&mut buffer).unwrap(), DATAGRAM_MAX);

        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let syslog = Syslog { transport: SyslogTransport::Tcp, server: server.local_addr().unwrap() };
        let mut way = connect(&syslog).unwrap();
        let (mut peer, _) = server.accept().unwrap();
        way.send(&["one".to_owned()]).unwrap();
        let mut text = [0; 5];
        peer.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"3 one");
        drop(peer);
        sleep(Duration::from_millis(20));
        assert!(way.send(&["two".to_owned()]).is_err());
    }
}
