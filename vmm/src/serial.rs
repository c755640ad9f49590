//! A serial port: a 16550A whose interrupt is an irqfd, whose output goes to a [`Sink`], and whose input waits in a
//! bounded queue until the guest has room for it.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;

use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, Serial};
use vmm_sys_util::eventfd::EventFd;

/// Most bytes that wait for the guest. Its port holds 64 more.
pub const INPUT_MAX: usize = 16 * 1024;

/// Takes what a guest writes. It must neither block nor grow without bound: a guest may write for ever.
pub trait Sink: Send + Sync {
    /// The guest wrote `byte`.
    fn put(&self, byte: u8);

    /// The guest has read input: there is room for more.
    fn room(&self) {}
}

/// The interrupt of a port.
#[derive(Debug)]
struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Makes a sink of what [`Serial`] wants, a writer.
struct Output(Arc<dyn Sink>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        bytes.iter().for_each(|byte| self.0.put(*byte));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A serial port of the guest.
pub struct SerialPort {
    serial: Serial<Line, NoEvents, Output>,
    waiting: VecDeque<u8>,
    sink: Arc<dyn Sink>,
}

impl SerialPort {
    /// A port that writes to `sink` and interrupts by `line`.
    pub fn new(line: EventFd, sink: Arc<dyn Sink>) -> Self {
        Self { serial: Serial::new(Line(line), Output(sink.clone())), waiting: VecDeque::new(), sink }
    }

    /// The guest reads a register.
    pub fn read(&mut self, register: u8) -> u8 {
        let value = self.serial.read(register);
        self.refill();
        value
    }

    /// The guest writes a register.
    pub fn write(&mut self, register: u8, value: u8) {
        // What can fail is the interrupt, whose counter is full only when one is pending already.
        let _ = self.serial.write(register, value);
        self.refill();
    }

    /// Number of bytes that [`Self::input`] would take now.
    pub fn room(&self) -> usize {
        INPUT_MAX - self.waiting.len()
    }

    /// Hands bytes to the guest; says how many were taken.
    pub fn input(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.room());
        self.waiting.extend(&bytes[..count]);
        self.refill();
        count
    }

    fn refill(&mut self) {
        let capacity = self.serial.fifo_capacity();
        if self.waiting.is_empty() || capacity == 0 {
            return;
        }
        let was_full = self.room() == 0;
        let count = capacity.min(self.waiting.len());
        let bytes: Vec<u8> = self.waiting.iter().copied().take(count).collect();
        // In loop-back mode, in which drivers probe the port, it takes nothing.
        if let Ok(taken) = self.serial.enqueue_raw_bytes(&bytes) {
            self.waiting.drain(..taken);
            if was_full && taken > 0 {
                self.sink.room();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Collector(Mutex<Vec<u8>>);

    impl Sink for Collector {
        fn put(&self, byte: u8) {
            self.0.lock().unwrap().push(byte);
        }
    }

    fn port() -> (SerialPort, Arc<Collector>) {
        let sink = Arc::new(Collector::default());
        (SerialPort::new(EventFd::new(libc::EFD_NONBLOCK).unwrap(), sink.clone()), sink)
    }

    #[test]
    fn output_reaches_the_sink() {
        let (mut port, sink) = port();
        b"hi".iter().for_each(|byte| port.write(0, *byte));
        assert_eq!(*sink.0.lock().unwrap(), b"hi");
    }

    #[test]
    fn long_input_arrives_whole_and_in_order() {
        let (mut port, _) = port();
        let text: Vec<u8> = (0..1000).map(|n| n as u8).collect();
        assert_eq!(port.input(&text), 1000);
        let read: Vec<u8> = (0..1000).map(|_| port.read(0)).collect();
        assert_eq!(read, text);
    }

    #[test]
    fn input_is_bounded() {
        let (mut port, _) = port();
        let taken = port.input(&vec![0; 100_000]);
        assert_eq!(taken, INPUT_MAX);
        assert_eq!(port.input(&[0; 100]), 64);
        assert_eq!(port.room(), 0);
    }
}
