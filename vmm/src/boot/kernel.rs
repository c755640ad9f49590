//! The kernel image: told by its first bytes, refused with a sentence, or loaded.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::{BzImage, Elf, KernelLoader};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::error::{Error, Result};
use crate::layout;

/// A kernel in memory.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// How it is entered.
    pub kind: Kind,
    /// The first address that it leaves free, while it starts too.
    pub end: u64,
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

/// Bytes that tell the kinds apart and hold the fields below.
const HEAD_BYTES: usize = 0x268;
/// `HdrS` at 0x202 (Linux `Documentation/arch/x86/boot.rst`).
const BZIMAGE_MAGIC: &[u8] = b"HdrS";
/// Boot protocol 2.12, the first with `xloadflags`.
const BZIMAGE_VERSION: u16 = 0x20c;
/// `XLF_KERNEL_64`: there is a 64-bit entry at 0x200.
const XLF_KERNEL_64: u16 = 1;
/// Where the 64-bit entry is in the loaded image.
const ENTRY_64: u64 = 0x200;

/// Loads the image at `path`.
///
/// # Errors
/// It cannot be read, is of no kind that can be entered, or does not fit.
pub fn load(memory: &GuestMemoryMmap, path: &Path) -> Result<Kernel> {
    let error = |source| Error::File { action: "read the kernel", path: path.to_owned(), source };
    let mut file = File::open(path).map_err(error)?;
    let mut head = [0; HEAD_BYTES];
    file.read_exact(&mut head).or_else(|source| match source.kind() {
        ErrorKind::UnexpectedEof => Ok(()),
        _ => Err(error(source)),
    })?;
    let refuse = |reason: &str| Error::Kernel { path: path.to_owned(), reason: reason.to_owned() };
    if head.starts_with(b"\x7fELF") {
        load_elf(memory, &mut file, &refuse)
    } else if &head[0x202..0x206] == BZIMAGE_MAGIC {
        load_bzimage(memory, &mut file, &head, &refuse)
    } else {
        Err(refuse("it is neither an ELF vmlinux nor a bzImage"))
    }
}

fn load_elf(memory: &GuestMemoryMmap, file: &mut File, refuse: &dyn Fn(&str) -> Error) -> Result<Kernel> {
    let loaded = Elf::load(memory, None, file, Some(GuestAddress(layout::HIGH_RAM)))
        .map_err(|error| refuse(&format!("{error}; it may be damaged, or too large for the guest's memory")))?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        return Err(refuse("it has no PVH entry: build it with CONFIG_PVH=y"));
    };
    Ok(Kernel { kind: Kind::Pvh { entry: entry.0 }, end: loaded.kernel_end })
}

fn load_bzimage(
    memory: &GuestMemoryMmap,
    file: &mut File,
    head: &[u8; HEAD_BYTES],
    refuse: &dyn Fn(&str) -> Error,
) -> Result<Kernel> {
    let field = |at: usize, bytes: usize| {
        head[at..at + bytes].iter().rev().fold(0u64, |value, byte| (value << 8) | u64::from(*byte))
    };
    let (version, flags) = (field(0x206, 2) as u16, field(0x236, 2) as u16);
    if version < BZIMAGE_VERSION || flags & XLF_KERNEL_64 == 0 {
        return Err(refuse("it is a bzImage without a 64-bit entry: use one for x86-64, of Linux 3.8 or newer"));
    }
    // Where it wants to be, and how much memory it needs there until it has found out how much there is.
    let (preferred, init_size) = (field(0x258, 8), field(0x260, 4));
    let loaded = BzImage::load(memory, Some(GuestAddress(preferred)), file, Some(GuestAddress(layout::HIGH_RAM)))
        .map_err(|error| refuse(&format!("{error}; it may be damaged, or too large for the guest's memory")))?;
    let header = loaded.setup_header.ok_or_else(|| refuse("its setup header is damaged"))?;
    let end = loaded.kernel_end.max(preferred.saturating_add(init_size));
    let entry = preferred + ENTRY_64;
    Ok(Kernel { kind: Kind::BzImage { header, entry }, end })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn refusal(bytes: &[u8]) -> String {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 32 << 20)]).unwrap();
        load(&memory, file.path()).unwrap_err().sentence()
    }

    #[test]
    fn what_cannot_be_entered_is_refused() {
        assert!(refusal(b"").ends_with("it is neither an ELF vmlinux nor a bzImage"));
        assert!(refusal(b"\x7fELF").contains("Unable to read elf header"));
        let mut image = [0; 2048];
        image[0x202..0x208].copy_from_slice(b"HdrS\x04\x02");
        assert!(refusal(&image).contains("without a 64-bit entry"));
        // A header that promises an image, and places it outside the memory.
        image[0x206] = 0x0f;
        image[0x236] = 1;
        image[0x211] = 1;
        image[0x258..0x260].fill(0x7f);
        assert!(refusal(&image).contains("cannot be booted"));
    }

    #[test]
    fn an_elf_without_a_note_is_refused() {
        let this = std::env::current_exe().unwrap();
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let sentence = load(&memory, &this).unwrap_err().sentence();
        assert!(sentence.contains("cannot be booted"), "{sentence}");
    }
}
