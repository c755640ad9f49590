//! What a kernel image asks for, told from its bytes alone: which pieces of the file go where, and how it is entered.
//! Whoever builds the file is trusted more than a guest is, yet a damaged one must be refused and not obeyed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use linux_loader::loader::bootparam::setup_header;

use super::{bzimage, elf};

/// Bytes that can be read from any place: a file's, or those of a test.
pub trait Image {
    /// How many they are.
    ///
    /// # Errors
    /// The file cannot be measured.
    fn size(&self) -> io::Result<u64>;

    /// Fills `bytes` with what begins at `offset`.
    ///
    /// # Errors
    /// There are not as many, or the file cannot be read.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
}

impl Image for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(bytes, offset)
    }
}

impl Image for [u8] {
    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let source = usize::try_from(offset).ok().and_then(|start| self.get(start..start.checked_add(bytes.len())?));
        bytes.copy_from_slice(source.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// A piece of a file and its place in the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins in the file.
    pub offset: u64,
    /// Where it begins in the guest's memory.
    pub address: u64,
    /// Its length in bytes; neither end overflows.
    pub bytes: u64,
    /// The guest will write to it: its pages are best its own from the start.
    pub written: bool,
}

/// The two kinds of images.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// An ELF `vmlinux` with a PVH note.
    Pvh {
        /// The address in that note.
        entry: u64,
    },
    /// A compressed `bzImage` with a 64-bit entry.
    BzImage {
        /// Its setup header, for the boot parameters.
        header: setup_header,
        /// Its 64-bit entry.
        entry: u64,
    },
}

/// What becomes of an image.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How it is entered.
    pub kind: Kind,
    /// What of it goes into memory, in that order. All of it lies in the file and above the first megabyte; whether
    /// the guest has that much memory is for the loader to see.
    pub pieces: Vec<Piece>,
    /// The first address that the kernel leaves free, while it starts too.
    pub end: u64,
}

/// Bytes that tell the kinds apart and hold the setup header of one.
pub(super) const HEAD_BYTES: usize = 0x26c;

/// Reads `image`'s headers.
///
/// # Errors
/// It is no kernel that can be entered; the rest of a sentence says why.
pub fn plan<I: Image + ?Sized>(image: &I) -> Result<Plan, String> {
    let size = image.size().map_err(|error| error.to_string())?;
    let mut head = [0; HEAD_BYTES];
    let present = usize::try_from(size).unwrap_or(HEAD_BYTES).min(HEAD_BYTES);
    image.read_at(&mut head[..present], 0).map_err(|error| error.to_string())?;
    if head.starts_with(b"\x7fELF") {
        elf::plan(image, size, &head)
    } else if bzimage::is_one(&head) {
        bzimage::plan(size, &head)
    } else {
        Err("it is neither an ELF vmlinux nor a bzImage".to_owned())
    }
}

/// The little-endian number of `bytes` bytes at `at`.
pub(super) fn field(head: &[u8], at: usize, bytes: usize) -> u64 {
    head[at..at + bytes].iter().rev().fold(0, |value, byte| (value << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::testing;
    use crate::layout;
    use proptest::prelude::*;

    /// A plan that was made is one that can be carried out without a further look.
    fn check(plan: &Plan, size: u64) {
        for piece in &plan.pieces {
            assert!(piece.offset.checked_add(piece.bytes).unwrap() <= size);
            assert!(piece.address.checked_add(piece.bytes).unwrap() <= plan.end);
            assert!(piece.address >= layout::HIGH_RAM);
        }
    }

    #[test]
    fn short_files_are_refused() {
        for length in 0..0x300 {
            assert!(plan(&vec![0; length][..]).unwrap_err().contains("neither"));
        }
        assert!(plan(&b"\x7fELF"[..]).is_err());
    }

    proptest! {
        #[test]
        fn any_damage_is_survived(
            bzimage: bool,
            damage in prop::collection::vec((0usize..0x400, any::<u8>()), 0..8),
            wide in prop::collection::vec((0usize..0x3f8, any::<u64>()), 0..3),
            length in 0usize..0x3000,
        ) {
            let mut image = if bzimage { testing::bzimage() } else { testing::vmlinux() };
            for (at, value) in damage {
                image[at] = value;
            }
            for (at, value) in wide {
                image[at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
            image.truncate(length);
            if let Ok(plan) = plan(&image[..]) {
                check(&plan, image.len() as u64);
            }
        }
    }
}
