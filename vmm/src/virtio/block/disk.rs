//! What a disk's front, its lanes and the verbs of its guest share.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use thimble_spec::vmm::{DiskStats, Limits};

use super::config::SECTOR;
use super::engine::qcow2::Image;
use super::metrics::Metrics;
use crate::virtio::limit::SharedLimits;

/// Where a disk's bytes are.
#[derive(Debug)]
pub enum Medium {
    /// In a file or a block device, byte by byte.
    Raw(File),
    /// In a qcow2 image.
    Qcow2(Image),
}

/// A disk.
#[derive(Debug)]
pub struct Disk {
    /// Where it is.
    pub medium: Medium,
    /// Writes are refused.
    pub read_only: bool,
    /// Bytes of the host's blocks: around the page cache, nothing smaller goes.
    pub block: u32,
    /// Around the page cache.
    pub direct: bool,
    /// How fast it may be.
    pub limits: SharedLimits,
    /// What it did.
    pub metrics: Metrics,
    sectors: AtomicU64,
}

impl Disk {
    /// A disk of `sectors`.
    pub fn new(medium: Medium, sectors: u64, read_only: bool, block: u32, direct: bool, limits: Limits) -> Self {
        let limits = SharedLimits::new(limits);
        Self { medium, read_only, block, direct, limits, metrics: Metrics::default(), sectors: sectors.into() }
    }

    /// Its size in sectors.
    pub fn sectors(&self) -> u64 {
        self.sectors.load(Ordering::Acquire)
    }
}

/// What is asked of a disk while it works.
#[derive(Clone, Debug)]
pub struct Handle(pub(super) Arc<Disk>);

impl Handle {
    /// What it did.
    pub fn stats(&self) -> DiskStats {
        self.0.metrics.stats(self.0.sectors() * SECTOR)
    }

    /// Replaces its limits.
    pub fn limit(&self, limits: Limits) {
        self.0.limits.set(limits);
    }

    /// Gives it another size: `bytes`, or what its file has by now. Its driver is told by the transport.
    ///
    /// # Errors
    /// It is read-only, would shrink, or the host cannot; one sentence.
    pub fn resize(&self, bytes: Option<u64>) -> Result<(), String> {
        let disk = &self.0;
        if disk.read_only {
            return Err("a read-only disk has the size that it has".to_owned());
        }
        let now = disk.sectors() * SECTOR;
        let cannot = |error: std::io::Error| format!("the disk cannot be resized: {error}");
        let bytes = match (&disk.medium, bytes) {
            (_, Some(bytes)) if !bytes.is_multiple_of(SECTOR) => {
                return Err("a disk is made of whole sectors: give a multiple of 512 bytes".to_owned());
            }
            (_, Some(bytes)) if bytes < now => {
                return Err(format!("a disk does not shrink: it has {now} bytes, give that or more"));
            }
            (Medium::Qcow2(_), None) => return Err("a qcow2 image has no size by itself: give one".to_owned()),
            (Medium::Qcow2(image), Some(bytes)) => {
                image.grow(bytes).map_err(cannot)?;
                bytes
            }
            (Medium::Raw(file), None) => measure(file).map_err(cannot)? / SECTOR * SECTOR,
            (Medium::Raw(file), Some(bytes)) => {
                if is_block_device(file).map_err(cannot)? {
                    return Err("a block device is resized on the host; then ask without a size".to_owned());
                }
                let length = measure(file).map_err(cannot)?;
                if bytes < length {
                    return Err(format!("the disk's file has {length} bytes by now: give that or more, or no size"));
                }
                file.set_len(bytes).map_err(cannot)?;
                bytes
            }
        };
        if bytes < now {
            return Err(format!("the disk's file has shrunk to {bytes} bytes: the guest keeps {now}"));
        }
        disk.sectors.store(bytes / SECTOR, Ordering::Release);
        Ok(())
    }
}

/// Bytes of a file or a block device.
pub fn measure(mut file: &File) -> std::io::Result<u64> {
    file.seek(SeekFrom::End(0))
}

fn is_block_device(file: &File) -> std::io::Result<bool> {
    // SAFETY: an all-zero `stat` is one, and the call fills it.
    let mode = unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        if libc::fstat(file.as_raw_fd(), &raw mut stat) != 0 {
            return Err(std::io::Error::last_os_error());
        }
        stat.st_mode
    };
    Ok(mode & libc::S_IFMT == libc::S_IFBLK)
}
