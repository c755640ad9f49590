//! The entries `.` and `..` of new directories, put right.
//!
//! They stand first in a directory, in this order, and have no long names (FAT: General Overview of On-Disk Format 1.03,
//! section 6.5). fatfs 0.3 writes a long name before each, so that they stand second and fourth: drivers bear it, but
//! `fsck.fat` would "repair" the directories of every flash disk.

use std::io::{self, Read, Seek, SeekFrom, Write};

/// Bytes of a directory entry.
const ENTRY: usize = 32;
/// First byte of an entry that is free although others follow (same section).
const FREE: u8 = 0xe5;
/// Bytes of the parts of the boot record that are read here.
const BOOT_RECORD: usize = 24;

/// Puts the entries right in directories whose first entries these are: those in the first `count` clusters of a FAT16.
///
/// # Errors
/// The file system cannot be read or written, or a cluster does not hold such a directory.
pub fn put_right(fat: &mut (impl Read + Write + Seek), cluster: u64, count: u64) -> io::Result<()> {
    let mut boot = [0; BOOT_RECORD];
    fat.seek(SeekFrom::Start(0))?;
    fat.read_exact(&mut boot)?;
    // Same document, section 3.1: BytsPerSec, RsvdSecCnt, NumFATs, RootEntCnt, FATSz16.
    let word = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
    let (sector, reserved, copies, root, table) = (word(11), word(14), u64::from(boot[16]), word(17), word(22));
    let data = (reserved + copies * table) * sector + root * ENTRY as u64;

    for index in 0..count {
        let place = data + index * cluster;
        let mut entries = [0; 4 * ENTRY];
        fat.seek(SeekFrom::Start(place))?;
        fat.read_exact(&mut entries)?;
        let [_, dot, _, dot_dot] = [0, 1, 2, 3].map(|slot| &entries[slot * ENTRY..(slot + 1) * ENTRY]);
        if !dot.starts_with(b".          ") || !dot_dot.starts_with(b"..         ") {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a new directory is not where it should be"));
        }
        // Behind them stands what was made in the directory since: a free entry is marked, an empty one would end it.
        let mut free = [0; ENTRY];
        free[0] = FREE;
        let right = [dot, dot_dot, &free, &free].concat();
        fat.seek(SeekFrom::Start(place))?;
        fat.write_all(&right)?;
    }
    Ok(())
}
