//! Where everything lies in a FAT16, as its boot record says (FAT: General Overview of On-Disk Format 1.03, sections 3.1
//! to 3.5).

use thimble_spec::slot::VolumeId;

use super::{ENTRY, SECTOR};
use crate::error::{Error, Result};

/// A FAT16 has so many clusters (same document, section 3.5).
const CLUSTERS: std::ops::RangeInclusive<u64> = 4085..=65524;
/// The first cluster's number.
pub const FIRST: u16 = 2;

/// Places in bytes from the start of the partition, checked: all of them lie on it, and none overlaps another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of a cluster.
    pub cluster: u64,
    /// Where the first copy of the table starts.
    pub table: u64,
    /// Bytes of a copy.
    pub table_bytes: u64,
    /// How many copies there are.
    pub copies: u64,
    /// Where the root directory starts.
    pub root: u64,
    /// Bytes of it.
    pub root_bytes: u64,
    /// Where the first cluster starts.
    pub data: u64,
    /// Number of the cluster behind the last one.
    pub end: u16,
    /// The volume's number.
    pub volume: VolumeId,
}

/// The volume's number that a boot record tells, whatever else it says (BootSig, VolID of a FAT12 and FAT16).
pub fn volume(boot: &[u8; SECTOR]) -> Option<VolumeId> {
    let sound = boot[SECTOR - 2..] == [0x55, 0xaa] && boot[38] == 0x29;
    sound.then(|| VolumeId(u32::from_le_bytes([boot[39], boot[40], boot[41], boot[42]])))
}

impl Geometry {
    /// Reads a boot record, for a partition of `size` bytes.
    ///
    /// # Errors
    /// It is no FAT16 with sectors of 512 bytes, or it does not fit.
    pub fn read(boot: &[u8; SECTOR], size: u64) -> Result<Self> {
        let wrong = |what: &str| Error::damaged(format!("its boot record {what}"));
        let word = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
        let long = |at: usize| u32::from_le_bytes([boot[at], boot[at + 1], boot[at + 2], boot[at + 3]]);
        if boot[SECTOR - 2..] != [0x55, 0xaa] {
            return Err(wrong("is none: it does not end with 55 aa"));
        }
        // BytsPerSec, SecPerClus, RsvdSecCnt, NumFATs, RootEntCnt, TotSec16 or 32, FATSz16, BootSig.
        let sector = SECTOR as u64;
        let (per_cluster, reserved, copies, entries) = (u64::from(boot[13]), word(14), u64::from(boot[16]), word(17));
        let total = if word(19) == 0 { u64::from(long(32)) } else { word(19) };
        let table_sectors = word(22);
        if word(11) != sector {
            return Err(wrong("has sectors of another size than 512 bytes"));
        }
        if !per_cluster.is_power_of_two() || reserved == 0 || !(1..=2).contains(&copies) || table_sectors == 0 {
            return Err(wrong("is not one of a FAT16"));
        }
        let volume = volume(boot).ok_or_else(|| wrong("has no volume id"))?;
        let root_bytes = (entries * ENTRY as u64).next_multiple_of(sector);
        let (table, table_bytes, cluster) = (reserved * sector, table_sectors * sector, per_cluster * sector);
        let root = table + copies * table_bytes;
        let data = root + root_bytes;
        let whole = total * sector;
        if whole > size || data > whole || root_bytes == 0 {
            return Err(wrong("says that it is larger than the partition"));
        }
        let clusters = (whole - data) / cluster;
        if !CLUSTERS.contains(&clusters) {
            return Err(wrong(&format!("gives it {clusters} clusters, which is no FAT16")));
        }
        let end = clusters + u64::from(FIRST);
        if end * 2 > table_bytes {
            return Err(wrong("has a table that is too short"));
        }
        let end = u16::try_from(end).map_err(|_| wrong("is not one of a FAT16"))?;
        Ok(Self { cluster, table, table_bytes, copies, root, root_bytes, data, end, volume })
    }

    /// Where a cluster starts.
    pub fn place(&self, cluster: u16) -> u64 {
        self.data + u64::from(cluster.saturating_sub(FIRST)) * self.cluster
    }

    /// Whether there is such a cluster.
    pub fn holds(&self, cluster: u16) -> bool {
        (FIRST..self.end).contains(&cluster)
    }
}
