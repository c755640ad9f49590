//! Packets from the host to the driver (virtio 1.2, sections 5.1.6.3 and 5.1.6.4).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::GuestMemoryMmap;

use super::super::config::{F_GUEST_CSUM, F_MRG_RXBUF};
use super::super::port::Port;
use super::super::tap::HEADER_BYTES;
use crate::virtio::limit::Limiter;
use crate::virtio::ring::{Ring, RingError};
use crate::virtio::{Progress, Service};

/// The largest message of a tap: a segment of 64 KiB and its headers.
pub const MESSAGE_MOST: usize = HEADER_BYTES + 65_550;
/// Where `flags` stands in the header (section 5.1.6).
const FLAGS: usize = 0;
/// Where `num_buffers` stands in the header (section 5.1.6).
const NUM_BUFFERS: usize = 10;

/// Takes packets from the host and lays them into the driver's buffers.
///
/// With `MRG_RXBUF` a packet may need several buffers, and how many is known only when it is here: so it passes through
/// `held`. There a packet also waits for a limit, or until the driver gives buffers. More packets than that one wait in
/// the host's queue, which drops what does not fit.
#[derive(Debug)]
pub struct Receiver {
    limiter: Limiter,
    mergeable: bool,
    checksums: bool,
    held: Box<[u8]>,
    held_len: usize,
    /// What the limit has said of the packet that is held.
    verdict: Verdict,
}

/// What a limit says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It has not been asked.
    Open,
    /// To wait.
    Wait,
    /// To go.
    Go,
}

impl Receiver {
    /// One that holds nothing and keeps to `limiter`.
    pub fn new(limiter: Limiter) -> Self {
        let held = vec![0; MESSAGE_MOST].into_boxed_slice();
        Self { limiter, mergeable: false, checksums: false, held, held_len: 0, verdict: Verdict::Open }
    }

    /// Starts afresh for a driver with these features.
    pub fn start(&mut self, features: u64) {
        self.mergeable = features & F_MRG_RXBUF != 0;
        self.checksums = features & F_GUEST_CSUM != 0;
        self.forget();
        self.limiter.fired();
    }

    /// Drops what it holds.
    pub fn forget(&mut self) {
        self.held_len = 0;
    }

    /// Becomes readable when the packet that waits may go.
    pub fn timer(&self) -> BorrowedFd<'_> {
        self.limiter.source()
    }

    /// The timer has fired.
    pub fn resume(&mut self) {
        self.limiter.fired();
    }

    /// Receives until the host has no more, the driver has no buffers, or the limit is reached.
    ///
    /// # Errors
    /// The driver broke the rules.
    pub fn receive(&mut self, port: &Port, pair: usize, ring: &mut Ring, memory: &GuestMemoryMmap) -> Service {
        if self.limiter.is_waiting() {
            return Ok(Progress::Done);
        }
        for _ in 0..ring.size() {
            if self.held_len == 0 {
                if !self.fetch(port.wire(pair)) {
                    return Ok(Progress::Done);
                }
                if !port.admits(&self.held[..self.held_len]) {
                    port.counters.dropped();
                    self.forget();
                    continue;
                }
                self.verdict = Verdict::Open;
            }
            if self.verdict != Verdict::Go {
                if !self.limiter.take((self.held_len - HEADER_BYTES) as u64) {
                    if std::mem::replace(&mut self.verdict, Verdict::Wait) == Verdict::Open {
                        port.counters.throttled();
                    }
                    return Ok(Progress::Done);
                }
                self.verdict = Verdict::Go;
            }
            if !self.deliver(port, ring, memory)? {
                // Kicks are wanted while buffers lack. The driver may have given some while we asked for them.
                if !ring.want_kicks(memory)? {
                    return Ok(Progress::Done);
                }
                continue;
            }
            ring.spare_kicks(memory)?;
        }
        Ok(Progress::More)
    }

    /// Reads a packet; false if there is none.
    fn fetch(&mut self, wire: BorrowedFd<'_>) -> bool {
        loop {
            // SAFETY: the buffer has as many bytes as the call is told.
            let count = unsafe { libc::read(wire.as_raw_fd(), self.held.as_mut_ptr().cast(), self.held.len()) };
            match usize::try_from(count) {
                Ok(count) if count > HEADER_BYTES => {
                    self.held_len = count;
                    return true;
                }
                // A message without a packet.
                Ok(count) if count > 0 => {}
                Ok(_) => return false,
                Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }

    /// Lays the held packet into as many buffers as it needs; false, and nothing used, if there are too few now.
    fn deliver(&mut self, port: &Port, ring: &mut Ring, memory: &GuestMemoryMmap) -> Result<bool, RingError> {
        let packet = &mut self.held[..self.held_len];
        let mut chains = Vec::new();
        let mut room = 0;
        while room < packet.len() && (self.mergeable || chains.is_empty()) {
            let Some(chain) = ring.pop(memory)? else {
                ring.unpop(chains.len());
                return Ok(false);
            };
            let length = chain.writable.len();
            if length < HEADER_BYTES {
                return Err(RingError::Shape(chain.head));
            }
            room += length;
            chains.push(chain);
        }
        self.held_len = 0;
        if room < packet.len() {
            // Too large for the one buffer that a driver without merging gives: the buffer waits for the next.
            ring.unpop(chains.len());
            port.counters.dropped();
            return Ok(true);
        }
        if !self.checksums {
            // What the host says of checksums is not for a driver that did not ask (section 5.1.6.4.1).
            packet[FLAGS] = 0;
        }
        // The driver sees how many buffers make up the packet (section 5.1.6.4).
        packet[NUM_BUFFERS..NUM_BUFFERS + 2].copy_from_slice(&(chains.len() as u16).to_le_bytes());
        let mut rest: &[u8] = packet;
        let mut used = Vec::with_capacity(chains.len());
        for chain in &chains {
            let count = chain.writable.fill(rest);
            rest = &rest[count..];
            used.push((chain.head, count as u32));
        }
        ring.push_all(memory, &used)?;
        port.counters.received(packet.len() - HEADER_BYTES);
        Ok(true)
    }
}
