//! The mark of what is being made: written before the first byte of a table, an array or a file system, taken away when
//! all of it is there.
//!
//! Whoever finds it knows that nobody's data is there yet, and that making it was cut off. It stands where the thing that
//! is made leaves room:
//!
//! | what | where |
//! | --- | --- |
//! | partition table | 512 KiB: behind the table, before the first partition at 1 MiB |
//! | member of an array with its superblock in front (1.2) | the first sector; the superblock is at 4 KiB |
//! | member of an array with its superblock at the end (1.0) | the last sector; the superblock ends before the last 4 KiB |
//! | LUKS container | the last sector, until its header has a label that says the same ([`crate::signature::LUKS_FRESH`]) |
//! | file system, swap | the last sector, of 1 MiB that it is not given |

/// One sector, of the smallest size that there is.
pub const SIZE: usize = 512;
/// The place of a partition table's mark.
pub const TABLE: u64 = 512 << 10;
/// What a file system is not given of its device.
pub const ROOM: u64 = 1 << 20;

const TEXT: &[u8] = b"THIMBLE: this is being made, and there is nothing on it yet\n";

/// Where a mark is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// The first sector.
    #[default]
    First,
    /// Behind a partition table.
    Table,
    /// The last sector.
    Last,
}

impl Place {
    /// The offset on a device of `size` bytes, which must be larger than [`ROOM`].
    pub fn offset(self, size: u64) -> u64 {
        match self {
            Self::First => 0,
            Self::Table => TABLE,
            Self::Last => size.saturating_sub(SIZE as u64),
        }
    }
}

/// The mark itself.
pub fn bytes() -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    bytes[..TEXT.len()].copy_from_slice(TEXT);
    bytes
}

/// Whether there is one at `offset` of `content`.
pub(crate) fn is_at(content: &[u8], offset: usize) -> bool {
    content.get(offset..offset + SIZE) == Some(&bytes()[..])
}
