//! A netfilter netlink socket.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};

use super::rules::{Family, Table};
use super::wire::{Batch, FAMILY, read_counter};
use crate::error::{Doing, Result};
use crate::net::socket::{NLMSG_DONE, NLMSG_ERROR, acknowledgement, messages};

/// The most that the kernel puts into one datagram of a dump (`netlink_dump`, net/netlink/af_netlink.c).
const DATAGRAM: usize = 32 << 10;

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// An open socket.
pub struct NftSocket {
    socket: Socket,
    sequence: u32,
}

impl NftSocket {
    /// Opens it in the network namespace of this thread.
    ///
    /// # Errors
    /// The kernel has no nf_tables, or its module is not loaded.
    pub fn open() -> Result<Self> {
        let open = || {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok::<_, io::Error>(Self { socket, sequence: 0 })
        };
        open().doing(|| "open a netfilter netlink socket".to_owned())
    }

    /// Puts `tables` in the place of all that were made by this before: at no moment is there less. What counters of the
    /// same name have counted stays.
    ///
    /// # Errors
    /// The kernel refuses them; it has what it had.
    pub fn replace(&mut self, tables: &[Table]) -> Result<()> {
        let counted = self.counters()?;
        self.sequence = self.sequence.wrapping_add(1);
        let batch = Batch::replace(tables, &counted, self.sequence);
        let exchange = || {
            // The whole transaction is one datagram, and may be larger than what a socket sends by default.
            // SAFETY: the descriptor belongs to `self.socket`, which lives longer than the borrow.
            let socket = unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) };
            setsockopt(&socket, sockopt::SndBufForce, &(batch.bytes().len() * 2))?;
            self.socket.send(batch.bytes(), 0)?;
            loop {
                let mut datagram = Vec::with_capacity(DATAGRAM);
                self.socket.recv(&mut datagram, 0)?;
                if let Some(outcome) = acknowledgement(&datagram, self.sequence) {
                    return outcome;
                }
            }
        };
        exchange().doing(|| "set the rules of the firewall".to_owned())
    }

    /// All counters, by family and name.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn counters(&mut self) -> Result<BTreeMap<(Family, String), Counter>> {
        let mut counters = BTreeMap::new();
        for family in [Family::Inet, Family::Bridge] {
            self.sequence = self.sequence.wrapping_add(1);
            let found = self.ask(&Batch::counters(family, self.sequence));
            let found = found.doing(|| "read the counters of the firewall".to_owned())?;
            counters.extend(found.into_iter().map(|(name, counter)| ((family, name), counter)));
        }
        Ok(counters)
    }

    fn ask(&self, packet: &[u8]) -> io::Result<Vec<(String, Counter)>> {
        self.socket.send(packet, 0)?;
        let mut counters = Vec::new();
        loop {
            let mut datagram = Vec::with_capacity(DATAGRAM);
            self.socket.recv(&mut datagram, 0)?;
            for (kind, _, message) in messages(&datagram, self.sequence) {
                match kind {
                    NLMSG_DONE => return Ok(counters),
                    NLMSG_ERROR => acknowledgement(&datagram, self.sequence).unwrap_or(Ok(()))?,
                    _ => counters.extend(message.get(FAMILY..).and_then(read_counter)),
                }
            }
        }
    }
}
