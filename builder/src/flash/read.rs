//! A flash image taken apart again: its tables checked, its partitions and boot files listed.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::Path;

use fatfs::{Dir, FileSystem, FsOptions};
use gpt::disk::LogicalBlockSize;
use gpt::header::{Header, read_header_from_arbitrary_device};
use gpt::partition::{Partition, file_read_partitions};
use gpt::partition_types::EFI;
use gpt::{GptConfig, GptDisk};
use serde::Serialize;

use super::layout::SECTOR;
use super::window::Window;
use crate::error::{Error, Result};

/// Name of the EFI system partition, from which GRUB starts the slots.
pub const BOOT_PARTITION: &str = "esp";
/// Blocks of the disks that Thimble writes.
const BLOCK: LogicalBlockSize = LogicalBlockSize::Lb512;
/// Bytes of an entry and number of entries that the tables of such disks have (UEFI 2.10, 5.3.1). Others are not read:
/// the numbers come from a file that may be anything.
const ENTRY: u32 = 128;
/// See [`ENTRY`].
const ENTRIES: u32 = 128;
/// How deep directories are followed; a damaged FAT may have circles.
const DEPTH: usize = 8;

/// What a disk image holds.
#[derive(Debug, Serialize)]
pub struct Image {
    /// Size in bytes.
    pub bytes: u64,
    /// GUID of the disk.
    pub guid: String,
    /// In the order of the table.
    pub partitions: Vec<Part>,
}

/// A partition.
#[derive(Debug, Serialize)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Its GUID.
    pub guid: String,
    /// Byte where it starts.
    pub start: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its files, if it is an EFI system partition.
    pub files: Option<Vec<FoundFile>>,
}

/// A file on the EFI system partition.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct FoundFile {
    /// Path from the partition's root.
    pub path: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Reads an image.
///
/// # Errors
/// It is no GPT disk, it is truncated, a checksum is wrong, partitions overlap, or its FAT cannot be read.
pub fn open(path: &Path) -> Result<Image> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let bytes = file.metadata().map_err(Error::io("read", path))?.len();
    let disk = table(&file).map_err(|reason| Error::environment(format!("{}: {reason}", path.display())))?;
    let mut partitions = Vec::new();
    for partition in disk.partitions().values() {
        let (start, bytes) = place(partition);
        let files = if partition.part_type_guid == EFI {
            Some(list(&file, start, bytes).map_err(|reason| {
                let name = &partition.name;
                Error::environment(format!("{}: the FAT of partition {name} cannot be read: {reason}", path.display()))
            })?)
        } else {
            None
        };
        let (name, guid) = (partition.name.clone(), partition.part_guid.to_string());
        partitions.push(Part { name, guid, start, bytes, files });
    }
    Ok(Image { bytes, guid: disk.guid().to_string(), partitions })
}

/// Where the boot partition of a disk lies: first byte and number of bytes. For a disk in service: its backup table may
/// stand anywhere, and nothing of it is looked at.
///
/// # Errors
/// It is no GPT disk with a partition [`BOOT_PARTITION`], or cannot be read.
pub fn boot_partition(path: &Path) -> Result<(u64, u64)> {
    let wrong = |reason: String| Error::environment(format!("{}: {reason}", path.display()));
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let end = file.seek(SeekFrom::End(0)).map_err(Error::io("read", path))?;
    let header = read_header_from_arbitrary_device(&mut file, BLOCK)
        .map_err(|error| wrong(format!("no flash disk: its first GPT header is not right ({error})")))?;
    known(&header).map_err(wrong)?;
    let partitions = file_read_partitions(&mut file, &header, BLOCK)
        .map_err(|error| wrong(format!("its partition table is not right: {error}")))?;
    let boot = partitions.values().find(|partition| {
        partition.part_type_guid == EFI && partition.name == BOOT_PARTITION && partition.first_lba <= partition.last_lba
    });
    let missing = || wrong(format!("it has no partition {BOOT_PARTITION}, so it was not made by thimble"));
    let (start, bytes) = boot.map(place).ok_or_else(missing)?;
    if start.checked_add(bytes).is_none_or(|last| last > end) {
        return Err(wrong("its boot partition ends behind it: the disk or image is truncated".to_owned()));
    }
    Ok((start, bytes))
}

/// First byte and number of bytes.
fn place(partition: &Partition) -> (u64, u64) {
    let blocks = (partition.last_lba - partition.first_lba).saturating_add(1);
    (partition.first_lba.saturating_mul(SECTOR), blocks.saturating_mul(SECTOR))
}

/// Both copies of the table, checked.
fn table(mut file: &File) -> Result<GptDisk<&File>, String> {
    let foreign = |error| format!("no flash image: its first GPT header is not right ({error})");
    let primary = read_header_from_arbitrary_device(&mut file, BLOCK).map_err(foreign)?;
    known(&primary)?;
    let disk = GptConfig::new()
        .logical_block_size(BLOCK)
        .only_valid_headers(true)
        .open_from_device(file)
        .map_err(|error| format!("truncated or damaged: {error}"))?;
    let backup = disk.backup_header().map_err(|error| format!("the backup GPT header is not right: {error}"))?;
    known(backup)?;
    let copy = file_read_partitions(&mut file, backup, BLOCK)
        .map_err(|error| format!("the backup of the partition table is not right: {error}"))?;
    if copy != *disk.partitions() {
        return Err("the partition table and its backup differ".to_owned());
    }
    let mut sorted: Vec<&Partition> = copy.values().collect();
    sorted.sort_by_key(|partition| partition.first_lba);
    let mut free = primary.first_usable;
    for partition in sorted {
        let (first, last) = (partition.first_lba, partition.last_lba);
        if first < free || last < first || last > primary.last_usable {
            return Err(format!("partition {} overlaps another or lies outside the disk", partition.name));
        }
        free = last + 1;
    }
    Ok(disk)
}

fn known(header: &Header) -> Result<(), String> {
    if (header.part_size, header.num_parts) == (ENTRY, ENTRIES) {
        Ok(())
    } else {
        Err(format!("not written by thimble: its table has {} entries of {} bytes", header.num_parts, header.part_size))
    }
}

fn list(file: &File, start: u64, bytes: u64) -> std::io::Result<Vec<FoundFile>> {
    let fat = FileSystem::new(Window::new(file, start, bytes), FsOptions::new())?;
    let mut files = Vec::new();
    walk(&fat.root_dir(), "", DEPTH, &mut files)?;
    Ok(files)
}

fn walk(dir: &Dir<'_, Window<'_>>, above: &str, depth: usize, files: &mut Vec<FoundFile>) -> std::io::Result<()> {
    for entry in dir.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name == "." || name == ".." {
            continue;
        }
        let path = format!("{above}{name}");
        if entry.is_file() {
            files.push(FoundFile { path, bytes: entry.len() });
        } else if depth > 0 {
            walk(&entry.to_dir(), &format!("{path}/"), depth - 1, files)?;
        }
    }
    Ok(())
}
