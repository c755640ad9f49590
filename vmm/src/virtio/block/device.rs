//! The device: opens its disk, offers its features.

use std::fs::{OpenOptions, TryLockError};
use std::io::{Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use vm_memory::GuestMemoryMmap;

use super::config;
use super::queues::Disk;
use crate::error::{Error, Result};
use crate::jail::seccomp::Duty;
use crate::virtio::ring::Ring;
use crate::virtio::{Lane, Service, VirtioDevice, Wake, read_space};

/// Device type (virtio 1.2, section 5).
const TYPE: u32 = 2;

/// A block device.
#[derive(Debug)]
pub struct Block {
    disk: Arc<Disk>,
    position: usize,
    config: [u8; 60],
}

impl Block {
    /// Opens `path`, and locks it: a writable disk belongs to one guest, a read-only one may be shared by many.
    ///
    /// # Errors
    /// The file cannot be opened or locked, or is no disk.
    pub fn open(path: &Path, read_only: bool, position: usize) -> Result<Self> {
        let error = |action| move |source| Error::File { action, path: path.to_owned(), source };
        let mut file = OpenOptions::new().read(true).write(!read_only).open(path).map_err(error("open the disk"))?;
        let locked = if read_only { file.try_lock_shared() } else { file.try_lock() };
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let message = format!("the disk {} is used by another guest: give each guest its own", path.display());
                return Err(Error::Config(message));
            }
            Err(TryLockError::Error(source)) => return Err(error("lock the disk")(source)),
        }
        let size = file.seek(SeekFrom::End(0)).map_err(error("measure the disk"))?;
        Self::check_size(path, size, read_only)?;
        let sectors = size.div_ceil(config::SECTOR);
        let id = format!("disk{position}");
        let disk = Arc::new(Disk::new(file, sectors, read_only, &id));
        Ok(Self { disk, position, config: config::space(sectors) })
    }

    fn check_size(path: &Path, size: u64, read_only: bool) -> Result<()> {
        let refuse = |reason: &str| Err(Error::Config(format!("the disk {} {reason}", path.display())));
        if size == 0 {
            return refuse("is empty: give it a size");
        }
        // A read-only image may end within a sector: the rest of it reads as zeros.
        if !read_only && !size.is_multiple_of(config::SECTOR) {
            return refuse("does not end at a sector: make its size a multiple of 512 bytes");
        }
        Ok(())
    }

    /// A device on an open file, for tests.
    #[cfg(any(test, feature = "testing"))]
    pub fn on(file: std::fs::File, sectors: u64, read_only: bool) -> Self {
        let disk = Arc::new(Disk::new(file, sectors, read_only, "disk0"));
        Self { disk, position: 0, config: config::space(sectors) }
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        TYPE
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![config::QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        let common = config::F_SEG_MAX | config::F_BLK_SIZE | config::F_FLUSH;
        let kind = match self.disk.is_read_only() {
            true => config::F_RO,
            false => config::F_DISCARD | config::F_WRITE_ZEROES,
        };
        common | kind
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        read_space(&self.config, offset, data);
    }

    fn take_lanes(&mut self) -> Vec<Box<dyn Lane>> {
        vec![Box::new(Requests { disk: self.disk.clone(), position: self.position })]
    }
}

/// A request queue's lane.
struct Requests {
    disk: Arc<Disk>,
    position: usize,
}

impl Lane for Requests {
    fn name(&self) -> String {
        format!("disk{}", self.position)
    }

    fn duty(&self) -> Duty {
        Duty::Disk
    }

    fn queues(&self) -> Vec<usize> {
        vec![0]
    }

    fn service(&mut self, _wake: Wake, rings: &mut [Ring], memory: &GuestMemoryMmap) -> Service {
        rings[0].serve(memory, |chain| self.disk.answer(chain))
    }
}
