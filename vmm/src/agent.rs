//! What the guest's PID 1 says on its second serial port (see [`thimble_spec::vmm`]): lines, of which one counts.

use std::sync::Mutex;

use thimble_spec::vmm::AGENT_READY;
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
}

/// Listens to PID 1.
#[derive(Debug)]
pub struct Agent {
    line: Mutex<Line>,
    ready: EventFd,
}

impl Agent {
    /// Nothing has been said.
    ///
    /// # Errors
    /// The host gives no eventfd.
    pub fn new() -> Result<Self> {
        let ready = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(Error::host("make an eventfd"))?;
        Ok(Self { line: Mutex::default(), ready })
    }

    /// Readable once the guest has said that it is ready.
    pub fn ready(&self) -> &EventFd {
        &self.ready
    }
}

/// `ready SECONDS`; the terminal in the guest may have put a carriage return behind it.
fn is_ready(line: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(line) else { return false };
    let mut words = text.split_ascii_whitespace();
    let seconds = |word: &str| word.parse::<f64>().is_ok_and(|seconds| seconds.is_finite() && seconds >= 0.0);
    words.next() == Some(AGENT_READY) && words.next().is_some_and(seconds) && words.next().is_none()
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
        if !line.too_long && is_ready(&line.bytes) {
            // A full counter has been signalled often enough.
            let _ = self.ready.write(1);
        }
        line.bytes.clear();
        line.too_long = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hears(text: &[u8]) -> bool {
        let agent = Agent::new().unwrap();
        text.iter().for_each(|byte| agent.put(*byte));
        agent.ready().read().is_ok()
    }

    #[test]
    fn ready_is_heard() {
        for text in ["ready 1.25\n", "ready 1\r\n", "noise\nready 0.5\n"] {
            assert!(hears(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn anything_else_is_not() {
        for text in ["ready 1", "ready\n", "ready x\n", "ready inf\n", "ready -1\n", "ready 1 2\n", "steady 1\n"] {
            assert!(!hears(text.as_bytes()), "{text}");
        }
        assert!(!hears(&[b"ready 1".as_slice(), &[b' '; LINE_MAX], b"\n"].concat()));
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
