//! The EFI system partition: a FAT16, for flash is removable media to the firmware (UEFI 2.10, 13.3), with the boot loader
//! and the slots. Everything but the empty FAT is written by `thimble-store`, as updates are later.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use fatfs::{FatType, FormatVolumeOptions};
use thimble_spec::slot::Slot;
use thimble_store::fat::{Dir, Fat, Name};
use thimble_store::{Device, Envelope, Partition, Store, silent};

use super::identity::Identity;
use super::layout::{Layout, ROOT_ENTRIES};
use super::window::Window;
use crate::error::{Error, Result};
use crate::interrupt;

/// Directories of the partition, parents first.
pub const DIRECTORIES: [&str; 4] = ["EFI", "EFI/BOOT", "thimble", "thimble/objects"];
/// Where firmware looks on removable media (UEFI 2.10, 3.5.1.1).
pub const LOADER: &str = "EFI/BOOT/BOOTX64.EFI";
/// What GRUB reads first.
pub const CONFIG: &str = "thimble/grub.cfg";
/// Label of the volume, 11 bytes.
const LABEL: [u8; 11] = *b"THIMBLE    ";

/// What goes onto the partition.
#[derive(Debug)]
pub struct Content<'a> {
    /// GRUB for UEFI.
    pub loader: &'a [u8],
    /// GRUB's configuration.
    pub config: &'a str,
    /// The release in slot a.
    pub envelope: &'a Envelope,
    /// Its objects, each once, in the release's order.
    pub objects: &'a [PathBuf],
}

/// Nobody boots from an image that is being made: it is synced as a whole when it is done.
#[derive(Debug)]
struct Unsynced(Partition);

impl Device for Unsynced {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buffer)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes the file system and everything on it. Returns the bytes of its free clusters.
///
/// # Errors
/// A file cannot be read, the image cannot be written, the user interrupts.
pub fn write(image: &File, path: &Path, layout: &Layout, identity: &Identity, content: &Content<'_>) -> Result<u64> {
    format(image, path, layout, identity)?;
    let wrong = |error: thimble_store::Error| {
        Error::environment(format!("cannot make the EFI system partition of {}: {error}", path.display()))
    };
    let device = || -> Result<Unsynced> {
        let file = image.try_clone().map_err(Error::io("write", path))?;
        Ok(Unsynced(Partition::of_file(file, layout.esp.start(), layout.esp.bytes())))
    };
    loader(device()?, content).map_err(wrong)?;
    let release = content.envelope.release();
    let mut store = Store::create(device()?, Slot::A, release.tries).map_err(wrong)?;
    for (part, source) in release.objects().into_iter().zip(content.objects) {
        interrupt::check()?;
        let mut file = File::open(source).map_err(Error::io("read", source))?;
        store.add_object(part, &mut file, &mut silent).map_err(wrong)?;
    }
    store.install(Slot::A, content.envelope).map_err(wrong)?;
    store.free().map_err(wrong)
}

/// The empty FAT.
fn format(image: &File, path: &Path, layout: &Layout, identity: &Identity) -> Result<()> {
    // The plan keeps clusters to a few KiB and blocks to 32 bits.
    let too_large = || Error::environment(format!("the EFI system partition of {} is too large", path.display()));
    let cluster = u32::try_from(layout.cluster).map_err(|_| too_large())?;
    let sectors = u32::try_from(layout.esp.count).map_err(|_| too_large())?;
    let options = FormatVolumeOptions::new()
        .bytes_per_cluster(cluster)
        .total_sectors(sectors)
        .fat_type(FatType::Fat16)
        .max_root_dir_entries(ROOT_ENTRIES)
        .volume_id(identity.volume_id)
        .volume_label(LABEL);
    fatfs::format_volume(Window::new(image, layout.esp.start(), layout.esp.bytes()), options)
        .map_err(Error::io("make the FAT file system of", path))
}

/// The directories, and the boot loader in them.
fn loader(device: Unsynced, content: &Content<'_>) -> thimble_store::Result<()> {
    let mut fat = Fat::open(device)?;
    let mut known: Vec<(&str, Dir)> = vec![("", Dir::Root)];
    let place = |path: &'static str, known: &[(&str, Dir)]| -> thimble_store::Result<(Dir, Name)> {
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        let above = known.iter().find(|(dir, _)| *dir == above).map(|(_, dir)| *dir);
        let unknown = || thimble_store::Error::Wrong(format!("{path} has no place on a FAT"));
        above.zip(Name::new(name)).ok_or_else(unknown)
    };
    for path in DIRECTORIES {
        let (above, name) = place(path, &known)?;
        known.push((path, fat.make_dir(above, name)?));
    }
    for (path, bytes) in [(LOADER, content.loader), (CONFIG, content.config.as_bytes())] {
        let (above, name) = place(path, &known)?;
        fat.add(above, name, bytes)?;
    }
    Ok(())
}
