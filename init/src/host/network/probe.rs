//! Whether a machine answers: an echo request a second (RFC 792).

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, connect, recv, send, socket,
};

use crate::error::{Doing, Result};

/// Pause between two requests.
const PAUSE: Duration = Duration::from_secs(1);
/// So long it may be silent: a new bond or a new lease takes some seconds.
pub const SILENCE: Duration = Duration::from_secs(15);
/// Types of messages.
const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
/// What tells our requests from others'.
const MARK: [u8; 4] = *b"thim";

/// One that is asked.
pub struct Probe {
    address: Ipv4Addr,
    socket: OwnedFd,
    next: Duration,
    heard: Duration,
}

impl Probe {
    /// Begins to ask.
    pub fn start(address: Ipv4Addr, now: Duration) -> Result<Self> {
        let open = || {
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Icmp)
        };
        let socket = open().doing(|| "open a socket for echo requests".to_owned())?;
        Ok(Self { address, socket, next: now, heard: now })
    }

    /// Who is asked.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Asks when it is time, and hears; says whether the machine was not silent for too long.
    pub fn run(&mut self, now: Duration) -> bool {
        let mut packet = [0; 256];
        while let Ok(length) = recv(self.socket.as_raw_fd(), &mut packet, MsgFlags::empty()) {
            if is_reply(&packet[..length], self.address) {
                self.heard = now;
            }
        }
        if self.next <= now {
            self.next = now + PAUSE;
            // There may be no way to it at this moment: it is silent then.
            let _ = self.ask();
        }
        now < self.heard + SILENCE
    }

    fn ask(&self) -> io::Result<()> {
        // Again each time, for the address of ours that it is asked from may have changed.
        connect(self.socket.as_raw_fd(), &SockaddrIn::from(std::net::SocketAddrV4::new(self.address, 0)))?;
        send(self.socket.as_raw_fd(), &request(), MsgFlags::empty())?;
        Ok(())
    }

    /// When to look again.
    pub fn deadline(&self) -> Duration {
        self.next.min(self.heard + SILENCE)
    }
}

impl AsFd for Probe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Type, code, checksum, and what comes back as it is.
fn request() -> [u8; 8] {
    let [a, b, c, d] = MARK;
    let word = |high: u8, low: u8| u32::from(u16::from_be_bytes([high, low]));
    let sum = word(ECHO_REQUEST, 0) + word(a, b) + word(c, d);
    let [high, low] = (!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes();
    [ECHO_REQUEST, 0, high, low, a, b, c, d]
}

/// A packet of a raw socket begins with its IP header, whose length in words is in the first byte (RFC 791, 3.1). A socket
/// that found no way yet is not connected, and hears everybody.
fn is_reply(packet: &[u8], from: Ipv4Addr) -> bool {
    let header = packet.first().map_or(0, |first| usize::from(first & 15) * 4);
    packet.get(12..16) == Some(&from.octets())
        && packet
            .get(header..)
            .is_some_and(|message| message.first() == Some(&ECHO_REPLY) && message.get(4..8) == Some(&MARK))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net;
    use proptest::prelude::*;

    #[test]
    fn who_is_there_answers_and_who_is_not_is_silent() {
        crate::net::tests::in_namespace(|| {
            net::loopback(&mut net::Network::open().unwrap()).unwrap();
            let start = Duration::from_secs(100);
            let mut near = Probe::start(Ipv4Addr::LOCALHOST, start).unwrap();
            let mut far = Probe::start(Ipv4Addr::new(10, 9, 9, 9), start).unwrap();
            for second in 0..20 {
                let now = start + Duration::from_secs(second);
                assert!(near.run(now), "{second}");
                assert_eq!(far.run(now), second < SILENCE.as_secs(), "{second}");
                std::thread::sleep(Duration::from_millis(5));
            }
        });
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(bytes in any::<Vec<u8>>()) {
            let _ = is_reply(&bytes, Ipv4Addr::LOCALHOST);
        }
    }
}
