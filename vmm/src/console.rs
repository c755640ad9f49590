//! The guest's console: the last of what it wrote, in a ring that outlives everybody who looks at it.
//!
//! A reader is a position in the stream. One that is slower than the guest loses the oldest bytes, never the guest's
//! time; so neither a flood nor a reader that stopped costs more than the ring.

use std::collections::VecDeque;
use std::sync::Mutex;

use vmm_sys_util::eventfd::EventFd;

use crate::error::{Error, Result};
use crate::serial::Sink;
use crate::sync::lock;

/// Bytes that the ring holds.
pub const RING_BYTES: usize = 256 * 1024;

#[derive(Debug, Default)]
struct Ring {
    bytes: VecDeque<u8>,
    /// Position in the stream of the first byte in the ring.
    start: u64,
    /// The event loop sleeps and wants to know of news.
    armed: bool,
}

impl Ring {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

/// The console's output.
#[derive(Debug)]
pub struct Console {
    ring: Mutex<Ring>,
    event: EventFd,
}

impl Console {
    /// An empty console.
    ///
    /// # Errors
    /// The host gives no eventfd.
    pub fn new() -> Result<Self> {
        let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(Error::host("make an eventfd"))?;
        Ok(Self { ring: Mutex::default(), event })
    }

    /// Signalled after [`Self::arm`] when there is output or room for input.
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    /// Copies what stands at `position` of the stream into `bytes`, or from the oldest byte that is left; says where
    /// the reader is then, and how many bytes it got.
    pub fn read(&self, position: u64, bytes: &mut [u8]) -> (u64, usize) {
        let ring = lock(&self.ring);
        let position = position.max(ring.start);
        let skip = (position - ring.start).min(ring.bytes.len() as u64) as usize;
        let count = bytes.len().min(ring.bytes.len() - skip);
        for (to, from) in bytes.iter_mut().zip(ring.bytes.iter().skip(skip).take(count)) {
            *to = *from;
        }
        (position + count as u64, count)
    }

    /// Asks for one signal of [`Self::event`] when output beyond `position` comes. False if it is there already.
    pub fn arm(&self, position: u64) -> bool {
        let mut ring = lock(&self.ring);
        let idle = position >= ring.end();
        ring.armed |= idle;
        idle
    }

    /// Whether a reader at `position` has read everything.
    pub fn is_at_end(&self, position: u64) -> bool {
        position >= lock(&self.ring).end()
    }
}

impl Sink for Console {
    fn put(&self, byte: u8) {
        let mut ring = lock(&self.ring);
        if ring.bytes.len() == RING_BYTES {
            ring.bytes.pop_front();
            ring.start += 1;
        }
        ring.bytes.push_back(byte);
        if std::mem::take(&mut ring.armed) {
            // A full counter is a signal that has yet to be seen.
            let _ = self.event.write(1);
        }
    }

    fn room(&self) {
        let _ = self.event.write(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console_with(text: &[u8]) -> Console {
        let console = Console::new().unwrap();
        text.iter().for_each(|byte| console.put(*byte));
        console
    }

    #[test]
    fn a_late_reader_sees_what_was_written_before() {
        let console = console_with(b"hello");
        let mut bytes = [0; 3];
        assert_eq!(console.read(0, &mut bytes), (3, 3));
        assert_eq!(&bytes, b"hel");
        assert_eq!(console.read(3, &mut bytes), (5, 2));
        assert_eq!(console.read(5, &mut bytes), (5, 0));
    }

    #[test]
    fn a_flood_costs_the_ring_and_the_slow_reader_the_oldest_bytes() {
        let console = console_with(&vec![b'x'; RING_BYTES + 10]);
        let mut bytes = vec![0; 2 * RING_BYTES];
        assert_eq!(console.read(0, &mut bytes), (RING_BYTES as u64 + 10, RING_BYTES));
        assert!(lock(&console.ring).bytes.capacity() <= 2 * RING_BYTES);
    }

    #[test]
    fn one_signal_for_each_time_it_is_asked_for() {
        let console = console_with(b"");
        assert!(console.arm(0));
        console.put(b'a');
        console.put(b'b');
        assert_eq!(console.event().read().unwrap(), 1);
        assert!(!console.arm(0));
        assert!(console.arm(2));
    }
}
