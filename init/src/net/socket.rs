//! A route netlink socket: one request at a time, each acknowledged.

use std::io;

use netlink_packet_core::{Emitable, NetlinkBuffer};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use crate::error::{Doing, Error, Result};

/// Length of `struct nlmsghdr` (linux/netlink.h).
const HEADER: usize = 16;
/// Kind of an acknowledgement: `NLMSG_ERROR`, whose first word is 0 or a negative error number.
const NLMSG_ERROR: u16 = 2;

/// An open socket.
pub struct RouteSocket {
    socket: Socket,
    sequence: u32,
}

impl RouteSocket {
    /// Opens it in the network namespace of this thread.
    pub fn open() -> Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE).doing(|| "open a route netlink socket".to_owned())?;
        socket.bind_auto().doing(|| "bind a route netlink socket".to_owned())?;
        socket.connect(&SocketAddr::new(0, 0)).doing(|| "connect a route netlink socket".to_owned())?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends a request of `kind` and waits for its acknowledgement. `doing` completes "cannot ...".
    pub fn request(
        &mut self,
        kind: u16,
        flags: u16,
        payload: &impl Emitable,
        doing: impl FnOnce() -> String,
    ) -> Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut packet = vec![0; HEADER + payload.buffer_len()];
        let length =
            u32::try_from(packet.len()).map_err(|_| Error::Said("a netlink request is too long".to_owned()))?;
        let mut header = NetlinkBuffer::new(&mut packet);
        header.set_length(length);
        header.set_message_type(kind);
        header.set_flags(flags);
        header.set_sequence_number(self.sequence);
        payload.emit(&mut packet[HEADER..]);
        self.exchange(&packet).doing(doing)
    }

    fn exchange(&self, packet: &[u8]) -> io::Result<()> {
        self.socket.send(packet, 0)?;
        // An acknowledgement repeats the request.
        let mut answer = Vec::with_capacity(packet.len() + 4096);
        loop {
            answer.clear();
            self.socket.recv(&mut answer, 0)?;
            if let Some(outcome) = acknowledgement(&answer, self.sequence) {
                return outcome;
            }
        }
    }
}

/// What `datagram` says to the request with this sequence number; nothing, if it is about something else.
fn acknowledgement(datagram: &[u8], sequence: u32) -> Option<io::Result<()>> {
    let header = NetlinkBuffer::new_checked(datagram).ok()?;
    if header.message_type() != NLMSG_ERROR || header.sequence_number() != sequence {
        return None;
    }
    let (code, _) = header.payload().split_first_chunk()?;
    Some(match i32::from_ne_bytes(*code) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(kind: u16, sequence: u32, code: i32) -> Vec<u8> {
        let mut bytes = 36u32.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 2]);
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(code.to_ne_bytes());
        bytes.resize(36, 0);
        bytes
    }

    #[test]
    fn only_its_own_answer_counts() {
        assert!(acknowledgement(&answer(NLMSG_ERROR, 7, 0), 7).unwrap().is_ok());
        let refused = acknowledgement(&answer(NLMSG_ERROR, 7, -libc::EEXIST), 7).unwrap().unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EEXIST));
        assert!(acknowledgement(&answer(NLMSG_ERROR, 6, 0), 7).is_none());
        assert!(acknowledgement(&answer(16, 7, 0), 7).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(bytes in any::<Vec<u8>>()) {
            let _ = acknowledgement(&bytes, 0);
        }
    }
}
