//! What a VMM says to its minder: a report of its end, and complaints on its standard error. Both come through pipes
//! whose other ends a guest may have taken over, so both are bounded.

use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use thimble_spec::console::{SENTENCE_MAX, one_line};
use thimble_spec::vmm::{Exit, ExitReason};

/// Longest report of a VMM.
const REPORT_MAX: usize = 64 * 1024;
/// Most bytes of complaints that are shown. An honest VMM has a few sentences; the rest is for a developer's backtrace.
const COMPLAINTS_MAX: usize = 64 * 1024;

/// The reading end of a pipe, until its other end is closed.
#[derive(Debug)]
struct Pipe(Option<PipeReader>);

impl Pipe {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(AsFd::as_fd)
    }

    /// Reads once, what there is; nothing is the end.
    fn read<'a>(&mut self, bytes: &'a mut [u8]) -> &'a [u8] {
        let Some(pipe) = &mut self.0 else { return &[] };
        loop {
            match pipe.read(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(count @ 1..) => return &bytes[..count],
                Ok(0) | Err(_) => {
                    self.0 = None;
                    return &[];
                }
            }
        }
    }
}

/// The report.
#[derive(Debug)]
pub(super) struct Report {
    pipe: Pipe,
    bytes: Vec<u8>,
}

impl Report {
    /// What will come through `pipe`.
    pub(super) fn new(pipe: PipeReader) -> Self {
        Self { pipe: Pipe(Some(pipe)), bytes: Vec::new() }
    }

    /// To be watched; `None` once it is complete.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.fd()
    }

    /// Takes what is there. What goes beyond [`REPORT_MAX`] is lost: no report is as long.
    pub(super) fn take(&mut self) {
        let mut chunk = [0; 4096];
        let chunk = self.pipe.read(&mut chunk);
        let room = REPORT_MAX - self.bytes.len();
        self.bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }

    /// The guest's end, once all of the report is here and tells of one: a VMM that failed may still hold something.
    pub(super) fn exit_of_guest(&self) -> Option<Exit> {
        let complete = self.bytes.last() == Some(&b'\n');
        self.exit().filter(|exit| complete && !matches!(exit.reason, ExitReason::Error(_)))
    }

    /// What it says, if it is one; a sentence in it is one line from here on, whoever wrote it.
    pub(super) fn exit(&self) -> Option<Exit> {
        let exit: Exit = serde_json::from_slice(&self.bytes).ok()?;
        Some(Exit { reason: exit.reason.tamed(), ..exit })
    }
}

/// The complaints, which are handed on line by line.
#[derive(Debug)]
pub(super) struct Complaints {
    pipe: Pipe,
    line: Vec<u8>,
    left: usize,
}

impl Complaints {
    /// What will come through `pipe`.
    pub(super) fn new(pipe: PipeReader) -> Self {
        Self { pipe: Pipe(Some(pipe)), line: Vec::new(), left: COMPLAINTS_MAX }
    }

    /// To be watched; `None` once there will be no more.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.fd()
    }

    /// Takes what is there, and shows the lines in it on `out`, which may be gone.
    pub(super) fn take(&mut self, out: &mut impl Write) {
        let mut chunk = [0; 4096];
        let chunk = self.pipe.read(&mut chunk);
        let shown = chunk.len().min(self.left);
        for byte in &chunk[..shown] {
            match byte {
                b'\n' => self.show(out),
                byte => self.line.push(*byte),
            }
            if self.line.len() >= SENTENCE_MAX {
                self.show(out);
            }
        }
        self.left -= shown;
        let ended = self.pipe.fd().is_none() || self.left == 0;
        if ended && !self.line.is_empty() {
            self.show(out);
        }
        if shown > 0 && self.left == 0 {
            self.line.extend(b"thimble-vmm: the VMM says more than is shown");
            self.show(out);
        }
    }

    fn show(&mut self, out: &mut impl Write) {
        let line = one_line(&String::from_utf8_lossy(&self.line), SENTENCE_MAX);
        self.line.clear();
        // One write, so that lines of several processes do not mix; nobody may be there to read it.
        let _ = out.write_all(format!("{line}\n").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is shown of `said`.
    fn shown(said: &[u8]) -> String {
        let (pipe, mut end) = io::pipe().unwrap();
        let mut complaints = Complaints::new(pipe);
        let mut out = Vec::new();
        for chunk in said.chunks(4096) {
            end.write_all(chunk).unwrap();
            complaints.take(&mut out);
        }
        drop(end);
        complaints.take(&mut out);
        assert!(complaints.fd().is_none());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn complaints_are_lines_of_what_can_be_seen() {
        assert_eq!(shown(b""), "");
        assert_eq!(shown(b"one\ntwo\x1b[2J\rthree"), "one\ntwo [2J three\n");
        assert_eq!(shown(b"\xff\xc2\x9b1A\n"), "\u{fffd} 1A\n");
    }

    #[test]
    fn a_flood_of_complaints_ends() {
        for flood in [vec![b'x'; 1 << 20], vec![b'\n'; 1 << 20], b"x\n".repeat(1 << 19)] {
            let shown = shown(&flood);
            assert!(shown.len() < 2 * COMPLAINTS_MAX, "{}", shown.len());
            assert!(shown.lines().all(|line| line.len() <= SENTENCE_MAX));
            assert_eq!(shown.matches("more than is shown\n").count(), 1);
        }
    }

    #[test]
    fn a_report_is_bounded_and_one_line() {
        let (pipe, mut end) = io::pipe().unwrap();
        let mut report = Report::new(pipe);
        let text = br#"{"reason":{"kind":"error","detail":"\n\u001b[2Jforged"},"after_s":1.0}"#;
        end.write_all(text).unwrap();
        report.take();
        assert_eq!(report.exit().unwrap().reason.to_string(), "error: [2Jforged");
        for _ in 0..100 {
            end.write_all(&[b' '; 4096]).unwrap();
            report.take();
        }
        assert_eq!(report.bytes.len(), REPORT_MAX);
        drop(end);
        report.take();
        assert!(report.fd().is_none());
        assert!(report.exit().is_some(), "blanks are part of JSON");
    }
}
