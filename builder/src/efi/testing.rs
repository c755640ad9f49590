//! A small UEFI program for tests, written byte by byte so that reader and writer are not measured by themselves.

use super::pe::{Checksum, Headers};

/// Where the NT headers stand.
const NT: usize = 0x80;
/// All headers; sections' content is aligned to this too.
const HEAD: usize = 0x200;

/// A program with these sections, which must be few: each header takes 40 bytes.
pub fn program(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let head = (NT + 24 + 240 + 40 * (sections.len() + 3)).next_multiple_of(HEAD);
    let mut bytes = vec![0; head];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, b"MZ");
    put(0x3c, &(NT as u32).to_le_bytes());
    put(NT, b"PE\0\0");
    put(NT + 4, &0x8664u16.to_le_bytes());
    put(NT + 6, &(sections.len() as u16).to_le_bytes());
    put(NT + 20, &240u16.to_le_bytes());
    put(NT + 22, &0x206u16.to_le_bytes());
    let optional = NT + 24;
    put(optional, &0x20bu16.to_le_bytes());
    put(optional + 32, &4096u32.to_le_bytes());
    put(optional + 36, &(HEAD as u32).to_le_bytes());
    put(optional + 60, &(head as u32).to_le_bytes());
    put(optional + 68, &10u16.to_le_bytes());
    put(optional + 108, &16u32.to_le_bytes());
    let (mut offset, mut address) = (head, 4096);
    for (index, (name, content)) in sections.iter().enumerate() {
        let raw = content.len().next_multiple_of(HEAD);
        let header = optional + 240 + 40 * index;
        put(header, name.as_bytes());
        for (at, value) in [(8, content.len()), (12, address), (16, raw), (20, offset)] {
            put(header + at, &(value as u32).to_le_bytes());
        }
        offset += raw;
        address += content.len().next_multiple_of(4096);
    }
    put(optional + 56, &(address as u32).to_le_bytes());
    for (_, content) in sections {
        bytes.extend(*content);
        bytes.resize(bytes.len().next_multiple_of(HEAD), 0);
    }
    let field = Headers::parse(&bytes, bytes.len() as u64).map(|headers| headers.checksum_offset()).unwrap();
    let mut sum = Checksum::default();
    sum.push(&bytes, field);
    bytes[field..field + 4].copy_from_slice(&sum.finish().to_le_bytes());
    bytes
}
