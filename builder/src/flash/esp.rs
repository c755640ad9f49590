//! The EFI system partition: a FAT16, for flash is removable media to the firmware (UEFI 2.10, 13.3), with what both
//! GRUBs and the kernel's loader read.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use fatfs::{Date, DateTime, FatType, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider};

use super::dots;
use super::identity::Identity;
use super::layout::{Layout, ROOT_ENTRIES};
use super::window::Window;
use crate::error::{Error, Result};
use crate::files;

/// Where a file of the partition comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file of the workstation.
    File(PathBuf),
    /// Text made by the builder.
    Text(String),
}

/// A file of the partition.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Path on the partition.
    pub path: String,
    /// Its content.
    pub source: Source,
    /// Size in bytes.
    pub size: u64,
}

/// Directories of the partition, parents first; all files are in these.
pub const DIRECTORIES: [&str; 3] = ["EFI", "EFI/BOOT", "thimble"];
/// Where firmware looks on removable media (UEFI 2.10, 3.5.1.1).
pub const LOADER: &str = "EFI/BOOT/BOOTX64.EFI";
/// Label of the volume, 11 bytes.
const LABEL: [u8; 11] = *b"THIMBLE    ";

/// The clock of all files: the first day that FAT knows. (Without its feature `chrono`, fatfs has one of its own, which
/// writes a month 0.)
#[derive(Debug)]
struct FirstDay;

impl TimeProvider for FirstDay {
    fn get_current_date(&self) -> Date {
        Date { year: 1980, month: 1, day: 1 }
    }

    fn get_current_date_time(&self) -> DateTime {
        DateTime { date: self.get_current_date(), time: Time { hour: 0, min: 0, sec: 0, millis: 0 } }
    }
}

/// Makes the file system and copies the entries into it. Returns the bytes of its free clusters.
///
/// # Errors
/// A file cannot be read, the image cannot be written.
pub fn write(image: &File, path: &Path, layout: &Layout, identity: &Identity, entries: &[Entry]) -> Result<u64> {
    let window = || Window::new(image, layout.esp.start(), layout.esp.bytes());
    let io = |doing| Error::io(doing, path);
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
    fatfs::format_volume(window(), options).map_err(io("make the FAT file system of"))?;

    let open = || {
        let options = FsOptions::new().time_provider(&FirstDay);
        FileSystem::new(window(), options).map_err(io("open the FAT file system of"))
    };
    let fat = open()?;
    for directory in DIRECTORIES {
        fat.root_dir().create_dir(directory).map_err(io("write a directory of"))?;
    }
    fat.unmount().map_err(io("write"))?;
    dots::put_right(&mut window(), layout.cluster, DIRECTORIES.len() as u64).map_err(io("write a directory of"))?;

    let fat = open()?;
    let root = fat.root_dir();
    for entry in entries {
        let mut file = root.create_file(&entry.path).map_err(io("write a file of"))?;
        match &entry.source {
            Source::Text(text) => file.write_all(text.as_bytes()).map_err(io("write"))?,
            Source::File(source) => files::copy(source, &mut |chunk| file.write_all(chunk).map_err(io("write")))?,
        }
        file.flush().map_err(io("write"))?;
    }
    let stats = fat.stats().map_err(io("read the FAT of"))?;
    let free = u64::from(stats.free_clusters()) * u64::from(stats.cluster_size());
    drop(root);
    fat.unmount().map_err(io("write"))?;
    Ok(free)
}
