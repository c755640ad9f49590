//! From files into the guest's memory: whole pages are mapped, the rest is copied.
//!
//! A mapped page is the host's page cache until the guest writes to it, and its own copy from then on. Guests of one
//! kernel thus share all of it that none of them writes, and what a guest never looks at is never read. What the guest
//! is known to write is made its own at once: a page that it reads first and writes then leaves the guest three times,
//! to be mapped, to be copied, and to be mapped again.
//!
//! # Files must not shrink
//! A page that is cut off its file while a guest runs is not there any more: whoever touches it next, the guest or the
//! VMM, meets SIGBUS, and the VMM dies of it. Replace such files (write another, rename it over the first); never
//! truncate or rewrite them. This holds for every program on the host, which are mapped in the same way.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryResult};

use super::PAGE;
use super::image::Piece;

/// Puts `piece` of `file` into `memory`, mapped as far as `share` allows and pages go, else copied.
///
/// # Errors
/// The guest has no such memory, or the file cannot be read.
pub fn place(memory: &GuestMemoryMmap, file: &File, piece: Piece, share: bool) -> GuestMemoryResult<()> {
    let pages = if share { whole_pages(piece) } else { None };
    let Some(pages) = pages else { return copy(memory, file, piece) };
    // One that the host cannot map, such as a pipe's or a strange file system's, can be copied still.
    if map(memory, file, pages)?.is_err() {
        return copy(memory, file, piece);
    }
    if piece.written {
        make_own(memory, pages)?;
    }
    let before = pages.offset - piece.offset;
    copy(memory, file, Piece { bytes: before, ..piece })?;
    let (done, rest) = (before + pages.bytes, piece.bytes - before - pages.bytes);
    copy(memory, file, Piece { offset: piece.offset + done, address: piece.address + done, bytes: rest, ..piece })
}

/// The pages that `piece` fills, if its bytes lie in pages of the file as they do in the guest's.
fn whole_pages(piece: Piece) -> Option<Piece> {
    let Piece { offset, address, bytes, .. } = piece;
    let before = address.next_multiple_of(PAGE) - address;
    let whole = bytes.checked_sub(before)? / PAGE * PAGE;
    let congruent = offset % PAGE == address % PAGE;
    let pages = Piece { offset: offset + before, address: address + before, bytes: whole, ..piece };
    (congruent && whole > 0).then_some(pages)
}

/// Maps pages of `file` over the guest's; the inner result is the host's.
fn map(memory: &GuestMemoryMmap, file: &File, pages: Piece) -> GuestMemoryResult<io::Result<()>> {
    let target = memory.get_slice(GuestAddress(pages.address), pages.bytes as usize)?;
    let start = target.ptr_guard_mut().as_ptr();
    // SAFETY: the slice is a part of the guest's memory, in one region and whole pages of it, which the region owns
    // and will unmap; no reference to guest memory exists, only raw pointers that are used for volatile accesses, and
    // those find memory there as before.
    let mapped = unsafe {
        libc::mmap(
            start.cast(),
            target.len(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
            file.as_raw_fd(),
            pages.offset as libc::off_t,
        )
    };
    Ok(if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) })
}

/// Has the host copy mapped pages now. A host that cannot (Linux before 5.14), or that has too little memory for it, does
/// so page by page when the guest writes.
fn make_own(memory: &GuestMemoryMmap, pages: Piece) -> GuestMemoryResult<()> {
    let target = memory.get_slice(GuestAddress(pages.address), pages.bytes as usize)?;
    // SAFETY: the slice is mapped, and the advice changes nothing that it holds.
    let _ = unsafe { libc::madvise(target.ptr_guard_mut().as_ptr().cast(), target.len(), libc::MADV_POPULATE_WRITE) };
    Ok(())
}

fn copy(memory: &GuestMemoryMmap, file: &File, piece: Piece) -> GuestMemoryResult<()> {
    if piece.bytes == 0 {
        return Ok(());
    }
    let mut file = file;
    file.seek(SeekFrom::Start(piece.offset)).map_err(vm_memory::GuestMemoryError::IOError)?;
    memory.read_exact_volatile_from(GuestAddress(piece.address), &mut file, piece.bytes as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    const MEMORY: u64 = 16 * PAGE;

    fn file(bytes: usize) -> (File, Vec<u8>) {
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..bytes).map(|at| (at / 7) as u8 | 1).collect();
        file.write_all(&content).unwrap();
        (file, content)
    }

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).unwrap()
    }

    proptest! {
        #[test]
        fn mapped_or_copied_memory_is_the_same(
            offset in 0u64..3 * PAGE,
            shift in prop::option::of(0u64..PAGE),
            page in 0u64..4,
            bytes in 0u64..5 * PAGE,
            written: bool,
        ) {
            // Half of the pieces are congruent.
            let address = page * PAGE + shift.unwrap_or(offset % PAGE);
            let (file, content) = file(8 * PAGE as usize);
            let expected = &content[offset as usize..(offset + bytes) as usize];
            for share in [false, true] {
                let memory = memory();
                place(&memory, &file, Piece { offset, address, bytes, written }, share).unwrap();
                let mut all = vec![0; MEMORY as usize];
                memory.read_slice(&mut all, GuestAddress(0)).unwrap();
                let (start, end) = (address as usize, (address + bytes) as usize);
                prop_assert!(&all[start..end] == expected);
                prop_assert!(all[..start].iter().chain(&all[end..]).all(|byte| *byte == 0));
            }
        }
    }

    #[test]
    fn what_the_guest_writes_stays_with_it() {
        let (file, content) = file(2 * PAGE as usize);
        let (one, other) = (memory(), memory());
        let piece = Piece { offset: 0, address: PAGE, bytes: 2 * PAGE, written: false };
        place(&one, &file, piece, true).unwrap();
        place(&other, &file, piece, true).unwrap();
        one.write_obj(0u64, GuestAddress(PAGE)).unwrap();
        let mut first = [0; 8];
        file.read_exact_at(&mut first, 0).unwrap();
        assert_eq!(first, content[..8]);
        assert_eq!(other.read_obj::<[u8; 8]>(GuestAddress(PAGE)).unwrap(), content[..8]);
    }

    #[test]
    fn whole_pages_are_mapped_and_those_that_will_be_written_are_the_guests() {
        let (file, content) = file(2 * PAGE as usize);
        let (shared, own) = (memory(), memory());
        let piece = Piece { offset: 0, address: 0, bytes: 2 * PAGE, written: false };
        place(&shared, &file, piece, true).unwrap();
        place(&own, &file, Piece { written: true, ..piece }, true).unwrap();
        // What changes in the file shows in a page that was mapped and that nobody wrote to.
        file.write_all_at(&[0xee], PAGE).unwrap();
        assert_eq!(shared.read_obj::<u8>(GuestAddress(PAGE)).unwrap(), 0xee);
        assert_eq!(shared.read_obj::<u8>(GuestAddress(PAGE + 1)).unwrap(), content[PAGE as usize + 1]);
        assert_eq!(own.read_obj::<u8>(GuestAddress(PAGE)).unwrap(), content[PAGE as usize]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (file, _) = file(4 * PAGE as usize);
        for share in [false, true] {
            let beyond = Piece { offset: 0, address: MEMORY - PAGE, bytes: 2 * PAGE, written: false };
            assert!(place(&memory(), &file, beyond, share).is_err());
        }
    }
}
