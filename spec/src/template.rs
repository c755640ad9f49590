//! An empty file system as the list of its blocks that are not zero.
//!
//! A guest's disk gets its file system at its first start. Rather than carry mkfs in two megabytes of kernel and
//! initramfs, the builder runs mkfs once on a small file and packs what it wrote; PID 1 writes those blocks to the disk
//! and lets the kernel grow the file system to the disk's size (`EXT4_IOC_RESIZE_FS`).
//!
//! Layout, integers little-endian: magic (8 bytes), size of the file system in bytes (u64), then entries of offset
//! (u64), length (u32) and that many bytes, to the end. **The entry at offset 0 comes last**: it holds the superblock,
//! so that a disk whose formatting was cut short still looks blank at the next start and is formatted again.

use thiserror::Error;

/// First bytes of a template.
pub const MAGIC: &[u8; 8] = b"THIMBFS1";

/// Granularity of an entry, in bytes: the block size of the file system.
pub const BLOCK: usize = 4096;

/// A template that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TemplateError {
    /// Wrong first bytes.
    #[error("not a file system template")]
    Magic,
    /// It ends within an entry.
    #[error("the file system template is truncated")]
    Truncated,
    /// An entry lies outside the file system, or the superblock's is missing or not the last.
    #[error("the file system template is damaged: an entry is out of place")]
    Misplaced,
}

/// A template that has been checked from end to end.
#[derive(Clone, Copy, Debug)]
pub struct Template<'a> {
    size: u64,
    entries: &'a [u8],
}

/// Packs the image of a file system.
pub fn pack(image: &[u8]) -> Vec<u8> {
    let mut packed = MAGIC.to_vec();
    packed.extend((image.len() as u64).to_le_bytes());
    let blocks = image.chunks(BLOCK).enumerate();
    let (first, rest): (Vec<_>, Vec<_>) = blocks
        .filter(|(index, block)| *index == 0 || block.iter().any(|byte| *byte != 0))
        .partition(|(index, _)| *index == 0);
    for (index, block) in rest.into_iter().chain(first) {
        packed.extend(((index * BLOCK) as u64).to_le_bytes());
        packed.extend((block.len() as u32).to_le_bytes());
        packed.extend(block);
    }
    packed
}

impl<'a> Template<'a> {
    /// Checks `bytes` as a whole, so that a damaged template is known before a disk is written.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TemplateError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(TemplateError::Magic)?;
        let (size, mut entries) = rest.split_first_chunk().ok_or(TemplateError::Truncated)?;
        let template = Self { size: u64::from_le_bytes(*size), entries };
        let mut superblock_last = false;
        while !entries.is_empty() {
            let ((offset, block), rest) = next(entries).ok_or(TemplateError::Truncated)?;
            let end = offset.checked_add(block.len() as u64);
            if block.is_empty() || superblock_last || end.is_none_or(|end| end > template.size) {
                return Err(TemplateError::Misplaced);
            }
            superblock_last = offset == 0;
            entries = rest;
        }
        if superblock_last { Ok(template) } else { Err(TemplateError::Misplaced) }
    }

    /// Size in bytes of the file system; a disk must have at least this.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Offset and content of each entry, in the order of writing.
    pub fn entries(&self) -> impl Iterator<Item = (u64, &'a [u8])> + use<'a> {
        let mut entries = self.entries;
        std::iter::from_fn(move || {
            let (entry, rest) = next(entries)?;
            entries = rest;
            Some(entry)
        })
    }
}

/// The first entry (its offset and its bytes), and what follows it.
type Split<'a> = ((u64, &'a [u8]), &'a [u8]);

fn next(entries: &[u8]) -> Option<Split<'_>> {
    let (offset, rest) = entries.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (block, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    Some(((u64::from_le_bytes(*offset), block), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_superblock_is_written_last() {
        let mut image = vec![0; 4 * BLOCK];
        image[1024] = 1;
        image[3 * BLOCK + 5] = 2;
        let packed = pack(&image);
        let template = Template::parse(&packed).unwrap();
        let offsets: Vec<u64> = template.entries().map(|(offset, _)| offset).collect();
        assert_eq!(offsets, [3 * BLOCK as u64, 0]);
    }

    #[test]
    fn damage_is_named() {
        let packed = pack(&vec![7; 2 * BLOCK]);
        assert_eq!(Template::parse(b"nonsense").unwrap_err(), TemplateError::Magic);
        assert_eq!(Template::parse(&packed[..packed.len() - 1]).unwrap_err(), TemplateError::Truncated);
        let superblock_missing = &packed[..packed.len() - BLOCK - 12];
        assert_eq!(Template::parse(superblock_missing).unwrap_err(), TemplateError::Misplaced);
        let mut outside = packed.clone();
        outside[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(Template::parse(&outside).unwrap_err(), TemplateError::Misplaced);
    }

    proptest! {
        #[test]
        fn writing_the_entries_gives_the_image(blocks in prop::collection::vec(any::<u8>(), 1..12)) {
            let image: Vec<u8> = blocks.iter().flat_map(|byte| [*byte / 128 * *byte; BLOCK]).collect();
            let packed = pack(&image);
            let template = Template::parse(&packed).unwrap();
            let mut disk = vec![0; image.len()];
            for (offset, block) in template.entries() {
                disk[offset as usize..][..block.len()].copy_from_slice(block);
            }
            prop_assert_eq!(template.size(), image.len() as u64);
            prop_assert_eq!(disk, image);
        }

        #[test]
        fn any_bytes_are_safe(mut bytes in any::<Vec<u8>>(), magic in any::<bool>()) {
            if magic { bytes.splice(0..0, *MAGIC); }
            if let Ok(template) = Template::parse(&bytes) { template.entries().count(); }
        }
    }
}
