//! One call after the other.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use super::super::request::{Kind, Operation};
use super::{Begun, Engine};
use crate::virtio::buffers::Pinned;

/// Bytes of zeros that are written at a time where the host cannot make them by itself.
const ZEROS: usize = 64 * 1024;

/// The engine.
#[derive(Debug)]
pub struct Sync {
    file: File,
}

impl Sync {
    /// An engine on `file`.
    pub fn new(file: File) -> Self {
        Self { file }
    }

    /// Carries out an operation; bytes moved.
    ///
    /// # Errors
    /// What the host's kernel says.
    pub fn carry_out(&self, operation: Operation, buffers: &Pinned, durable: bool) -> io::Result<u64> {
        let Operation { kind, offset, length } = operation;
        match kind {
            Kind::Read => buffers.read_at(self.file.as_fd(), offset),
            Kind::Write => {
                let count = buffers.write_at(self.file.as_fd(), offset)?;
                if durable {
                    self.file.sync_data()?;
                }
                Ok(count)
            }
            Kind::Flush => self.file.sync_data().map(|()| 0),
            Kind::Discard | Kind::WriteZeroes { .. } => self.erase(kind, offset, length, durable),
        }
    }

    /// Erases a range, whole or piece by piece; `durable` as in [`Engine::begin`].
    ///
    /// # Errors
    /// What the host's kernel says.
    pub fn erase(&self, kind: Kind, offset: u64, length: u64, durable: bool) -> io::Result<u64> {
        if length == 0 {
            return Ok(0);
        }
        // SAFETY: fallocate takes numbers only; the range was checked against the disk's size.
        if unsafe { libc::fallocate(self.file.as_raw_fd(), erase_mode(kind), offset as i64, length as i64) } != 0 {
            let error = io::Error::last_os_error();
            match kind {
                Kind::WriteZeroes { .. } if goes_by_writing(&error) => write_zeros(&self.file, offset, length)?,
                // No whole block: what is not needed is kept, which is allowed.
                Kind::Discard if error.raw_os_error() == Some(libc::EINVAL) => {}
                _ => return Err(error),
            }
        }
        if durable {
            self.file.sync_data()?;
        }
        Ok(0)
    }
}

impl Engine for Sync {
    fn begin(&mut self, _tag: u16, operation: Operation, buffers: &Pinned, durable: bool) -> Begun {
        Begun::Done(self.carry_out(operation, buffers, durable))
    }
}

/// The mode of fallocate(2) for an operation that erases.
pub fn erase_mode(kind: Kind) -> libc::c_int {
    let mode = match kind {
        // A hole reads as zeros, and gives the host its space back.
        Kind::Discard | Kind::WriteZeroes { unmap: true } => libc::FALLOC_FL_PUNCH_HOLE,
        _ => libc::FALLOC_FL_ZERO_RANGE,
    };
    mode | libc::FALLOC_FL_KEEP_SIZE
}

/// Whether the host cannot erase this range, but could write zeros: it cannot at all, or whole blocks only.
pub fn goes_by_writing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL))
}

/// For hosts that cannot make zeros by themselves.
fn write_zeros(file: &File, mut offset: u64, length: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    // Aligned for files that are around the page cache.
    let zeros = Pinned::zeroed(ZEROS);
    let end = offset + length;
    while offset < end {
        let count = (end - offset).min(ZEROS as u64) as usize;
        offset += file.write_at(&zeros.bytes()[..count], offset)? as u64;
    }
    Ok(())
}
