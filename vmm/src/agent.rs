//! What the guest's PID 1 says on its second serial port (see [`thimble_spec::vmm`]): lines, of which two kinds count.

use std::sync::Mutex;

use thimble_spec::vmm::{AGENT_FROZEN, AGENT_NOT_FROZEN, AGENT_READY};
use vmm_sys_util::eventfd::EventFd;

use crate::error::{Error, Result};
use crate::serial::Sink;
use crate::sync::lock;

/// Longest line that is looked at; a longer one is none of ours.
const LINE_MAX: usize = 128;

#[derive(Debug, Default)]
struct Line {
    bytes: Vec<u8>,
    too_long: bool,
    heard: Heard,
}

/// What PID 1 has said since the last look: of each kind the newest, so that one that goes on and on fills nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// That it is ready.
    pub ready: bool,
    /// Which request to freeze it answers, and whether it has done it.
    pub frozen: Option<(u32, bool)>,
}

/// Listens to PID 1.
#[derive(Debug)]
pub struct Agent {
    line: Mutex<Line>,
    said: EventFd,
}

impl Agent {
    /// Nothing has been said.
    ///
    /// # Errors
    /// The host gives no eventfd.
    pub fn new() -> Result<Self> {
        let said = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(Error::host("make an eventfd"))?;
        Ok(Self { line: Mutex::default(), said })
    }

    /// Readable once the guest has said something.
    pub fn said(&self) -> &EventFd {
        &self.said
    }

    /// What it was.
    pub fn take(&self) -> Heard {
        // Before the look: what comes after it is signalled again.
        let _ = self.said.read();
        std::mem::take(&mut lock(&self.line).heard)
    }
}

impl Heard {
    /// Takes note of a line; says whether it counts. The terminal in the guest may have put a carriage return behind it.
    fn note(&mut self, line: &[u8]) -> bool {
        let Ok(text) = std::str::from_utf8(line) else { return false };
        let mut words = text.split_ascii_whitespace();
        let (Some(word), Some(number), None) = (words.next(), words.next(), words.next()) else { return false };
        let seconds = || number.parse::<f64>().is_ok_and(|seconds| seconds.is_finite() && seconds >= 0.0);
        match word {
            AGENT_READY if seconds() => self.ready = true,
            AGENT_FROZEN | AGENT_NOT_FROZEN => match number.parse() {
                Ok(number) => self.frozen = Some((number, word == AGENT_FROZEN)),
                Err(_) => return false,
            },
            _ => return false,
        }
        true
    }
}

impl Sink for Agent {
    fn put(&self, byte: u8) {
        let mut line = lock(&self.line);
        if byte != b'\n' {
            line.too_long |= line.bytes.len() == LINE_MAX;
            if !line.too_long {
                line.bytes.push(byte);
            }
            return;
        }
        let Line { bytes, too_long, heard } = &mut *line;
        if !*too_long && heard.note(bytes) {
            // A full counter has been signalled often enough.
            let _ = self.said.write(1);
        }
        bytes.clear();
        *too_long = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn heard(text: &[u8]) -> Heard {
        let agent = Agent::new().unwrap();
        text.iter().for_each(|byte| agent.put(*byte));
        let said = agent.said().read().is_ok();
        let heard = agent.take();
        assert_eq!(said, heard != Heard::default());
        assert_eq!(agent.take(), Heard::default(), "it is told once");
        heard
    }

    #[test]
    fn ready_is_heard() {
        for text in ["ready 1.25\n", "ready 1\r\n", "noise\nready 0.5\n"] {
            assert_eq!(heard(text.as_bytes()), Heard { ready: true, frozen: None }, "{text}");
        }
    }

    #[test]
    fn the_newest_answer_counts() {
        assert_eq!(heard(b"frozen 7\r\n").frozen, Some((7, true)));
        assert_eq!(heard(b"frozen 7\nready 1\nthawed 8\n"), Heard { ready: true, frozen: Some((8, false)) });
    }

    #[test]
    fn anything_else_is_not() {
        for text in [
            "ready 1",
            "ready\n",
            "ready x\n",
            "ready inf\n",
            "ready -1\n",
            "ready 1 2\n",
            "steady 1\n",
            "frozen\n",
            "frozen -1\n",
            "thawed 4294967296\n",
        ] {
            assert_eq!(heard(text.as_bytes()), Heard::default(), "{text}");
        }
        assert_eq!(heard(&[b"ready 1".as_slice(), &[b' '; LINE_MAX], b"\n"].concat()), Heard::default());
    }

    proptest! {
        #[test]
        fn noise_is_bounded(text in prop::collection::vec(any::<u8>(), 0..2000)) {
            let agent = Agent::new().unwrap();
            text.iter().for_each(|byte| agent.put(*byte));
            prop_assert!(lock(&agent.line).bytes.len() <= LINE_MAX);
        }
    }
}
