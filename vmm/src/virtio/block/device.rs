//! The device: opens its disk, offers its features.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use thimble_spec::vmm::{DISK_SERIAL_MAX, Disk as Description, DiskEngine, DiskFormat};

use super::config::{self, QUEUE_SIZE, QUEUES_MAX, SECTOR};
use super::disk::{Direct, Disk, Handle, Medium, measure};
use super::engine::Engine;
use super::engine::qcow2::Image;
use super::engine::sync::Sync;
use super::engine::uring::Uring;
use super::geometry::{Alignment, Geometry};
use super::lock::lock;
use super::queues::Requests;
use crate::error::{Error, Result};
use crate::virtio::{Lane, VirtioDevice, read_space};

/// Device type (virtio 1.2, section 5).
const TYPE: u32 = 2;

/// A block device.
pub struct Block {
    disk: Arc<Disk>,
    queues: u16,
    lanes: Vec<Requests>,
}

impl Block {
    /// Opens the disk that `description` names, and locks it: a writable disk belongs to one guest, a read-only one may
    /// be shared by many.
    ///
    /// # Errors
    /// The file cannot be opened or locked, or is no disk.
    pub fn open(description: &Description, position: usize) -> Result<Self> {
        Self::check(description)?;
        let queues = description.queues.unwrap_or(1);
        let file = open(description)?;
        lock(&file, description.read_only).map_err(cannot("lock the disk", description))?;
        let disk = match description.format {
            DiskFormat::Raw => raw(file, description)?,
            DiskFormat::Qcow2 => qcow2(file, description)?,
        };
        Self::new(Arc::new(disk), position, description.serial.as_deref(), queues.into(), description.engine)
            .map_err(cannot("set up io_uring, or a timer, for the disk", description))
    }

    /// Looks at `description` alone, and at nothing of the host.
    ///
    /// # Errors
    /// It asks for what there is not, or contradicts itself.
    pub fn check(description: &Description) -> Result<()> {
        let queues = description.queues.unwrap_or(1);
        let reason = match description.format {
            _ if !(1..=QUEUES_MAX).contains(&queues) => {
                format!("cannot have {queues} queues: give it 1 to {QUEUES_MAX}")
            }
            _ if description.serial.as_ref().is_some_and(|serial| !(1..=DISK_SERIAL_MAX).contains(&serial.len())) => {
                format!("cannot have this serial number: give it one of 1 to {DISK_SERIAL_MAX} bytes, or leave it out")
            }
            DiskFormat::Qcow2 if description.direct => {
                "is a qcow2 image, which is used through the host's page cache: leave `direct` out".to_owned()
            }
            DiskFormat::Qcow2 if description.engine == DiskEngine::Uring => {
                "is a qcow2 image, which is used by calls: leave `engine` out".to_owned()
            }
            DiskFormat::Raw if description.backing.is_some() => {
                "is raw and names no other file: leave `backing` out".to_owned()
            }
            _ => return Ok(()),
        };
        Err(refuse(description, &reason))
    }

    fn new(
        disk: Arc<Disk>,
        position: usize,
        serial: Option<&str>,
        queues: u16,
        engine: DiskEngine,
    ) -> io::Result<Self> {
        let lane = |queue| {
            let engine = self::engine(&disk.medium, engine)?;
            Requests::new(position, serial, queue, queues, disk.clone(), engine)
        };
        let lanes = (0..usize::from(queues)).map(lane).collect::<io::Result<_>>()?;
        Ok(Self { disk, queues, lanes })
    }

    /// What verbs ask of it.
    pub fn handle(&self) -> Handle {
        Handle(self.disk.clone())
    }

    /// A device on an open file, for tests.
    ///
    /// # Panics
    /// The host has not what the engine needs.
    #[cfg(any(test, feature = "testing"))]
    pub fn on(file: File, sectors: u64, read_only: bool, engine: DiskEngine) -> Self {
        let limits = thimble_spec::vmm::Limits::default();
        let disk = Disk::new(Medium::Raw(file), sectors, read_only, Geometry::FILE, limits);
        Self::new(Arc::new(disk), 0, None, 1, engine).expect("the host gives timers and rings")
    }
}

/// A lane's engine for `medium`.
fn engine(medium: &Medium, wanted: DiskEngine) -> io::Result<Box<dyn Engine>> {
    let file = match medium {
        Medium::Qcow2(image) => return Ok(Box::new(image.clone())),
        Medium::Raw(file) => file,
    };
    if wanted != DiskEngine::Sync {
        match Uring::new(file.try_clone()?, QUEUE_SIZE) {
            Ok(uring) => return Ok(Box::new(uring)),
            Err(error) if wanted == DiskEngine::Uring => return Err(error),
            // The host has none, or forbids it.
            Err(_) => {}
        }
    }
    Ok(Box::new(Sync::new(file.try_clone()?)))
}

fn refuse(description: &Description, reason: &str) -> Error {
    Error::Config(format!("the disk {} {reason}", description.path.display()))
}

fn cannot(action: &'static str, description: &Description) -> impl Fn(io::Error) -> Error {
    move |source| Error::File { action, path: description.path.clone(), source }
}

fn open(description: &Description) -> Result<File> {
    let flags = if description.direct { libc::O_DIRECT } else { 0 };
    let mut options = OpenOptions::new();
    options.read(true).write(!description.read_only).custom_flags(flags);
    options.open(&description.path).map_err(|source| match source.raw_os_error() {
        Some(libc::EINVAL) if description.direct => {
            refuse(description, "is on a file system that cannot go around the page cache: leave `direct` out")
        }
        _ => cannot("open the disk", description)(source),
    })
}

fn raw(file: File, description: &Description) -> Result<Disk> {
    let size = measure(&file).map_err(cannot("measure the disk", description))?;
    if size == 0 {
        return Err(refuse(description, "is empty: give it a size"));
    }
    // A read-only image may end within a sector: the rest of it reads as zeros.
    if !description.read_only && !size.is_multiple_of(SECTOR) {
        return Err(refuse(description, "does not end at a sector: make its size a multiple of 512 bytes"));
    }
    let (sectors, geometry) = (size.div_ceil(SECTOR), Geometry::of(&file));
    let direct = description.direct.then(|| direct(&file, description)).transpose()?;
    let disk = Disk::new(Medium::Raw(file), sectors, description.read_only, geometry, description.limits);
    Ok(match direct {
        Some(direct) => disk.around(direct),
        None => disk,
    })
}

/// What goes around the page cache, and the same file once more for what does not.
fn direct(file: &File, description: &Description) -> Result<Direct> {
    // By the descriptor, for what is at the path may be another file by now.
    let again = format!("/proc/self/fd/{}", file.as_raw_fd());
    let cached = OpenOptions::new().read(true).write(!description.read_only).open(again);
    let cached = cached.map_err(cannot("open the disk once more", description))?;
    Ok(Direct { alignment: Alignment::of(file), cached })
}

fn qcow2(file: File, description: &Description) -> Result<Disk> {
    let image = Image::open(file, &description.path, description.read_only, description.backing.as_deref())
        .map_err(cannot("use the qcow2 disk", description))?;
    let size = image.size();
    if size == 0 || !size.is_multiple_of(SECTOR) {
        return Err(refuse(description, "holds no whole sectors: make its size a multiple of 512 bytes"));
    }
    let medium = Medium::Qcow2(image);
    Ok(Disk::new(medium, size / SECTOR, description.read_only, Geometry::FILE, description.limits))
}

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        TYPE
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; self.queues.into()]
    }

    fn features(&self) -> u64 {
        let common = config::F_SEG_MAX | config::F_BLK_SIZE | config::F_TOPOLOGY | config::F_FLUSH;
        let kind = match self.disk.read_only {
            true => config::F_RO,
            false => config::F_DISCARD | config::F_WRITE_ZEROES,
        };
        let several = if self.queues > 1 { config::F_MQ } else { 0 };
        common | kind | several
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        read_space(&config::space(self.disk.sectors(), self.disk.geometry, self.queues), offset, data);
    }

    fn take_lanes(&mut self) -> Vec<Box<dyn Lane>> {
        self.lanes.drain(..).map(|lane| Box::new(lane) as Box<dyn Lane>).collect()
    }
}
