//! The protective MBR and the GPT.

use std::fmt;
use std::fs::File;
use std::path::Path;

use gpt::GptConfig;
use gpt::mbr::ProtectiveMBR;
use gpt::partition::Partition;
use gpt::partition_types::{BIOS, EFI, LINUX_FS, Type};
use thimble_spec::paths::DATA_PARTITION;

use super::grub::BOOT_CODE;
use super::identity::Identity;
use super::layout::{Extent, Layout, SECTOR};
use super::read::BOOT_PARTITION;
use crate::error::{Error, Result};

/// Writes both copies of the table onto a file that has the disk's size.
///
/// # Errors
/// The file cannot be written.
pub fn write(file: &File, path: &Path, layout: &Layout, identity: &Identity, code: [u8; BOOT_CODE]) -> Result<()> {
    let wrong = |reason: &dyn fmt::Display| {
        Error::environment(format!("cannot write the partition table of {}: {reason}", path.display()))
    };
    let blocks = file.metadata().map_err(Error::io("read", path))?.len() / SECTOR;
    // A size that 32 bits can't hold is written as the largest one (UEFI 2.10, 5.2.3).
    let mut mbr = ProtectiveMBR::with_lb_size(u32::try_from(blocks - 1).unwrap_or(u32::MAX));
    mbr.set_bootcode(code);
    mbr.overwrite_lba0(&mut &*file).map_err(|error| wrong(&error))?;

    let partition = |name: &str, kind: Type, guid: &str, extent: Extent| -> Result<Partition> {
        Ok(Partition {
            part_type_guid: kind,
            part_guid: guid.parse().map_err(|error| wrong(&error))?,
            first_lba: extent.first,
            last_lba: extent.last(),
            flags: 0,
            name: name.to_owned(),
        })
    };
    let partitions = [
        partition("bios-boot", BIOS, &identity.bios_boot, layout.bios_boot)?,
        partition(BOOT_PARTITION, EFI, &identity.esp, layout.esp)?,
        partition(DATA_PARTITION, LINUX_FS, &identity.data, layout.data)?,
    ];
    let guid = identity.disk.parse().map_err(|error| wrong(&error))?;
    let mut table =
        GptConfig::new().writable(true).create_from_device(file, Some(guid)).map_err(|error| wrong(&error))?;
    table.update_partitions((1..).zip(partitions).collect()).map_err(|error| wrong(&error))?;
    table.write().map_err(|error| wrong(&error))?;
    Ok(())
}
