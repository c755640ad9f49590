//! The backup partition table's way to the end of the disk.
//!
//! A disk is larger than the image that is written to it, and the image's backup table then lies somewhere in its middle.
//! The kernel complains of that at every boot ("Alternate GPT header not at the end of the disk"), some firmware too, and
//! the backup would not be found where a damaged first table needs it (UEFI 2.10, 5.3.2). Partitions stay as they are.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;

use crate::error::{Error, Result};
use crate::flash::layout::SECTOR;

/// In the boot sector's first entry: its type, what type protects a GPT, and its number of sectors (UEFI 2.10, 5.2.3).
const TYPE: u64 = 450;
/// See [`TYPE`].
const PROTECTIVE: u8 = 0xee;
/// See [`TYPE`].
const COUNT: u64 = 458;

/// Moves it, on a disk of `bytes`. The boot sector's one entry covers the whole disk then (UEFI 2.10, 5.2.3).
///
/// # Errors
/// There is no partition table, or the disk cannot be written.
pub fn to_the_end(disk: &File, path: &Path, bytes: u64) -> Result<()> {
    let wrong = |reason: String| {
        Error::environment(format!("cannot move the backup partition table to the end of {}: {reason}", path.display()))
    };
    let mut table = GptConfig::new()
        .writable(true)
        .only_valid_headers(false)
        .logical_block_size(LogicalBlockSize::Lb512)
        .open_from_device(disk)
        .map_err(|error| wrong(error.to_string()))?;
    let partitions = table.partitions().clone();
    table.update_partitions(partitions).map_err(|error| wrong(error.to_string()))?;
    table.write().map_err(|error| wrong(error.to_string()))?;

    let mut kind = [0];
    disk.read_exact_at(&mut kind, TYPE).map_err(Error::io("read", path))?;
    if kind == [PROTECTIVE] {
        let sectors = u32::try_from(bytes / SECTOR - 1).unwrap_or(u32::MAX);
        disk.write_all_at(&sectors.to_le_bytes(), COUNT).map_err(Error::io("write", path))?;
    }
    disk.sync_all().map_err(Error::io("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flash::read;
    use gpt::mbr::ProtectiveMBR;
    use gpt::partition_types::LINUX_FS;

    #[test]
    fn the_backup_lies_at_the_end_and_partitions_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let disk = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        disk.set_len(8 << 20).unwrap();
        let mut boot = ProtectiveMBR::with_lb_size((8 << 20) / 512 - 1);
        boot.set_bootcode([0x90; 440]);
        boot.overwrite_lba0(&mut &disk).unwrap();
        let mut table = GptConfig::new().writable(true).create_from_device(&disk, None).unwrap();
        table.add_partition("thimble-data", 1 << 20, LINUX_FS, 0, None).unwrap();
        table.write().unwrap();
        let before = read::open(&path).unwrap();

        // The image on a larger disk: its backup is where nobody looks.
        disk.set_len(20 << 20).unwrap();
        assert!(read::open(&path).is_err());
        to_the_end(&disk, &path, 20 << 20).unwrap();
        let after = read::open(&path).unwrap();
        let part = &after.partitions[0];
        assert_eq!(after.guid, before.guid);
        assert_eq!(
            (part.start, part.bytes, &part.guid),
            (before.partitions[0].start, before.partitions[0].bytes, &before.partitions[0].guid)
        );
        let boot = std::fs::read(&path).unwrap();
        assert_eq!(boot[..440], [0x90; 440]);
        assert_eq!(boot[458..462], ((20_u32 << 20) / 512 - 1).to_le_bytes());
    }
}
