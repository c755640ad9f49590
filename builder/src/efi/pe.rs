//! The headers of a UEFI program: PE32+ for x86-64 (Microsoft's "PE Format"; UEFI 2.10, 2.1.1), read and checked as far
//! as firmware relies on them. A file that was cut or whose tables were damaged is told here; what was changed inside a
//! section shows in the [checksum](Checksum).

use std::ops::Range;

use object::LittleEndian as LE;
use object::pe::{
    IMAGE_DIRECTORY_ENTRY_SECURITY, IMAGE_FILE_MACHINE_AMD64, IMAGE_SUBSYSTEM_EFI_APPLICATION, ImageDosHeader,
    ImageNtHeaders64, ImageOptionalHeader64, ImageSectionHeader,
};
use object::read::pe::ImageNtHeaders;

/// The headers of every program that is read here end within so many bytes.
pub const HEAD_MAX: usize = 64 << 10;
/// Offset of `CheckSum` in the optional header.
const CHECKSUM: usize = 64;

/// What the headers say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Where the NT headers stand.
    pub nt: usize,
    /// Where the table of sections ends.
    pub table_end: usize,
    /// All headers, padding included.
    pub size: usize,
    /// Sections' content in the file starts at a multiple of this.
    pub file_alignment: u32,
    /// The sections, in the order of the file.
    pub sections: Vec<Section>,
    /// The checksum that the file claims.
    pub checksum: u32,
    /// The signatures' place in the file, behind all sections; empty if there are none.
    pub certificates: Range<u64>,
}

/// A section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Its name.
    pub name: String,
    /// Address in memory, from the image's start.
    pub address: u32,
    /// Bytes that count.
    pub size: u32,
    /// Where its content stands in the file.
    pub offset: u32,
    /// Bytes in the file, padding included.
    pub raw_size: u32,
}

impl Section {
    /// Its content in the file, without padding.
    pub fn content(&self) -> Range<u64> {
        let start = u64::from(self.offset);
        start..start + u64::from(self.size.min(self.raw_size))
    }
}

impl Headers {
    /// Reads the headers of a file with `length` bytes that starts with `head`: all of it, or [`HEAD_MAX`] bytes.
    ///
    /// # Errors
    /// The end of a sentence, if it is no such program or firmware would stumble over it.
    pub fn parse(head: &[u8], length: u64) -> Result<Self, String> {
        let foreign = |_| "is no UEFI program: it has no PE headers".to_owned();
        let dos = ImageDosHeader::parse(head).map_err(foreign)?;
        let mut offset = u64::from(dos.nt_headers_offset());
        let nt = usize::try_from(offset).unwrap_or(usize::MAX);
        let (headers, directories) =
            ImageNtHeaders64::parse(head, &mut offset).map_err(|_| "is no 64-bit UEFI program".to_owned())?;
        let (file, optional) = (&headers.file_header, &headers.optional_header);
        if file.machine.get(LE) != IMAGE_FILE_MACHINE_AMD64 {
            return Err("is no program for x86-64".to_owned());
        }
        if optional.subsystem.get(LE) != IMAGE_SUBSYSTEM_EFI_APPLICATION {
            return Err("is no UEFI application".to_owned());
        }
        let table = headers.sections(head, offset).map_err(|_| "is truncated in its table of sections".to_owned())?;
        let table_end = usize::try_from(offset).unwrap_or(usize::MAX) + table.len() * size_of::<ImageSectionHeader>();
        let sections = table.iter().map(section).collect::<Result<Vec<_>, _>>()?;
        let certificates = directories
            .get(IMAGE_DIRECTORY_ENTRY_SECURITY)
            .map(|entry| (u64::from(entry.virtual_address.get(LE)), u64::from(entry.size.get(LE))))
            .map_or(0..0, |(start, size)| start..start + size);
        let found = Self {
            nt,
            table_end,
            size: optional.size_of_headers.get(LE) as usize,
            file_alignment: optional.file_alignment.get(LE),
            sections,
            checksum: optional.check_sum.get(LE),
            certificates,
        };
        found.check(optional.size_of_image.get(LE), length)?;
        Ok(found)
    }

    /// Where the sections end in the file.
    pub fn file_end(&self) -> u64 {
        let ends = self.sections.iter().map(|section| u64::from(section.offset) + u64::from(section.raw_size));
        ends.max().unwrap_or(0).max(self.size as u64)
    }

    /// Where they end in memory.
    pub fn memory_end(&self) -> u64 {
        let ends = self.sections.iter().map(|section| u64::from(section.address) + u64::from(section.size));
        ends.max().unwrap_or(0).max(self.size as u64)
    }

    /// A section by its name.
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// Where the checksum stands in the file.
    pub fn checksum_offset(&self) -> usize {
        self.nt + size_of::<ImageNtHeaders64>() - size_of::<ImageOptionalHeader64>() + CHECKSUM
    }

    fn check(&self, image_size: u32, length: u64) -> Result<(), String> {
        if !self.file_alignment.is_power_of_two() || self.table_end > self.size {
            return Err("has PE headers that contradict each other".to_owned());
        }
        let (mut file, mut memory) = (self.size as u64, self.size as u64);
        for section in &self.sections {
            let Section { name, address, size, offset, raw_size } = section;
            if *raw_size > 0 {
                if u64::from(*offset) < file || !offset.is_multiple_of(self.file_alignment) {
                    return Err(format!("has a section {name} that overlaps another in the file"));
                }
                file = u64::from(*offset) + u64::from(*raw_size);
            }
            if u64::from(*address) < memory {
                return Err(format!("has a section {name} that overlaps another in memory"));
            }
            memory = u64::from(*address) + u64::from(*size);
            if file > length {
                return Err(format!("is truncated: section {name} ends at byte {file}, and the file has {length}"));
            }
        }
        if memory > u64::from(image_size) {
            return Err("has sections behind the end of its image in memory".to_owned());
        }
        let Range { start, end } = self.certificates;
        if start != end && (start < file || end > length) {
            return Err(format!("is truncated: its signatures end at byte {end}, and the file has {length}"));
        }
        Ok(())
    }
}

fn section(header: &ImageSectionHeader) -> Result<Section, String> {
    let name = header.raw_name();
    let name = std::str::from_utf8(name).map_err(|_| "has a section whose name is no text".to_owned())?;
    Ok(Section {
        name: name.to_owned(),
        address: header.virtual_address.get(LE),
        size: header.virtual_size.get(LE),
        offset: header.pointer_to_raw_data.get(LE),
        raw_size: header.size_of_raw_data.get(LE),
    })
}

/// The checksum of a PE file, as `CheckSumMappedFile` of Windows' imagehlp counts it: all 16-bit words, with the field
/// itself as zero, the carries added again, and then the length.
#[derive(Clone, Debug, Default)]
pub struct Checksum {
    sum: u64,
    length: u64,
}

impl Checksum {
    /// Takes in the next bytes, the four bytes of the field at `field` left out.
    pub fn push(&mut self, bytes: &[u8], field: usize) {
        let field = field as u64..field as u64 + 4;
        for byte in bytes {
            if !field.contains(&self.length) {
                self.sum += u64::from(*byte) << (8 * (self.length % 2));
            }
            self.length += 1;
        }
    }

    /// The checksum.
    pub fn finish(&self) -> u32 {
        let mut sum = self.sum;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        // Longer files have no PE headers that say so.
        (sum + self.length) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::efi::testing::program;
    use proptest::prelude::*;

    fn parse(bytes: &[u8]) -> Result<Headers, String> {
        Headers::parse(bytes, bytes.len() as u64)
    }

    #[test]
    fn reads_sections_and_checksum() {
        let bytes = program(&[(".text", b"code"), (".data", &[7; 600])]);
        let headers = parse(&bytes).unwrap();
        let [text, data] = &headers.sections[..] else { panic!("{headers:?}") };
        assert_eq!((text.name.as_str(), text.size, text.raw_size), (".text", 4, 512));
        assert_eq!(&bytes[data.offset as usize..][..data.size as usize], [7; 600]);
        assert_eq!(headers.file_end(), bytes.len() as u64);
        let mut sum = Checksum::default();
        sum.push(&bytes, headers.checksum_offset());
        assert_eq!(sum.finish(), headers.checksum);
    }

    #[test]
    fn a_checksum_does_not_depend_on_pieces() {
        let bytes: Vec<u8> = (0..=255).cycle().take(1001).collect();
        let (mut whole, mut pieces) = (Checksum::default(), Checksum::default());
        whole.push(&bytes, 88);
        for piece in bytes.chunks(7) {
            pieces.push(piece, 88);
        }
        assert_eq!(whole.finish(), pieces.finish());
    }

    #[test]
    fn a_cut_file_is_refused_wherever_it_is_cut() {
        let bytes = program(&[(".text", b"code"), (".data", &[7; 600])]);
        for length in 0..bytes.len() {
            assert!(parse(&bytes[..length]).is_err(), "{length} of {} bytes", bytes.len());
        }
    }

    #[test]
    fn other_files_are_refused_with_a_reason() {
        assert_eq!(parse(b"\x7fELF").unwrap_err(), "is no UEFI program: it has no PE headers");
        let mut other = program(&[(".text", b"code")]);
        let nt = parse(&other).unwrap().nt;
        other[nt + 4] ^= 1;
        assert_eq!(parse(&other).unwrap_err(), "is no program for x86-64");
    }

    proptest! {
        #[test]
        fn damaged_headers_do_no_harm(at in 0usize..1024, to in any::<[u8; 4]>()) {
            let mut bytes = program(&[(".text", b"code"), (".data", &[7; 600])]);
            bytes[at..at + 4].copy_from_slice(&to);
            if let Ok(headers) = parse(&bytes) {
                prop_assert!(headers.sections.iter().all(|section| section.content().end <= bytes.len() as u64));
                prop_assert!(headers.certificates.end <= bytes.len() as u64 || headers.certificates.is_empty());
            }
        }

        #[test]
        fn anything_at_all_does_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse(&bytes);
        }
    }
}
