//! A route netlink socket: one request at a time, each acknowledged.

use std::io;

use netlink_packet_core::{Emitable, NetlinkBuffer};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use crate::error::{Doing, Error, Result};

/// Length of `struct nlmsghdr` (linux/netlink.h).
const HEADER: usize = 16;
/// Kind of an acknowledgement: `NLMSG_ERROR`, whose first word is 0 or a negative error number.
pub(super) const NLMSG_ERROR: u16 = 2;
// A dump's request, end and mark that something changed meanwhile (linux/netlink.h).
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP: u16 = 0x300;
pub(super) const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
/// The most that the kernel puts into one datagram of a dump (`netlink_dump`, net/netlink/af_netlink.c).
const DATAGRAM: usize = 32 << 10;
/// So often a dump is asked for.
const DUMPS: u32 = 8;

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
        let packet = self.packet(kind, flags, payload)?;
        self.exchange(&packet).doing(doing)
    }

    fn packet(&mut self, kind: u16, flags: u16, payload: &impl Emitable) -> Result<Vec<u8>> {
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
        Ok(packet)
    }

    /// Sends a request that is answered by one message and gives what is behind its header. `doing` completes
    /// "cannot ...".
    #[cfg(feature = "host")]
    pub fn ask(&mut self, kind: u16, payload: &impl Emitable, doing: impl FnOnce() -> String) -> Result<Vec<u8>> {
        let packet = self.packet(kind, NLM_F_REQUEST, payload)?;
        let ask = || {
            self.socket.send(&packet, 0)?;
            loop {
                let mut datagram = Vec::with_capacity(DATAGRAM);
                self.socket.recv(&mut datagram, 0)?;
                for (kind, _, message) in messages(&datagram, self.sequence) {
                    match kind {
                        NLMSG_ERROR => acknowledgement(&datagram, self.sequence).unwrap_or(Ok(()))?,
                        _ => return Ok::<_, io::Error>(message.to_vec()),
                    }
                }
            }
        };
        ask().doing(doing)
    }

    /// Asks for everything of a kind; each answer without its header. A dump during which something changed is asked
    /// for again.
    pub fn dump(&mut self, kind: u16, payload: &impl Emitable, what: &str) -> Result<Vec<Vec<u8>>> {
        for _ in 0..DUMPS {
            let packet = self.packet(kind, NLM_F_REQUEST | NLM_F_DUMP, payload)?;
            if let Some(answers) = self.collect(&packet).doing(|| format!("ask the kernel for its {what}"))? {
                return Ok(answers);
            }
        }
        Err(Error::Said(format!("the kernel's {what} change faster than they can be read")))
    }

    fn collect(&self, packet: &[u8]) -> io::Result<Option<Vec<Vec<u8>>>> {
        self.socket.send(packet, 0)?;
        let (mut answers, mut torn) = (Vec::new(), false);
        loop {
            let mut datagram = Vec::with_capacity(DATAGRAM);
            self.socket.recv(&mut datagram, 0)?;
            for (kind, flags, message) in messages(&datagram, self.sequence) {
                torn |= flags & NLM_F_DUMP_INTR != 0;
                match kind {
                    NLMSG_DONE => return Ok((!torn).then_some(answers)),
                    NLMSG_ERROR => {
                        acknowledgement(&datagram, self.sequence).unwrap_or(Ok(()))?;
                        return Ok(Some(answers));
                    }
                    _ => answers.push(message.to_vec()),
                }
            }
        }
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

/// The messages of a datagram that answer the request with this sequence number: kind, flags, and what is behind the
/// header.
pub(super) fn messages(datagram: &[u8], sequence: u32) -> Vec<(u16, u16, &[u8])> {
    let mut messages = Vec::new();
    let mut rest = datagram;
    while let Ok(header) = NetlinkBuffer::new_checked(rest) {
        let length = header.length() as usize;
        if header.sequence_number() == sequence {
            messages.push((header.message_type(), header.flags(), rest.get(HEADER..length).unwrap_or_default()));
        }
        // Each begins at a multiple of four (`NLMSG_ALIGN`).
        let Some(next) = rest.get(length.next_multiple_of(4).max(HEADER)..) else { break };
        rest = next;
    }
    messages
}

/// What `datagram` says to the request with this sequence number; nothing, if it is about something else.
pub(super) fn acknowledgement(datagram: &[u8], sequence: u32) -> Option<io::Result<()>> {
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
            let _ = messages(&bytes, 0);
        }
    }
}
