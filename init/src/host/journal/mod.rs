//! The log that PID 1 keeps: the kernel's, its own, its services', in bounded memory.

mod kernel;
mod outputs;
mod ring;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use thimble_spec::host::{Level, Logs, LogsVerb};

use crate::console;
use crate::error::Result;
pub use outputs::Echo;

/// The source of what PID 1 says itself.
const OWN: &str = "init";

/// All of it.
pub struct Journal {
    ring: ring::Ring,
    kernel: Option<kernel::KernelLog>,
    outputs: outputs::Outputs,
    by_kernel: Rc<str>,
    own: Rc<str>,
}

impl Journal {
    /// Begins with what the kernel wrote so far.
    pub fn open() -> Self {
        Self {
            ring: ring::Ring::default(),
            kernel: kernel::KernelLog::open(),
            outputs: outputs::Outputs::default(),
            by_kernel: "kernel".into(),
            own: OWN.into(),
        }
    }

    /// A pipe for what a service writes.
    ///
    /// # Errors
    /// There are too many, or no descriptors left.
    pub fn pipe(&mut self, source: &str, echo: Echo) -> Result<OwnedFd> {
        self.outputs.add(source, echo)
    }

    /// What to wait for.
    pub fn readers(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.kernel.iter().map(AsFd::as_fd).chain(self.outputs.readers())
    }

    /// When to look again if nothing comes.
    pub fn deadline(&self) -> Option<Duration> {
        self.outputs.deadline()
    }

    /// Takes everything that came, and tells of the lines of services.
    pub fn collect(&mut self, now: Duration, mut heard: impl FnMut(&str, &str)) {
        for record in self.kernel.as_mut().map(kernel::KernelLog::read).unwrap_or_default() {
            let (source, text) = match record.text.strip_prefix("init: ") {
                Some(text) if !record.by_kernel => (&self.own, text),
                _ => (&self.by_kernel, record.text.as_str()),
            };
            self.ring.push(record.time, record.level, source, text);
        }
        let ring = &mut self.ring;
        self.outputs.read(now, |source, echo, line| {
            if echo == Echo::Console {
                console::relay(line);
            }
            heard(source, line);
            let (level, text) = level(line);
            ring.push(now, level, source, text);
        });
        for line in console::said() {
            let (level, text) = level(&line);
            self.ring.push(now, level, &self.own, text);
        }
    }

    /// Lines for whoever asks.
    pub fn answer(&self, asked: &LogsVerb) -> Logs {
        self.ring.answer(asked)
    }
}

/// How grave a line is: by the number in angle brackets before it, as sd-daemon(3) has it, or by the contract of our own
/// programs; else it is information.
fn level(line: &str) -> (Level, &str) {
    let numbered = |line| -> Option<(Level, &str)> {
        let line: &str = line;
        let (number, text) = line.strip_prefix('<')?.split_once('>')?;
        let number: u8 = number.parse().ok()?;
        (number < 8).then(|| (Level::of(number), text))
    };
    if let Some(numbered) = numbered(line) {
        return numbered;
    }
    if line.starts_with("thimble: error ") {
        return (Level::Error, line);
    }
    if line.starts_with("thimble: ") {
        return (Level::Notice, line);
    }
    (Level::Info, line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_say_how_grave_they_are() {
        assert_eq!(level("<3>broken"), (Level::Error, "broken"));
        assert_eq!(level("<9>x").0, Level::Info);
        assert_eq!(level("<31>x").0, Level::Info);
        assert_eq!(level("thimble: error it is broken").0, Level::Error);
        assert_eq!(level("thimble: guest web1 running").0, Level::Notice);
        assert_eq!(level("hello"), (Level::Info, "hello"));
    }

    proptest! {
        #[test]
        fn any_line_is_safe(line in ".*", rest in "<[0-9]{0,3}>?.*") {
            level(&line);
            level(&rest);
        }
    }
}
