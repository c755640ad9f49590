//! What a store lies on: a partition's device, or a part of an image file.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{OFlag, PosixFadviseAdvice, posix_fadvise};

/// Bytes that are read and written here and there, and a way to be sure that they are on the medium.
///
/// A sector of 512 bytes at a multiple of 512 is written whole or not at all; nothing else is asked of the medium between
/// two calls of [`Device::sync`].
pub trait Device {
    /// Bytes.
    fn size(&self) -> u64;

    /// Fills `buffer` with what stands at `offset`.
    ///
    /// # Errors
    /// The medium's, or a place beyond its end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    /// The medium's, or a place beyond its end.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Returns when everything written so far survives a power cut. What is read afterwards comes from the medium, not
    /// from a cache, as far as the system can do that.
    ///
    /// # Errors
    /// The medium's.
    fn sync(&mut self) -> io::Result<()>;
}

/// A partition: a device of its own, or a part of a disk's device or image. Locked against others that do the same.
#[derive(Debug)]
pub struct Partition {
    file: File,
    start: u64,
    size: u64,
}

impl Partition {
    /// Opens a partition's device, or a file that holds a partition and nothing else, to write.
    ///
    /// # Errors
    /// It cannot be opened; it is mounted, or another update is at work on it (`ResourceBusy`).
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = Self::exclusive(path)?;
        let size = (&file).seek(SeekFrom::End(0))?;
        Ok(Self { file, start: 0, size })
    }

    /// Opens a partition's device, or a file that holds one, to look at it: every write fails, nothing is locked, and what
    /// is read while an update is at work may be half of it.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open_to_read(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let size = (&file).seek(SeekFrom::End(0))?;
        Ok(Self { file, start: 0, size })
    }

    /// Opens `size` bytes from `start` on of a disk's device or image, to write.
    ///
    /// # Errors
    /// As [`Partition::open`], and if the disk ends before.
    pub fn open_part(path: &Path, start: u64, size: u64) -> io::Result<Self> {
        let file = Self::exclusive(path)?;
        let end = (&file).seek(SeekFrom::End(0))?;
        match start.checked_add(size) {
            Some(last) if last <= end => Ok(Self { file, start, size }),
            _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the partition ends behind the disk")),
        }
    }

    /// Part of a file that is open already and nobody else's; not locked.
    pub fn of_file(file: File, start: u64, size: u64) -> Self {
        Self { file, start, size }
    }

    fn exclusive(path: &Path) -> io::Result<File> {
        // On a block device, O_EXCL without O_CREAT fails as long as it is mounted or otherwise claimed (open(2)).
        let device = path.metadata()?.file_type().is_block_device();
        let flags = if device { OFlag::O_EXCL } else { OFlag::empty() };
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => {
                Err(io::Error::new(io::ErrorKind::ResourceBusy, "another program is at work on it"))
            }
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn place(&self, offset: u64, length: usize) -> io::Result<u64> {
        match offset.checked_add(length as u64) {
            Some(end) if end <= self.size => Ok(self.start + offset),
            _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a place behind the end of the partition")),
        }
    }
}

impl Device for Partition {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let place = self.place(offset, buffer.len())?;
        self.file.read_exact_at(buffer, place)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let place = self.place(offset, bytes.len())?;
        self.file.write_all_at(bytes, place)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        let (start, size) = (self.start.cast_signed(), self.size.cast_signed());
        // Clean pages leave the cache. A system that keeps them anyway only makes the reading back weaker.
        let _ = posix_fadvise(&self.file, start, size, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        Ok(())
    }
}
