//! What a disk's front, its lanes and the verbs of its guest share.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use thimble_spec::vmm::{DiskStats, Limits};

use super::config::SECTOR;
use super::engine::qcow2::Image;
use super::geometry::{Alignment, Geometry, is_block_device};
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

/// How a disk is used around the page cache.
#[derive(Debug)]
pub struct Direct {
    /// What goes around it.
    pub alignment: Alignment,
    /// The disk's file, for what does not.
    pub cached: File,
}

/// A disk.
#[derive(Debug)]
pub struct Disk {
    /// Where it is.
    pub medium: Medium,
    /// Writes are refused.
    pub read_only: bool,
    /// What its driver is told of the host's blocks.
    pub geometry: Geometry,
    /// It is used around the page cache.
    pub direct: Option<Direct>,
    /// How fast it may be.
    pub limits: SharedLimits,
    /// What it did.
    pub metrics: Metrics,
    sectors: AtomicU64,
}

impl Disk {
    /// A disk of `sectors`.
    pub fn new(medium: Medium, sectors: u64, read_only: bool, geometry: Geometry, limits: Limits) -> Self {
        let limits = SharedLimits::new(limits);
        let metrics = Metrics::default();
        Self { medium, read_only, geometry, direct: None, limits, metrics, sectors: sectors.into() }
    }

    /// The same, used around the page cache.
    pub fn around(self, direct: Direct) -> Self {
        Self { direct: Some(direct), ..self }
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
                if is_block_device(file) {
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
