//! The kernel's log, from /dev/kmsg (Documentation/ABI/testing/dev-kmsg).

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use thimble_spec::host::Level;

/// So many records are read in a turn.
const RECORDS: usize = 256;
/// The longest record (`PRINTK_MESSAGE_MAX` in kernel/printk/internal.h is 2048; older ones have 8192).
const LONGEST: usize = 8192;

/// One record: when, how grave, whether the kernel itself wrote it, what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Since the kernel started.
    pub time: Duration,
    /// How grave.
    pub level: Level,
    /// Otherwise a program did, through /dev/kmsg.
    pub by_kernel: bool,
    /// Its first line; what follows are keys of devices.
    pub text: String,
}

/// The log, open.
pub struct KernelLog {
    file: File,
}

impl KernelLog {
    /// Opens it, from its oldest record on. A host without it has the rest of its log.
    pub fn open() -> Option<Self> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg").ok()?;
        Some(Self { file })
    }

    /// The records that came.
    pub fn read(&mut self) -> Vec<Record> {
        let mut records = Vec::new();
        let mut buffer = [0; LONGEST];
        // Each read gives one record; one that was overwritten before it was read is EPIPE, and the next one is there.
        for _ in 0..RECORDS {
            match self.file.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => records.extend(parse(&String::from_utf8_lossy(&buffer[..count]))),
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(_) => break,
            }
        }
        records
    }
}

impl AsFd for KernelLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// `PRIORITY,NUMBER,MICROSECONDS,FLAGS;TEXT`.
fn parse(record: &str) -> Option<Record> {
    let (head, text) = record.split_once(';')?;
    let mut fields = head.split(',');
    let priority: u32 = fields.next()?.parse().ok()?;
    let microseconds: u64 = fields.nth(1)?.parse().ok()?;
    Some(Record {
        time: Duration::from_micros(microseconds),
        level: Level::of((priority % 8) as u8),
        by_kernel: priority / 8 == 0,
        text: text.lines().next().unwrap_or_default().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_record_has_its_level_time_and_text() {
        let record = parse("3,339,5140900,-;sda: I/O error\n SUBSYSTEM=block\n").unwrap();
        assert_eq!((record.level, record.by_kernel, record.text.as_str()), (Level::Error, true, "sda: I/O error"));
        assert_eq!(record.time, Duration::from_micros(5_140_900));
        assert!(!parse("14,1,2,-;init: hello").unwrap().by_kernel);
        assert_eq!(parse("nonsense"), None);
    }

    proptest! {
        #[test]
        fn any_record_is_safe(text in ".*") {
            let _ = parse(&text);
        }
    }
}
