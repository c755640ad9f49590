//! Packets from the driver to the host (virtio 1.2, sections 5.1.6.1 and 5.1.6.2).

use std::os::fd::BorrowedFd;

use vm_memory::GuestMemoryMmap;

use super::super::port::Port;
use super::super::tap::HEADER_BYTES;
use super::receive::MESSAGE_MOST;
use crate::virtio::limit::Limiter;
use crate::virtio::ring::{Ring, RingError};
use crate::virtio::{Progress, Service};

/// Sends a queue's packets.
#[derive(Debug)]
pub struct Transmitter {
    limiter: Limiter,
    /// The next packet has been made to wait.
    delayed: bool,
}

impl Transmitter {
    /// One that keeps to `limiter`.
    pub fn new(limiter: Limiter) -> Self {
        Self { limiter, delayed: false }
    }

    /// Starts afresh.
    pub fn start(&mut self) {
        self.delayed = false;
        self.limiter.fired();
    }

    /// Becomes readable when a packet that waits may go.
    pub fn timer(&self) -> BorrowedFd<'_> {
        self.limiter.source()
    }

    /// The timer has fired.
    pub fn resume(&mut self) {
        self.limiter.fired();
    }

    /// Sends until the driver has no more or the limit is reached. What the host does not take is lost, as on a wire;
    /// so is what is too short or too long to be a packet. A packet that must wait stays in the ring.
    ///
    /// # Errors
    /// The driver broke the rules.
    pub fn transmit(&mut self, port: &Port, pair: usize, ring: &mut Ring, memory: &GuestMemoryMmap) -> Service {
        if self.limiter.is_waiting() {
            return Ok(Progress::Done);
        }
        ring.spare_kicks(memory)?;
        for _ in 0..ring.size() {
            let Some(chain) = ring.pop(memory)? else {
                if !ring.want_kicks(memory)? {
                    return Ok(Progress::Done);
                }
                ring.spare_kicks(memory)?;
                continue;
            };
            if chain.readable.is_empty() {
                return Err(RingError::Shape(chain.head));
            }
            let message = chain.readable.len();
            let bytes = message.saturating_sub(HEADER_BYTES);
            if !self.limiter.take(bytes as u64) {
                if !std::mem::replace(&mut self.delayed, true) {
                    port.counters.throttled();
                }
                ring.unpop(1);
                return Ok(Progress::Done);
            }
            self.delayed = false;
            if message <= MESSAGE_MOST && chain.readable.send(port.wire(pair)).is_ok() {
                port.counters.sent(bytes);
            } else {
                port.counters.dropped();
            }
            ring.push(memory, chain.head, 0)?;
        }
        Ok(Progress::More)
    }
}
