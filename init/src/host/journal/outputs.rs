//! What services write: a pipe each, read in turns, cut into lines.
//!
//! A pipe lives as long as somebody can write to it, which may be longer than the service. One that is written to faster
//! than is good for PID 1 is left alone for a moment: its writers wait then.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use crate::error::{Doing, Error, Result};

/// So many pipes are read at once; there is one for each service, and for the node daemon one more for each of its lives
/// that left something behind.
const OUTPUTS_MAX: usize = 512;
/// A line is cut here.
const LINE_MAX: usize = 4608;
/// So much is read in a window.
const WINDOW_BYTES: usize = 64 << 10;
/// The length of a window.
const WINDOW: Duration = Duration::from_millis(100);

/// What becomes of the lines, besides that they are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo {
    /// Nothing.
    No,
    /// They are printed on the console as they are: lines of our own programs.
    Console,
}

/// One pipe.
struct Output {
    source: Rc<str>,
    echo: Echo,
    pipe: File,
    partial: Vec<u8>,
    /// What is left to be read until `window`.
    left: usize,
    window: Duration,
}

/// All of them.
#[derive(Default)]
pub struct Outputs {
    outputs: Vec<Output>,
}

impl Outputs {
    /// A new pipe for what `source` writes; gives the end to write to.
    ///
    /// # Errors
    /// There are too many, or no descriptors left.
    pub fn add(&mut self, source: &str, echo: Echo) -> Result<OwnedFd> {
        if self.outputs.len() >= OUTPUTS_MAX {
            return Err(Error::Said(format!("{OUTPUTS_MAX} outputs of services are read already")));
        }
        let doing = || format!("make a pipe for {source}");
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).doing(doing)?;
        // Only our end: a program expects that its output waits.
        let flags = nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK);
        nix::fcntl::fcntl(&reader, flags).doing(doing)?;
        let window = Duration::ZERO;
        let (source, pipe) = (source.into(), File::from(reader));
        self.outputs.push(Output { source, echo, pipe, partial: Vec::new(), left: WINDOW_BYTES, window });
        Ok(writer)
    }

    /// Those to wait for.
    pub fn readers(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.outputs.iter().filter(|output| output.left > 0).map(|output| output.pipe.as_fd())
    }

    /// When one that was left alone is read again.
    pub fn deadline(&self) -> Option<Duration> {
        self.outputs.iter().filter(|output| output.left == 0).map(|output| output.window).min()
    }

    /// Reads what came and tells of each line; forgets pipes that nobody can write to any more.
    pub fn read(&mut self, now: Duration, mut tell: impl FnMut(&Rc<str>, Echo, &str)) {
        self.outputs.retain_mut(|output| output.read(now, &mut tell));
    }
}

impl Output {
    fn read(&mut self, now: Duration, tell: &mut impl FnMut(&Rc<str>, Echo, &str)) -> bool {
        if self.window <= now {
            self.window = now + WINDOW;
            self.left = WINDOW_BYTES;
        }
        let mut buffer = [0; 4096];
        while self.left > 0 {
            let most = buffer.len().min(self.left);
            match self.pipe.read(&mut buffer[..most]) {
                Ok(0) => {
                    self.end_line(tell);
                    return false;
                }
                Ok(count) => {
                    self.left -= count;
                    self.take(&buffer[..count], tell);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        true
    }

    fn take(&mut self, bytes: &[u8], tell: &mut impl FnMut(&Rc<str>, Echo, &str)) {
        for byte in bytes {
            if *byte == b'\n' {
                self.end_line(tell);
            } else if self.partial.len() < LINE_MAX {
                self.partial.push(*byte);
            }
        }
    }

    fn end_line(&mut self, tell: &mut impl FnMut(&Rc<str>, Echo, &str)) {
        let line = String::from_utf8_lossy(&self.partial);
        let line = line.trim_end();
        if !line.is_empty() {
            tell(&self.source, self.echo, line);
        }
        self.partial.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn lines(outputs: &mut Outputs, now: u64) -> Vec<String> {
        let mut lines = Vec::new();
        outputs.read(Duration::from_millis(now), |source, _, line| lines.push(format!("{source}:{line}")));
        lines
    }

    #[test]
    fn lines_come_whole_and_the_last_one_at_the_end() {
        let mut outputs = Outputs::default();
        let mut writer = File::from(outputs.add("ntp", Echo::No).unwrap());
        writer.write_all(b"one\n\n  two\r\nthr").unwrap();
        assert_eq!(lines(&mut outputs, 0), ["ntp:one", "ntp:  two"]);
        writer.write_all(b"ee").unwrap();
        drop(writer);
        assert_eq!(lines(&mut outputs, 1), ["ntp:three"]);
        assert_eq!(outputs.readers().count(), 0, "nobody can write to it any more");
    }

    #[test]
    fn who_floods_is_left_alone_for_a_moment() {
        let mut outputs = Outputs::default();
        let writer = outputs.add("flood", Echo::No).unwrap();
        nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETPIPE_SZ(1 << 20)).unwrap();
        let mut writer = File::from(writer);
        writer.write_all(&b"x\n".repeat(100 << 10)).unwrap();
        assert_eq!(lines(&mut outputs, 0).len(), WINDOW_BYTES / 2);
        assert_eq!((outputs.readers().count(), outputs.deadline()), (0, Some(WINDOW)));
        assert_eq!(lines(&mut outputs, 50).len(), 0);
        assert_eq!(lines(&mut outputs, 100).len(), WINDOW_BYTES / 2);
        writer.write_all(&[b'y'; 3 * LINE_MAX]).unwrap();
        writer.write_all(b"\n").unwrap();
        assert!(lines(&mut outputs, 200).iter().chain(&lines(&mut outputs, 300)).all(|line| line.len() < LINE_MAX + 9));
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(bytes in any::<Vec<u8>>()) {
            let mut outputs = Outputs::default();
            File::from(outputs.add("s", Echo::No).unwrap()).write_all(&bytes).unwrap();
            lines(&mut outputs, 0);
        }
    }
}
