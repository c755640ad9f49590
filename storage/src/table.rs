//! Writing a partition table.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition::Partition;
use gpt::partition_types::{LINUX_FS, LINUX_LVM, LINUX_RAID, LINUX_SWAP, Type};
use thimble_spec::appliance::{DiskPartition, PartitionKind};

use crate::{Error, Result, doing};

/// Where partitions begin and what they are a multiple of.
const ALIGNMENT: u64 = 1 << 20;

nix::ioctl_none!(
    /// The kernel reads the table again (`BLKRRPART`, linux/fs.h).
    reread,
    0x12,
    95
);

/// A partition's place, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub start: u64,
    pub size: u64,
}

/// Where the partitions of a disk of `size` bytes are: one after the other from the first MiB on.
pub(crate) fn layout(partitions: &[DiskPartition], size: u64) -> Result<Vec<Extent>> {
    // The copy of the table is in the last MiB.
    let end = (size / ALIGNMENT).saturating_sub(1) * ALIGNMENT;
    let mut start = ALIGNMENT;
    let mut extents = Vec::new();
    for partition in partitions {
        let rest = end.saturating_sub(start);
        let size = partition.size.map_or(rest, |size| size.bytes());
        if size == 0 || size > rest {
            return Err(Error(format!("the disk has no room for the partition {}", partition.name)));
        }
        extents.push(Extent { start, size });
        start += size;
    }
    Ok(extents)
}

/// Writes the table; the copy at the end first, as the crate does, and all of it before it returns.
pub(crate) fn write(path: &Path, partitions: &[DiskPartition], size: u64, sector: u64) -> Result<()> {
    let what = || format!("write a partition table onto {}", path.display());
    let extents = layout(partitions, size)?;
    let file = doing(File::options().read(true).write(true).open(path), what)?;
    let block = doing(LogicalBlockSize::try_from(sector), what)?;
    let mbr = ProtectiveMBR::with_lb_size(u32::try_from(size / sector - 1).unwrap_or(u32::MAX));
    doing(mbr.overwrite_lba0(&mut &file), what)?;
    let config = GptConfig::new().writable(true).logical_block_size(block);
    let mut table = doing(config.create_from_device(&file, None), what)?;
    // A random one each: the same partition of two nodes is two partitions.
    let mut entries = std::collections::BTreeMap::new();
    for (number, (partition, extent)) in (1..).zip(partitions.iter().zip(extents)) {
        let random = doing(std::fs::read_to_string("/proc/sys/kernel/random/uuid"), what)?;
        let entry = Partition {
            part_type_guid: kind(partition.kind),
            part_guid: doing(random.trim().parse(), what)?,
            first_lba: extent.start / sector,
            last_lba: (extent.start + extent.size) / sector - 1,
            flags: 0,
            name: partition.name.clone(),
        };
        entries.insert(number, entry);
    }
    doing(table.update_partitions(entries), what)?;
    doing(table.write(), what)?;
    doing(file.sync_all(), what)?;
    Ok(())
}

/// Makes the kernel see a table that was just written.
pub(crate) fn announce(path: &Path) -> Result<()> {
    let what = || format!("read the partition table of {} again", path.display());
    let file = doing(File::open(path), what)?;
    // SAFETY: the descriptor is open, and the call takes no argument.
    doing(unsafe { reread(file.as_raw_fd()) }, what)?;
    Ok(())
}

fn kind(kind: PartitionKind) -> Type {
    match kind {
        PartitionKind::Linux => LINUX_FS,
        PartitionKind::Raid => LINUX_RAID,
        PartitionKind::Lvm => LINUX_LVM,
        PartitionKind::Swap => LINUX_SWAP,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_spec::units::ByteSize;

    fn partition(name: &str, size: Option<u64>) -> DiskPartition {
        DiskPartition { name: name.to_owned(), size: size.map(ByteSize::mib), kind: PartitionKind::Raid }
    }

    #[test]
    fn the_table_can_be_read_and_the_partitions_do_not_overlap() {
        let disk = tempfile::NamedTempFile::new().unwrap();
        let size = 64 << 20;
        disk.as_file().set_len(size).unwrap();
        let partitions = [partition("one", Some(16)), partition("two", None)];
        write(disk.path(), &partitions, size, 512).unwrap();
        let table = GptConfig::new().open(disk.path()).unwrap();
        let read: Vec<_> = table.partitions().values().map(|it| (it.name.clone(), it.first_lba, it.last_lba)).collect();
        assert_eq!(read, [("one".to_owned(), 2048, 34815), ("two".to_owned(), 34816, 129_023)]);
        let content = std::fs::read(disk.path()).unwrap();
        let found = crate::signature::recognize(&content[..1 << 20], &content[63 << 20..], size);
        assert_eq!(found.signatures, [crate::signature::Signature::Gpt]);
    }

    #[test]
    fn what_does_not_fit_is_told() {
        assert!(layout(&[partition("one", Some(64))], 64 << 20).is_err());
        assert!(layout(&[partition("one", Some(62)), partition("rest", None)], 64 << 20).is_err());
    }
}
