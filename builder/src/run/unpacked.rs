//! Kernel and initramfs unpacked here, for a QEMU that translates: the decoders that they bring along are the longest part of
//! such a machine's boot. What the machine has then is the same, byte for byte.

use std::io::{self, BufRead, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use object::Endianness;
use object::elf::{FileHeader64, NoteType};
use object::read::elf::{FileHeader, ProgramHeader};
use tempfile::NamedTempFile;

use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::files;

/// The setup header of a `bzImage` (Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header"): its magic number,
const MAGIC: (usize, &[u8]) = (0x202, b"HdrS");
/// the sectors of the code before the kernel,
const SETUP_SECTORS: usize = 0x1f1;
/// a sector's bytes,
const SECTOR: usize = 512;
/// and where the packed kernel begins behind those, and its bytes.
const PAYLOAD: (usize, usize) = (0x248, 0x24c);
/// By what QEMU enters an uncompressed kernel: the note `XEN_ELFNOTE_PHYS32_ENTRY` (include/xen/interface/elfnote.h).
const PVH: (&[u8], NoteType) = (b"Xen", NoteType(18));

/// How a stream of xz begins (xz file format 1.2, 2.1.1.1), and a frame of zstd (RFC 8878, 3.1.1).
const XZ: &[u8] = b"\xfd7zXZ\0";
/// See [`XZ`].
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
/// To what the archives of an initramfs, and their entries, are aligned
/// (Documentation/driver-api/early-userspace/buffer-format.rst, as what follows).
const ALIGNMENT: usize = 4;
/// How an entry of one that is not packed begins,
const CPIO: &[u8] = b"070701";
/// the bytes of its header,
const HEADER: usize = 110;
/// where in that, in eight hexadecimal digits, the bytes of its content are,
const FILE_SIZE: usize = 54;
/// and those of its name;
const NAME_SIZE: usize = 94;
/// and the name of the last one.
const LAST: &[u8] = b"TRAILER!!!\0";

/// The kernel, unpacked, from the cache; `None` if it is packed in a way that is not known here, or could not be entered by
/// QEMU without what it brings along.
///
/// # Errors
/// It cannot be read, the cache cannot be written.
pub fn kernel(cache: &Cache, packed: &Path) -> Result<Option<PathBuf>> {
    let image = files::read(packed)?;
    let Some(payload) = payload(&image).filter(|payload| payload.starts_with(XZ)) else { return Ok(None) };
    let key = files::sha256(&image);
    let entry = cache.dir_for("unpacked-kernel", &key, |dir| {
        let mut plain = Vec::new();
        // Behind the stream there is the length of what it holds.
        liblzma::read::XzDecoder::new(payload).read_to_end(&mut plain).map_err(Error::io("unpack", packed))?;
        // One that cannot be entered is remembered as such.
        if has_entry(&plain) { files::write(&dir.join("vmlinux"), &plain) } else { Ok(()) }
    })?;
    let path = entry.path.join("vmlinux");
    Ok(path.is_file().then_some(path))
}

fn payload(image: &[u8]) -> Option<&[u8]> {
    let (magic, word) = MAGIC;
    if image.get(magic..magic + word.len())? != word {
        return None;
    }
    let number = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize);
    // Zero means four, from the days of floppy disks.
    let sectors = match image[SETUP_SECTORS] {
        0 => 4,
        sectors => sectors as usize,
    };
    let begin = ((sectors + 1) * SECTOR).checked_add(number(PAYLOAD.0)?)?;
    image.get(begin..begin.checked_add(number(PAYLOAD.1)?)?)
}

fn has_entry(kernel: &[u8]) -> bool {
    let Ok(header) = FileHeader64::<Endianness>::parse(kernel) else { return false };
    let Ok(endian) = header.endian() else { return false };
    let segments = header.program_headers(endian, kernel).unwrap_or_default();
    let notes = segments.iter().filter_map(|segment| segment.notes(endian, kernel).ok().flatten());
    notes
        .flat_map(|mut notes| std::iter::from_fn(move || notes.next().ok().flatten()))
        .any(|note| (note.name(), note.n_type(endian)) == PVH)
}

/// The initramfs, unpacked, in a file that goes away with its owner.
///
/// # Errors
/// It cannot be read or unpacked, the file cannot be written.
pub fn initrd(cache: &Cache, packed: &Path) -> Result<NamedTempFile> {
    let directory = cache.temp_dir();
    let file = NamedTempFile::new_in(&directory).map_err(Error::io("create a file in", &directory))?;
    archives(&files::read(packed)?, BufWriter::new(file.as_file())).map_err(Error::io("unpack", packed))?;
    Ok(file)
}

/// Unpacks one archive after the other; what is none, or packed otherwise, is left to the kernel with all that is behind it.
fn archives(mut from: &[u8], mut to: impl Write) -> io::Result<()> {
    loop {
        let zeros = from.iter().take_while(|byte| **byte == 0).count();
        from.consume(zeros);
        let written = if from.starts_with(ZSTD) {
            io::copy(&mut zstd::Decoder::with_buffer(&mut from)?.single_frame(), &mut to)?
        } else if from.starts_with(XZ) {
            io::copy(&mut liblzma::bufread::XzDecoder::new(&mut from), &mut to)?
        } else {
            let plain = archive(from).unwrap_or(from.len());
            to.write_all(&from[..plain])?;
            from.consume(plain);
            if from.is_empty() {
                return to.flush();
            }
            plain as u64
        };
        let short = written.next_multiple_of(ALIGNMENT as u64) - written;
        to.write_all(&[0; ALIGNMENT][..short as usize])?;
    }
}

/// The bytes of an archive that is not packed, with its last entry; `None` if there is none, or not all of it.
fn archive(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let header = bytes.get(at..)?.get(..HEADER)?;
        let number = |field: usize| {
            let digits = str::from_utf8(&header[field..field + 8]).ok()?;
            usize::from_str_radix(digits, 16).ok()
        };
        let (content, name) = (number(FILE_SIZE)?, number(NAME_SIZE)?);
        let begin = at + HEADER;
        let is_last = header.starts_with(CPIO).then(|| bytes.get(begin..)?.get(..name))?? == LAST;
        at = (begin + name).next_multiple_of(ALIGNMENT);
        at = (at + content).next_multiple_of(ALIGNMENT);
        if is_last {
            return (at <= bytes.len()).then_some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xz(content: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        liblzma::read::XzEncoder::new(content, 1).read_to_end(&mut packed).unwrap();
        packed
    }

    /// An archive with one file.
    fn cpio(content: &[u8]) -> Vec<u8> {
        let mut archive = cpio::newc::Builder::new("file").write(Vec::new(), content.len() as u32);
        archive.write_all(content).unwrap();
        cpio::newc::trailer(archive.finish().unwrap()).unwrap()
    }

    #[test]
    fn archives_come_out_one_after_the_other_and_what_is_none_as_it_is() {
        let mut packed = zstd::encode_all(&b"first"[..], 1).unwrap();
        packed.resize(packed.len().next_multiple_of(4), 0);
        packed.extend(xz(b"two!"));
        packed.extend([0; 8]);
        let third = cpio(&xz(b"is a file"));
        packed.extend(&third);
        packed.extend(xz(b"fourth"));
        packed.extend(b"070701 is none");
        let mut plain = Vec::new();
        archives(&packed, &mut plain).unwrap();
        assert_eq!(plain, [b"first\0\0\0two!", &third[..], b"fourth\0\0", b"070701 is none"].concat());
        // One that is cut off is not taken for whole.
        assert!(archives(&packed[..packed.len() - 40], &mut Vec::new()).is_err());
        assert_eq!(archive(&third), Some(third.len()));
        assert!((0..third.len()).all(|end| archive(&third[..end]).is_none()));
    }

    /// An image with one sector of setup, and this packed in it.
    fn image(kernel: &[u8]) -> Vec<u8> {
        let packed = xz(kernel);
        let mut image = vec![0; 2 * SECTOR];
        image[SETUP_SECTORS] = 1;
        image[MAGIC.0..MAGIC.0 + 4].copy_from_slice(MAGIC.1);
        image[PAYLOAD.0..PAYLOAD.0 + 4].copy_from_slice(&16_u32.to_le_bytes());
        image[PAYLOAD.1..PAYLOAD.1 + 4].copy_from_slice(&(packed.len() as u32 + 4).to_le_bytes());
        image.extend([0; 16]);
        image.extend(packed);
        image.extend((kernel.len() as u32).to_le_bytes());
        image
    }

    /// An ELF file with one segment, of one note.
    fn elf(name: &[u8; 4], kind: u32) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        file.extend([2_u16, 62].map(u16::to_le_bytes).concat());
        file.extend(1_u32.to_le_bytes());
        file.extend([0_u64, 64, 0].map(u64::to_le_bytes).concat());
        file.extend(0_u32.to_le_bytes());
        file.extend([64_u16, 56, 1, 64, 0, 0].map(u16::to_le_bytes).concat());
        file.extend([4_u32, 4].map(u32::to_le_bytes).concat());
        file.extend([120_u64, 0, 0, 20, 20, 4].map(u64::to_le_bytes).concat());
        file.extend([4_u32, 4, kind].map(u32::to_le_bytes).concat());
        file.extend(name);
        file.extend([0; 4]);
        file
    }

    #[test]
    fn a_kernel_is_unpacked_once_if_it_can_be_entered() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open_at(&dir.path().join("cache")).unwrap();
        let of = |content: &[u8]| {
            let path = dir.path().join("vmlinuz");
            files::write(&path, content).unwrap();
            kernel(&cache, &path).unwrap()
        };
        let whole = elf(b"Xen\0", 18);
        let unpacked = of(&image(&whole)).expect("it can be entered");
        assert_eq!(files::read(&unpacked).unwrap(), whole);
        assert_eq!(of(&image(&whole)), Some(unpacked));
        for other in [elf(b"Xen\0", 17), elf(b"GNU\0", 18), b"no ELF".to_vec()] {
            assert_eq!(of(&image(&other)), None);
        }
        // What is no kernel, or packed otherwise, is left to QEMU.
        let mut gzip = image(&whole);
        gzip[2 * SECTOR + 16] = 0x1f;
        let mut far = image(&whole);
        far[PAYLOAD.1 + 3] = 0xff;
        for other in [gzip, far, vec![0; 4096], b"HdrS".to_vec()] {
            assert_eq!(of(&other), None);
        }
    }
}
