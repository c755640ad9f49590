//! Where everything lies on the flash disk: arithmetic only.
//!
//! ```text
//! LBA 0    protective MBR with GRUB's boot.img in its code area
//! LBA 1    GPT header, LBA 2 to 33 its entries            (UEFI 2.10, 5.3.1 and 5.3.2)
//! LBA 34   BIOS boot partition: GRUB's core.img
//!          EFI system partition, from a multiple of 256 KiB: FAT16 with GRUB for UEFI, kernel, initrd
//!          data partition, from a multiple of 1 MiB: ext4
//! end-33   the GPT's entries again, and its header in the last LBA
//! ```
//! The data partition is the one that is written in service, so that it is the one aligned for erase blocks. The EFI
//! system partition reaches up to it: what it doesn't need is free for the next update, and no byte lies between.

use thimble_spec::units::{KIB, MIB};

/// Bytes of a logical block. Flash disks of this size have blocks of 512 bytes.
pub const SECTOR: u64 = 512;
/// First LBA behind MBR, GPT header and its 128 entries of 128 bytes (UEFI 2.10, 5.3.1).
pub const FIRST_USABLE: u64 = 34;
/// LBAs at the end that the backup GPT takes: 32 of entries, one of header.
pub const BACKUP: u64 = 33;
/// The EFI system partition starts at a multiple of this.
const ESP_ALIGN: u64 = 256 * KIB;
/// The data partition starts at a multiple of this.
const DATA_ALIGN: u64 = MIB;
/// Left free on the EFI system partition, whatever is said: the slots' own files, and a directory's growth.
const ESP_SLACK: u64 = 256 * KIB;
/// A data partition below this holds hardly more than its own journal.
pub const DATA_MIN: u64 = 8 * MIB;

/// Entries of the FAT's root directory, 32 bytes each: what mkfs.fat and fatfs take.
pub const ROOT_ENTRIES: u16 = 512;
/// FAT16 has 4085 to 65524 clusters (FAT: General Overview of On-Disk Format 1.03, "FAT type determination"). The same
/// page asks to stay some clusters away from both ends, for drivers that count wrongly.
const CLUSTERS: std::ops::RangeInclusive<u64> = 4200..=65_000;
/// Largest cluster that every driver takes.
const CLUSTER_MAX: u64 = 32 * KIB;

/// A run of logical blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First block.
    pub first: u64,
    /// Number of blocks.
    pub count: u64,
}

impl Extent {
    /// Byte where it starts.
    pub fn start(self) -> u64 {
        self.first * SECTOR
    }

    /// Its length in bytes.
    pub fn bytes(self) -> u64 {
        self.count * SECTOR
    }

    /// Last block.
    pub fn last(self) -> u64 {
        self.first + self.count - 1
    }
}

/// The disk's partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// GRUB's core.img.
    pub bios_boot: Extent,
    /// EFI system partition.
    pub esp: Extent,
    /// Bytes of one of its clusters.
    pub cluster: u64,
    /// What is left.
    pub data: Extent,
}

/// What the EFI system partition keeps free for the next update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// So many bytes.
    Exactly(u64),
    /// So many bytes, or less where the data partition would have less than [`DATA_MIN`].
    UpTo(u64),
}

/// Why there is no layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// This many bytes more than the budget are needed.
    OverBudget {
        /// How many.
        missing: u64,
    },
    /// The boot files don't fit into a FAT16 of any cluster size.
    TooLargeForFat,
}

/// Lays out a disk of `budget` bytes with a core.img of `core` bytes, boot files of these sizes in `directories`
/// directories, and `room` beside them.
///
/// # Errors
/// When less than [`DATA_MIN`] is left for data.
pub fn plan(budget: u64, core: u64, files: &[u64], directories: u64, room: Room) -> Result<Layout, Misfit> {
    match room {
        Room::Exactly(room) => with_room(budget, core, files, directories, room),
        Room::UpTo(most) => {
            let mut room = most;
            loop {
                match with_room(budget, core, files, directories, room) {
                    Err(Misfit::OverBudget { missing }) if room > 0 => room = room.saturating_sub(missing),
                    Err(Misfit::TooLargeForFat) if room > 0 => room /= 2,
                    planned => return planned,
                }
            }
        }
    }
}

fn with_room(budget: u64, core: u64, files: &[u64], directories: u64, room: u64) -> Result<Layout, Misfit> {
    let esp_start = (FIRST_USABLE * SECTOR + core).next_multiple_of(ESP_ALIGN);
    let (cluster, esp_size) = fat_size(files, directories, room).ok_or(Misfit::TooLargeForFat)?;
    let data_start = (esp_start + esp_size).next_multiple_of(DATA_ALIGN);
    // A budget that is no whole number of blocks loses its last bytes to the backup GPT's place.
    let data_end = (budget / SECTOR).saturating_sub(BACKUP) * SECTOR;
    let needed = data_start + DATA_MIN;
    if data_end < needed {
        return Err(Misfit::OverBudget { missing: needed - data_end });
    }
    let extent = |start: u64, end: u64| Extent { first: start / SECTOR, count: (end - start) / SECTOR };
    let layout = Layout {
        bios_boot: extent(FIRST_USABLE * SECTOR, esp_start),
        esp: extent(esp_start, data_start),
        cluster,
        data: extent(data_start, data_end),
    };
    // Aligning the end may have added clusters; it adds less than 1 MiB, which the margin of `CLUSTERS` bears.
    Ok(layout)
}

/// Cluster size and total size of a FAT16 that holds files of these sizes, `room` bytes and the slack: the largest
/// cluster up to 4 KiB (a page of the flash) that leaves enough clusters, a larger one only where there would be too many.
pub fn fat_size(files: &[u64], directories: u64, room: u64) -> Option<(u64, u64)> {
    let clusters = |cluster: u64| {
        let used: u64 = files.iter().map(|size| size.div_ceil(cluster)).sum();
        used + directories + room.saturating_add(ESP_SLACK).div_ceil(cluster)
    };
    let mut cluster = 4 * KIB;
    while clusters(cluster) < *CLUSTERS.start() && cluster > SECTOR {
        cluster /= 2;
    }
    // The end is aligned later by up to DATA_ALIGN: leave room for those clusters too.
    while clusters(cluster) + DATA_ALIGN / cluster > *CLUSTERS.end() && cluster < CLUSTER_MAX {
        cluster *= 2;
    }
    let count = clusters(cluster).max(*CLUSTERS.start());
    if count + DATA_ALIGN / cluster > *CLUSTERS.end() {
        return None;
    }
    // Two bytes an entry, two entries reserved, two copies; one sector of boot record (same document, section 3).
    let tables = 2 * ((count + 2 + DATA_ALIGN / cluster) * 2).next_multiple_of(SECTOR);
    let root = u64::from(ROOT_ENTRIES) * 32;
    Some((cluster, SECTOR + tables + root + count * cluster))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn partitions_follow_each_other_without_a_gap() {
        let layout = plan(64 * MIB, 120_000, &[8 * MIB, 20 * MIB, 300], 3, Room::Exactly(0)).unwrap();
        assert_eq!(layout.bios_boot.first, FIRST_USABLE);
        assert_eq!(layout.esp.first, layout.bios_boot.last() + 1);
        assert_eq!(layout.data.first, layout.esp.last() + 1);
        assert_eq!(layout.data.last() + 1 + BACKUP, 64 * MIB / SECTOR);
        assert_eq!(layout.data.start() % MIB, 0);
        assert_eq!(layout.esp.start(), 256 * KIB);
        assert_eq!(layout.cluster, 4 * KIB);
    }

    #[test]
    fn what_does_not_fit_says_by_how_much() {
        let fits = plan(64 * MIB, 120_000, &[54 * MIB - 600 * KIB], 3, Room::Exactly(0));
        assert!(fits.is_ok(), "{fits:?}");
        let Err(Misfit::OverBudget { missing }) = plan(64 * MIB, 120_000, &[60 * MIB], 3, Room::UpTo(9 * MIB)) else {
            panic!("60 MiB of files and 8 MiB of data in 64 MiB");
        };
        assert!((5 * MIB..7 * MIB).contains(&missing), "{missing}");
        assert!(plan(0, 0, &[], 0, Room::Exactly(0)).is_err());
    }

    #[test]
    fn room_shrinks_only_where_it_may() {
        let files = [8 * MIB, 20 * MIB];
        let esp =
            |room| plan(64 * MIB, 120_000, &files, 3, room).map(|layout| (layout.esp.bytes(), layout.data.bytes()));
        let (bytes, _) = esp(Room::Exactly(10 * MIB)).unwrap();
        assert!((38 * MIB..40 * MIB).contains(&bytes), "{bytes}");
        assert!(matches!(esp(Room::Exactly(40 * MIB)), Err(Misfit::OverBudget { .. })));
        let (bytes, data) = esp(Room::UpTo(40 * MIB)).unwrap();
        assert!(bytes > 53 * MIB && (DATA_MIN..DATA_MIN + 2 * MIB).contains(&data), "{bytes} {data}");
        assert_eq!(esp(Room::UpTo(10 * MIB)), esp(Room::Exactly(10 * MIB)));
        assert!(plan(u64::MAX, 0, &files, 3, Room::Exactly(u64::MAX)).is_err());
        assert!(plan(u64::MAX / 2, 0, &files, 3, Room::UpTo(u64::MAX)).is_ok());
    }

    proptest! {
        #[test]
        fn the_fat_stays_a_fat16(sizes in proptest::collection::vec(0u64..64 * MIB, 1..24), room in 0..256 * MIB) {
            let layout = plan(4096 * MIB, 100_000, &sizes, 3, Room::Exactly(room)).unwrap();
            let clusters = layout.esp.bytes() / layout.cluster;
            prop_assert!(clusters <= 65_524, "{clusters} clusters of {}", layout.cluster);
            let data: u64 = sizes.iter().map(|size| size.next_multiple_of(layout.cluster)).sum();
            prop_assert!(layout.esp.bytes() >= data + room + ESP_SLACK);
            prop_assert!((layout.esp.bytes() - 200 * KIB) / layout.cluster >= 4085);
        }
    }
}
