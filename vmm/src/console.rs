//! The guest's console: the last of what it wrote, in a ring that outlives everybody who looks at it.
//!
//! A reader is a position in the stream. One that is slower than the guest loses the oldest bytes, never the guest's
//! time; so neither a flood nor a reader that stopped costs more than the ring.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use crate::error::{Error, Result};
use crate::phases::{self, Phase};
use crate::serial::{INPUT_MAX, Sink};
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

    /// The guest wrote `text`.
    pub fn write(&self, text: &[u8]) {
        let mut ring = lock(&self.ring);
        let kept = &text[text.len().saturating_sub(RING_BYTES)..];
        let lost = (ring.bytes.len() + kept.len()).saturating_sub(RING_BYTES);
        ring.bytes.drain(..lost);
        ring.bytes.extend(kept);
        ring.start += (lost + text.len() - kept.len()) as u64;
        if std::mem::take(&mut ring.armed) {
            // A full counter is a signal that has yet to be seen.
            let _ = self.event.write(1);
        }
    }

    /// Whether a reader at `position` has read everything.
    pub fn is_at_end(&self, position: u64) -> bool {
        position >= lock(&self.ring).end()
    }
}

impl Sink for Console {
    fn put(&self, byte: u8) {
        phases::mark(Phase::Console);
        self.write(&[byte]);
    }

    fn room(&self) {
        let _ = self.event.write(1);
    }
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: VecDeque<u8>,
    /// A driver runs the device.
    open: bool,
}

/// What clients typed and a virtio console has yet to take: at most [`INPUT_MAX`] bytes, and none while no driver runs
/// the device. The console's event tells clients of room, as it does for the serial port.
#[derive(Debug)]
pub struct Input {
    console: Arc<Console>,
    waiting: Mutex<Waiting>,
    event: EventFd,
}

impl Input {
    /// Nothing was typed at `console`, and nobody listens.
    ///
    /// # Errors
    /// The host gives no eventfd.
    pub fn new(console: Arc<Console>) -> Result<Self> {
        let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(Error::host("make an eventfd"))?;
        Ok(Self { console, waiting: Mutex::default(), event })
    }

    /// Where the output goes.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// Signalled when there is something to take.
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    /// Number of bytes that [`Self::put`] would take now; `None` if no driver runs the device.
    pub fn room(&self) -> Option<usize> {
        let waiting = lock(&self.waiting);
        waiting.open.then(|| INPUT_MAX - waiting.bytes.len())
    }

    /// Hands bytes to the guest; says how many were taken, or `None` if no driver runs the device.
    pub fn put(&self, bytes: &[u8]) -> Option<usize> {
        let mut waiting = lock(&self.waiting);
        if !waiting.open {
            return None;
        }
        let count = bytes.len().min(INPUT_MAX - waiting.bytes.len());
        waiting.bytes.extend(&bytes[..count]);
        // A full counter is a signal that has yet to be seen.
        let _ = self.event.write(1);
        Some(count)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        lock(&self.waiting).bytes.is_empty()
    }

    /// Takes what waits, as much as fits; says how much.
    pub fn take(&self, bytes: &mut [u8]) -> usize {
        let mut waiting = lock(&self.waiting);
        let was_full = waiting.bytes.len() == INPUT_MAX;
        let count = bytes.len().min(waiting.bytes.len());
        for (to, from) in bytes.iter_mut().zip(waiting.bytes.drain(..count)) {
            *to = from;
        }
        if was_full && count > 0 {
            self.console.room();
        }
        count
    }

    /// A driver runs the device from now on: input comes here, where there is room.
    pub fn open(&self) {
        *lock(&self.waiting) = Waiting { open: true, ..Waiting::default() };
        self.console.room();
    }

    /// The driver is gone, and what it has not taken with it.
    pub fn close(&self) {
        *lock(&self.waiting) = Waiting::default();
        self.console.room();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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

    #[test]
    fn input_is_bounded_and_told_of_room_once_it_was_full() {
        let console = Arc::new(console_with(b""));
        let input = Input::new(console.clone()).unwrap();
        assert_eq!((input.room(), input.put(b"x")), (None, None));
        input.open();
        assert_eq!(console.event().read().unwrap(), 1);
        assert_eq!(input.put(&vec![b'x'; INPUT_MAX + 5]), Some(INPUT_MAX));
        assert_eq!((input.room(), input.put(b"x")), (Some(0), Some(0)));
        assert_eq!(input.take(&mut [0; 10]), 10);
        assert_eq!(console.event().read().unwrap(), 1);
        assert_eq!(input.take(&mut [0; 10]), 10);
        assert!(console.event().read().is_err());
        assert_eq!(input.room(), Some(20));
        input.close();
        assert!(input.is_empty() && input.room().is_none());
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_make_the_same_stream(pieces in prop::collection::vec(1usize..RING_BYTES * 3 / 2, 1..6)) {
            let (console, mut written) = (console_with(b""), Vec::new());
            for length in pieces {
                let piece: Vec<u8> = (0..length).map(|n| (written.len() + n) as u8).collect();
                console.write(&piece);
                written.extend(piece);
            }
            let mut bytes = vec![0; 2 * RING_BYTES];
            let (position, count) = console.read(0, &mut bytes);
            prop_assert_eq!(position, written.len() as u64);
            prop_assert_eq!(&bytes[..count], &written[written.len().saturating_sub(RING_BYTES)..]);
        }
    }
}
