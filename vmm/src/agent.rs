//! What the guest's PID 1 says on its second serial port (see [`thimble_spec::vmm`]): lines, of which three kinds count.

use std::sync::Mutex;

use thimble_spec::inside::{Inside, LINE_MAX};
use thimble_spec::vmm::{AGENT_FROZEN, AGENT_NOT_FROZEN, AGENT_READY, AGENT_SEEN};
use vmm_sys_util::eventfd::EventFd;

use crate::error::{Error, Result};
use crate::serial::Sink;
use crate::sync::lock;

#[derive(Debug, Default)]
struct Line {
    bytes: Vec<u8>,
    too_long: bool,
    heard: Heard,
}

/// What PID 1 has said since the last look: of each kind the newest, so that one that goes on and on fills nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heard {
    /// That it is ready.
    pub ready: bool,
    /// Which request to freeze it answers, and whether it has done it.
    pub frozen: Option<(u32, bool)>,
    /// Which request to say what the guest is like it answers, and how.
    pub seen: Option<(u32, Inside)>,
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
        let Some((word, rest)) = text.trim_ascii_end().split_once(' ') else { return false };
        if word == AGENT_SEEN {
            let seen = rest.split_once(' ').and_then(|(number, it)| Some((number.parse().ok()?, it.parse().ok()?)));
            let counts = seen.is_some();
            self.seen = seen.or(self.seen.take());
            return counts;
        }
        let number = rest;
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

    const LINE: &str = "12.34 0.00,0.01,0.05 62000 41000 1763900000123 10.1.1.11/24";

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
            assert_eq!(heard(text.as_bytes()), Heard { ready: true, ..Heard::default() }, "{text}");
        }
    }

    #[test]
    fn the_newest_answer_counts() {
        assert_eq!(heard(b"frozen 7\r\n").frozen, Some((7, true)));
        assert_eq!(
            heard(b"frozen 7\nready 1\nthawed 8\n"),
            Heard { ready: true, frozen: Some((8, false)), seen: None }
        );
        let seen =
            heard(format!("seen 6 {LINE}\r\nseen 7 {LINE}\nseen 8 nothing\nseen\nseen x {LINE}\n").as_bytes()).seen;
        assert_eq!(seen, Some((7, LINE.parse().unwrap())));
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
            "seen 1\n",
            "seen 1 2\n",
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
