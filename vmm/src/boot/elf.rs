//! An uncompressed kernel: an ELF file (System V ABI, "Object Files") with a PVH note (Xen `public/elfnote.h`).

use super::image::{HEAD_BYTES, Image, Kind, Piece, Plan, field};
use crate::layout;

/// Bytes of the file's header.
const HEADER_BYTES: u64 = 64;
/// `EI_CLASS`: 64 bits.
const CLASS_64: u8 = 2;
/// `EI_DATA`: the least significant byte first.
const LITTLE_ENDIAN: u8 = 1;
/// `EM_X86_64`.
const X86_64: u64 = 62;
/// Bytes of a program header.
const PROGRAM_HEADER_BYTES: usize = 56;
/// Most program headers: Linux has five.
const PROGRAM_HEADERS_MAX: u64 = 64;
/// `PT_LOAD`.
const LOAD: u64 = 1;
/// `PF_W` of a segment's flags.
const WRITABLE: u64 = 2;
/// `PT_NOTE`.
const NOTE: u64 = 4;
/// Most bytes of notes in a segment: Linux has less than a KiB.
const NOTES_MAX: u64 = 64 << 10;
/// `XEN_ELFNOTE_PHYS32_ENTRY`.
const PHYS32_ENTRY: u64 = 18;
/// Bytes of a note's header: the lengths of its name and of its content, and its type.
const NOTE_HEADER_BYTES: usize = 12;

/// What becomes of the ELF file that begins with `head` and has `size` bytes.
pub(super) fn plan<I: Image + ?Sized>(image: &I, size: u64, head: &[u8; HEAD_BYTES]) -> Result<Plan, String> {
    if head[4] != CLASS_64 || head[5] != LITTLE_ENDIAN || field(head, 18, 2) != X86_64 {
        return Err("it is an ELF file for another processor than x86-64".to_owned());
    }
    let mut pieces = Vec::new();
    let mut end = layout::HIGH_RAM;
    let mut entry = None;
    for header in program_headers(image, head)? {
        let [kind, offset, address, in_file, in_memory] =
            [(0, 4), (8, 8), (24, 8), (32, 8), (40, 8)].map(|(at, bytes)| field(&header, at, bytes));
        if !matches!(kind, LOAD | NOTE) {
            continue;
        }
        if offset.checked_add(in_file).is_none_or(|end| end > size) {
            return Err("it is damaged: a segment lies beyond the end of the file".to_owned());
        }
        if kind == NOTE {
            entry = entry.or(pvh_entry(image, offset, in_file)?);
            continue;
        }
        let segment_end = address.checked_add(in_memory.max(in_file)).filter(|_| address >= layout::HIGH_RAM);
        end = end.max(segment_end.ok_or("it is damaged: a segment has no place in a guest's memory")?);
        let written = field(&header, 4, 4) & WRITABLE != 0;
        pieces.push(Piece { offset, address, bytes: in_file, written });
    }
    let entry = entry.ok_or("it has no PVH entry: build it with CONFIG_PVH=y")?;
    if !(layout::HIGH_RAM..end).contains(&entry) {
        return Err("it is damaged: its PVH entry lies outside of it".to_owned());
    }
    Ok(Plan { kind: Kind::Pvh { entry }, pieces, end })
}

fn program_headers<I: Image + ?Sized>(
    image: &I,
    head: &[u8; HEAD_BYTES],
) -> Result<Vec<[u8; PROGRAM_HEADER_BYTES]>, String> {
    let (offset, bytes, count) = (field(head, 32, 8), field(head, 54, 2), field(head, 56, 2));
    if offset < HEADER_BYTES || bytes != PROGRAM_HEADER_BYTES as u64 || count > PROGRAM_HEADERS_MAX {
        return Err("its ELF header is damaged".to_owned());
    }
    let mut headers = vec![[0; PROGRAM_HEADER_BYTES]; count as usize];
    image.read_at(headers.as_flattened_mut(), offset).map_err(|_| "its program headers are missing")?;
    Ok(headers)
}

/// The PVH entry, if a note among the `bytes` at `offset` tells it.
fn pvh_entry<I: Image + ?Sized>(image: &I, offset: u64, bytes: u64) -> Result<Option<u64>, String> {
    if bytes > NOTES_MAX {
        return Err("it is damaged: its notes are too long".to_owned());
    }
    let mut notes = vec![0; bytes as usize];
    image.read_at(&mut notes, offset).map_err(|_| "its notes cannot be read")?;
    let mut rest = &notes[..];
    while let Some((header, behind)) = rest.split_first_chunk::<NOTE_HEADER_BYTES>() {
        let [name_bytes, content_bytes, kind] = [0, 4, 8].map(|at| field(header, at, 4));
        // Each part is padded to four bytes.
        let padded = |bytes: u64| bytes.next_multiple_of(4) as usize;
        let Some((name, behind)) = behind.split_at_checked(padded(name_bytes)) else { break };
        let content = behind.get(..content_bytes as usize).unwrap_or_default();
        if kind == PHYS32_ENTRY && name == b"Xen\0" && content.len() >= 4 {
            return Ok(Some(field(content, 0, 4)));
        }
        rest = behind.get(padded(content_bytes)..).unwrap_or_default();
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::image::plan;
    use crate::boot::testing;

    fn refusal(change: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut image = testing::vmlinux();
        change(&mut image);
        plan(&image[..]).unwrap_err()
    }

    #[test]
    fn segments_and_entry_are_found() {
        let plan = plan(&testing::vmlinux()[..]).unwrap();
        assert!(matches!(plan.kind, Kind::Pvh { entry: testing::ENTRY }));
        assert_eq!(plan.pieces, testing::PIECES);
        assert_eq!(plan.end, testing::END);
    }

    #[test]
    fn what_cannot_be_entered_is_refused() {
        assert!(refusal(|image| image[18] = 3).contains("another processor"));
        assert!(refusal(|image| image[54] = 1).contains("ELF header is damaged"));
        assert!(refusal(|image| image[57] = 1).contains("ELF header is damaged"));
        assert!(refusal(|image| image[33..40].fill(0x7f)).contains("program headers are missing"));
        assert!(refusal(|image| image.truncate(0x2001)).contains("beyond the end"));
        // The first segment's address, its length, the note's type, the entry in it.
        let first = testing::PROGRAM_HEADERS;
        assert!(refusal(|image| image[first + 24..first + 32].fill(0)).contains("no place"));
        assert!(refusal(|image| image[first + 40..first + 48].fill(0xff)).contains("no place"));
        assert!(refusal(|image| image[testing::NOTES + 24 + 8] = 17).contains("CONFIG_PVH=y"));
        assert!(refusal(|image| image[testing::NOTES + 24 + 16 + 3] = 0x70).contains("outside"));
    }

    #[test]
    fn an_ordinary_program_is_refused() {
        let this = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
        assert!(plan(&this).is_err());
    }
}
