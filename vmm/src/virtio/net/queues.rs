//! The receive and the transmit queue (virtio 1.2, section 5.1.6).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::GuestMemoryMmap;

use super::config::F_MRG_RXBUF;
use super::tap::HEADER_BYTES;
use crate::virtio::ring::{Chain, Ring, RingError};
use crate::virtio::{Progress, Service};

/// The largest message of a tap: a segment of 64 KiB and its headers.
const MOST: usize = HEADER_BYTES + 65_550;
/// Where `num_buffers` stands in the header (section 5.1.6).
const NUM_BUFFERS: usize = 10;

/// Sends one packet. What the host does not take is lost, as on a wire; so is a packet too short to be one.
///
/// # Errors
/// There is nothing to send.
pub fn transmit(tap: BorrowedFd<'_>, chain: &mut Chain<'_>) -> Result<u32, RingError> {
    if chain.readable.is_empty() {
        return Err(RingError::Shape(chain.head));
    }
    let _ = chain.readable.send(tap);
    Ok(0)
}

/// Takes packets from the tap and lays them into the driver's buffers.
///
/// With `MRG_RXBUF` a packet may need several buffers, and how many is known only when it is here: so it passes through
/// `held`, which also keeps a packet for which there are no buffers until the driver gives some. More packets than that
/// one wait in the host's queue, which drops what does not fit.
#[derive(Debug)]
pub struct Receiver {
    mergeable: bool,
    held: Box<[u8]>,
    held_len: usize,
}

impl Receiver {
    /// A receiver that holds nothing.
    pub fn new() -> Self {
        Self { mergeable: false, held: vec![0; MOST].into_boxed_slice(), held_len: 0 }
    }

    /// Starts afresh for a driver with these features.
    pub fn start(&mut self, features: u64) {
        self.mergeable = features & F_MRG_RXBUF != 0;
        self.held_len = 0;
    }

    /// Receives until the tap is empty or the driver has no buffers.
    ///
    /// # Errors
    /// The driver broke the rules.
    pub fn receive(&mut self, tap: BorrowedFd<'_>, ring: &mut Ring, memory: &GuestMemoryMmap) -> Service {
        for _ in 0..ring.size() {
            if self.held_len == 0 && !self.fetch(tap) {
                return Ok(Progress::Done);
            }
            if !self.deliver(ring, memory)? {
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
    fn fetch(&mut self, tap: BorrowedFd<'_>) -> bool {
        loop {
            // SAFETY: the buffer has as many bytes as the call is told.
            let count = unsafe { libc::read(tap.as_raw_fd(), self.held.as_mut_ptr().cast(), self.held.len()) };
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
    fn deliver(&mut self, ring: &mut Ring, memory: &GuestMemoryMmap) -> Result<bool, RingError> {
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
            // Too large for the one buffer that a driver without merging gives: dropped, the buffer waits for the next.
            ring.unpop(chains.len());
            return Ok(true);
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
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
