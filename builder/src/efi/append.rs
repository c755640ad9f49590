//! Sections appended to a UEFI program: how a kernel and its initramfs get into a systemd stub (the UAPI group's "Unified
//! Kernel Image"). The program's own content stays as it is; its headers learn of the new sections.

use object::LittleEndian as LE;
use object::pe::{
    IMAGE_SCN_CNT_INITIALIZED_DATA, IMAGE_SCN_MEM_READ, IMAGE_SIZEOF_SHORT_NAME, ImageNtHeaders64, ImageSectionHeader,
};
use object::pod::{bytes_of, from_bytes_mut};
use object::{U16, U32};

use super::pe::Headers;

/// New sections start at a page of their own, and so does the end of the image.
const PAGE: u64 = 4096;

/// A program with room for its new sections.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Everything before the first new section.
    pub head: Vec<u8>,
    /// Where the new sections' content goes in the file, in their order. What lies between is zero.
    pub offsets: Vec<u64>,
    /// Size of the whole file.
    pub size: u64,
}

/// Makes room for sections (name and size in bytes) behind those of `program`. Symbols that are no part of the loaded
/// image are left out. The checksum is left at zero: the content is not known here.
///
/// # Errors
/// The end of a sentence about the program, if it is none, is signed, or its headers have no room.
pub fn plan(program: &[u8], sections: &[(&str, u64)]) -> Result<Plan, String> {
    let headers = Headers::parse(program, program.len() as u64)?;
    if !headers.certificates.is_empty() {
        return Err("is signed, and would no longer be what was signed".to_owned());
    }
    let new = sections.len() * size_of::<ImageSectionHeader>();
    let room = program.get(headers.table_end..headers.size.max(headers.table_end)).unwrap_or_default();
    let Some(room) = room.get(..new).filter(|room| room.iter().all(|byte| *byte == 0)) else {
        return Err(format!("has no room for the headers of {} more sections", sections.len()));
    };
    debug_assert_eq!(room.len(), new);

    let alignment = u64::from(headers.file_alignment);
    let end = usize::try_from(headers.file_end()).unwrap_or(usize::MAX).min(program.len());
    let mut head = program[..end].to_vec();
    let mut offset = (end as u64).next_multiple_of(alignment);
    head.resize(offset as usize, 0);

    let mut address = headers.memory_end().next_multiple_of(PAGE);
    let (mut table, mut offsets, mut data) = (Vec::new(), Vec::new(), 0);
    for (name, size) in sections {
        let raw_size = size.next_multiple_of(alignment);
        table.push(header(name, address, *size, offset, raw_size)?);
        offsets.push(offset);
        offset += raw_size;
        data += raw_size;
        address = (address + size).next_multiple_of(PAGE);
    }
    for (place, header) in head[headers.table_end..].chunks_exact_mut(size_of::<ImageSectionHeader>()).zip(&table) {
        place.copy_from_slice(bytes_of(header));
    }

    let broken = |()| "has PE headers that contradict each other".to_owned();
    let (nt, _) = from_bytes_mut::<ImageNtHeaders64>(&mut head[headers.nt..]).map_err(broken)?;
    let (file, optional) = (&mut nt.file_header, &mut nt.optional_header);
    let count = headers.sections.len() + sections.len();
    file.number_of_sections = U16::new(LE, u16::try_from(count).map_err(|_| broken(()))?);
    file.pointer_to_symbol_table = U32::new(LE, 0);
    file.number_of_symbols = U32::new(LE, 0);
    let data = u64::from(optional.size_of_initialized_data.get(LE)) + data;
    optional.size_of_initialized_data = U32::new(LE, small(data)?);
    optional.size_of_image = U32::new(LE, small(address)?);
    optional.check_sum = U32::new(LE, 0);
    small(offset)?;
    Ok(Plan { head, offsets, size: offset })
}

fn header(name: &str, address: u64, size: u64, offset: u64, raw_size: u64) -> Result<ImageSectionHeader, String> {
    let mut short = [0; IMAGE_SIZEOF_SHORT_NAME];
    let place = short.get_mut(..name.len()).ok_or_else(|| format!("cannot have a section {name}: its name is long"))?;
    place.copy_from_slice(name.as_bytes());
    let none = U32::new(LE, 0);
    Ok(ImageSectionHeader {
        name: short,
        virtual_size: U32::new(LE, small(size)?),
        virtual_address: U32::new(LE, small(address)?),
        size_of_raw_data: U32::new(LE, small(raw_size)?),
        pointer_to_raw_data: U32::new(LE, small(offset)?),
        pointer_to_relocations: none,
        pointer_to_linenumbers: none,
        number_of_relocations: U16::new(LE, 0),
        number_of_linenumbers: U16::new(LE, 0),
        characteristics: U32::new(LE, IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ),
    })
}

/// PE knows 32 bits.
fn small(value: u64) -> Result<u32, String> {
    u32::try_from(value).map_err(|_| "would have 4 GiB or more, which no UEFI program can have".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::efi::testing::program;
    use proptest::prelude::*;

    /// The planned file with its content.
    fn written(plan: &Plan, contents: &[&[u8]]) -> Vec<u8> {
        let mut bytes = plan.head.clone();
        bytes.resize(plan.size as usize, 0);
        for (offset, content) in plan.offsets.iter().zip(contents) {
            bytes[*offset as usize..][..content.len()].copy_from_slice(content);
        }
        bytes
    }

    #[test]
    fn symbols_behind_the_sections_are_left_out() {
        let mut stub = program(&[(".text", b"code")]);
        let end = stub.len();
        stub.extend(b"symbols and their names");
        let plan = plan(&stub, &[(".osrel", 3)]).unwrap();
        assert_eq!(plan.offsets, [end as u64]);
        let headers = Headers::parse(&written(&plan, &[b"abc"]), plan.size).unwrap();
        assert_eq!(headers.section(".osrel").unwrap().size, 3);
        assert_eq!(headers.section(".text").unwrap().size, 4);
    }

    #[test]
    fn what_cannot_be_is_told() {
        let stub = program(&[(".text", b"code")]);
        let told = |sections: &[(&str, u64)]| plan(&stub, sections).unwrap_err();
        assert!(told(&[(".too-long-a-name", 1)]).contains("its name is long"));
        assert!(told(&[(".initrd", 1 << 32)]).contains("4 GiB or more"));
        assert!(told(&[(".a", 1 << 31), (".b", 1 << 31)]).contains("4 GiB or more"));
        assert!(told(&[(".x", 1); 30]).contains("no room for the headers of 30 more sections"));
        assert!(plan(b"MZ", &[]).unwrap_err().contains("no UEFI program"));
        let mut signed = stub.clone();
        let headers = Headers::parse(&stub, stub.len() as u64).unwrap();
        let entry = headers.nt + size_of::<ImageNtHeaders64>() + 4 * 8;
        signed[entry..entry + 4].copy_from_slice(&(stub.len() as u32).to_le_bytes());
        signed[entry + 4..entry + 8].copy_from_slice(&8u32.to_le_bytes());
        signed.extend([0; 8]);
        assert!(plan(&signed, &[]).unwrap_err().contains("is signed"));
    }

    proptest! {
        #[test]
        fn what_is_appended_is_found_again(contents in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 1..3000), 1..5)) {
            let names = [".a", ".b", ".c", ".d"];
            let sections: Vec<(&str, u64)> = names.iter().zip(&contents).map(|(n, c)| (*n, c.len() as u64)).collect();
            let stub = program(&[(".text", b"code"), (".data", &[7; 600])]);
            let plan = plan(&stub, &sections).unwrap();
            let bytes = written(&plan, &contents.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let headers = Headers::parse(&bytes, bytes.len() as u64).unwrap();
            prop_assert_eq!(headers.sections.len(), 2 + contents.len());
            for (name, content) in names.iter().zip(&contents) {
                let range = headers.section(name).unwrap().content();
                prop_assert_eq!(&bytes[range.start as usize..range.end as usize], &content[..]);
            }
            let text = headers.section(".text").unwrap().content();
            prop_assert_eq!(&bytes[text.start as usize..text.end as usize], b"code");
        }
    }
}
