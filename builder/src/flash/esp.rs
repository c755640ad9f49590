//! The EFI system partition: a FAT16, for flash is removable media to the firmware (UEFI 2.10, 13.3), with the boot loader
//! and the slots. Everything but the empty FAT is written by `thimble-store`, as updates are later.

use std::fs::File;
use std::path::{Path, PathBuf};

use thimble_spec::slot::Slot;
use thimble_store::{Envelope, Partition, Store, silent};

use super::identity::Identity;
use super::layout::Layout;
use super::volume;
use crate::error::{Error, Result};
use crate::formats::uefi::Loader;
use crate::interrupt;

/// Directories of the partition, parents first, besides those of the loader.
pub const DIRECTORIES: [&str; 2] = ["thimble", "thimble/objects"];
/// Where firmware looks on removable media (UEFI 2.10, 3.5.1.1).
pub const LOADER: &str = "EFI/BOOT/BOOTX64.EFI";
/// What GRUB reads first.
pub const CONFIG: &str = "thimble/grub.cfg";

/// What goes onto the partition.
#[derive(Debug)]
pub struct Content<'a> {
    /// What UEFI starts.
    pub loader: &'a Loader,
    /// GRUB's configuration.
    pub config: &'a str,
    /// The release in slot a.
    pub envelope: &'a Envelope,
    /// Its objects, each once, in the release's order.
    pub objects: &'a [PathBuf],
}

/// Makes the file system and everything on it. Returns the bytes of its free clusters.
///
/// # Errors
/// A file cannot be read, the image cannot be written, the user interrupts.
pub fn write(image: &File, path: &Path, layout: &Layout, identity: &Identity, content: &Content<'_>) -> Result<u64> {
    volume::format(image, path, layout.esp, layout.cluster, identity.volume_id)?;
    let wrong = |error: thimble_store::Error| {
        Error::environment(format!("cannot make the EFI system partition of {}: {error}", path.display()))
    };
    let device = || -> Result<volume::Unsynced> {
        let file = image.try_clone().map_err(Error::io("write", path))?;
        Ok(volume::Unsynced(Partition::of_file(file, layout.esp.start(), layout.esp.bytes())))
    };
    let directories = [content.loader.directories, &DIRECTORIES].concat();
    let mut files = content.loader.files();
    files.push((CONFIG, content.config.as_bytes()));
    volume::fill(device()?, &directories, &files).map_err(wrong)?;
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
