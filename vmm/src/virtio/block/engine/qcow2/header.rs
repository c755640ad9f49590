//! The header of a qcow2 image, before anybody acts on it (QEMU `docs/interop/qcow2.txt`).

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::ops::{Range, RangeInclusive};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;

use crate::virtio::block::disk::measure;

/// `QFI\xfb`
const MAGIC: u32 = 0x5146_49fb;
/// Bytes of a header of version 3 without extensions.
const BYTES: usize = 104;
/// Bytes of a header of version 2.
const BYTES_V2: usize = 72;
/// The last of the header's extensions.
const EXTENSION_END: u32 = 0;
/// The extension that says what the backing file holds.
const EXTENSION_FORMAT: u32 = 0xe279_2aca;
/// Cluster sizes: 512 bytes to 2 MiB.
const CLUSTER_BITS: RangeInclusive<u32> = 9..=21;
/// Longest name of a backing file.
const NAME_MAX: u32 = 1023;
/// Largest active L1 table, in bytes, as QEMU's.
const L1_MAX: u64 = 32 << 20;
/// Largest refcount table, in bytes, as QEMU's.
const REFCOUNTS_MAX: u64 = 8 << 20;
/// Largest disk: an offset of it fits a signed 64-bit number with room.
const DISK_MAX: u64 = 1 << 60;
/// Bits of `refcount_order`: refcounts are 64 bits at most.
const REFCOUNT_ORDER_MAX: u32 = 6;

/// Incompatible features that can be dealt with: dirty, compression type, extended L2 entries.
const KNOWN: u64 = 1 | 1 << 3 | 1 << 4;
/// The image was found to be corrupt.
const CORRUPT: u64 = 1 << 1;
/// The disk's bytes are in another file.
const DATA_FILE: u64 = 1 << 2;

/// A file below an image, as the image names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    /// Its name, relative to the image.
    pub name: OsString,
    /// What it holds, if that is said.
    pub format: Option<Vec<u8>>,
}

/// Looks at the header of `file`; says which file it names.
///
/// # Errors
/// One sentence: what is wrong with it.
pub fn check(file: &File) -> io::Result<Option<Backing>> {
    let invalid = |sentence| io::Error::new(io::ErrorKind::InvalidData, sentence);
    let shape = examine(&read(file, BYTES)?, measure(file)?).map_err(invalid)?;
    match shape.name {
        Some(name) => named(&read(file, shape.cluster)?, &name, shape.extensions).map(Some).map_err(invalid),
        None => Ok(None),
    }
}

/// The first `count` bytes, or all if there are fewer.
fn read(file: &File, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    let mut done = 0;
    while done < count {
        match file.read_at(&mut bytes[done..], done as u64)? {
            0 => break,
            more => done += more,
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

/// Where things are in the first cluster.
#[derive(Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of a cluster.
    pub cluster: usize,
    /// Where the backing file's name is, if there is one.
    pub name: Option<Range<usize>>,
    /// Where the header's extensions begin.
    pub extensions: usize,
}

fn big_endian(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_be_bytes(*four))
}

/// What the header says in its `bytes`, of an image of `length` bytes.
///
/// # Errors
/// One sentence.
pub fn examine(bytes: &[u8], length: u64) -> Result<Shape, String> {
    let word = |at: usize| big_endian(bytes, at);
    let long = |at: usize| Some(u64::from(word(at)?) << 32 | u64::from(word(at + 4)?));
    let short = || "it is too short for a qcow2 image".to_owned();
    let word_at = |at| word(at).ok_or_else(short);
    let long_at = |at| long(at).ok_or_else(short);

    if word_at(0)? != MAGIC {
        return Err("it is not a qcow2 image: is it a raw one?".to_owned());
    }
    let version = word_at(4)?;
    let cluster_bits = word_at(20)?;
    if !(2..=3).contains(&version) {
        return Err(format!("it is a qcow2 image of version {version}: 2 and 3 are known"));
    }
    if !CLUSTER_BITS.contains(&cluster_bits) {
        return Err(format!("its clusters have 2^{cluster_bits} bytes: a qcow2 image has 2^9 to 2^21"));
    }
    let cluster = 1u64 << cluster_bits;
    let (name_at, name_length) = (long_at(8)?, word_at(16)?);
    if name_at != 0 && (name_length > NAME_MAX || name_at.saturating_add(name_length.into()) > cluster) {
        return Err("the name of its backing file is not in its first cluster".to_owned());
    }
    if long_at(24)? > DISK_MAX {
        return Err("its disk is larger than any".to_owned());
    }
    if word_at(32)? != 0 {
        return Err("it is encrypted: decrypt it first (qemu-img convert)".to_owned());
    }
    let table = |name: &str, at: u64, size: u64, most: u64| match at.checked_add(size) {
        _ if size > most => Err(format!("its {name} is larger than any")),
        Some(end) if at.is_multiple_of(cluster) && (size == 0 || end <= length.saturating_add(cluster)) => Ok(()),
        _ => Err(format!("its {name} is not in the file")),
    };
    table("L1 table", long_at(40)?, u64::from(word_at(36)?) * 8, L1_MAX)?;
    table("refcount table", long_at(48)?, u64::from(word_at(56)?) * cluster, REFCOUNTS_MAX)?;
    let mut extensions = BYTES_V2;
    if version == 3 {
        let features = long_at(72)?;
        if features & CORRUPT != 0 {
            return Err("it is marked as corrupt: repair it first (qemu-img check -r all)".to_owned());
        }
        if features & DATA_FILE != 0 {
            return Err("its data are in another file: give it an image that is whole".to_owned());
        }
        if features & !KNOWN != 0 {
            return Err(format!("it has features that are not known ({:#x})", features & !KNOWN));
        }
        if word_at(96)? > REFCOUNT_ORDER_MAX {
            return Err("its refcounts are larger than any".to_owned());
        }
        let header = u64::from(word_at(100)?);
        if header < BYTES as u64 || header > cluster {
            return Err("its header has an impossible length".to_owned());
        }
        extensions = header as usize;
    }
    let name = (name_at != 0).then(|| name_at as usize..name_at as usize + name_length as usize);
    Ok(Shape { cluster: cluster as usize, name, extensions })
}

/// The backing file that the first `cluster` names.
///
/// # Errors
/// One sentence.
pub fn named(cluster: &[u8], name: &Range<usize>, extensions: usize) -> Result<Backing, String> {
    let name = cluster.get(name.clone()).ok_or("the name of its backing file is not in the file")?;
    let mut rest = cluster.get(extensions..).unwrap_or_default();
    let mut format = None;
    // Each has a type and a length, and fills multiples of eight bytes.
    while let (Some(kind), Some(length)) = (big_endian(rest, 0), big_endian(rest, 4))
        && kind != EXTENSION_END
    {
        let length = length as usize;
        let content = rest.get(8..8 + length).ok_or("its header's extensions are not in its first cluster")?;
        if kind == EXTENSION_FORMAT {
            format = Some(content.to_vec());
        }
        rest = rest.get(8 + length.next_multiple_of(8)..).unwrap_or_default();
    }
    Ok(Backing { name: OsString::from_vec(name.to_vec()), format })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> Vec<u8> {
        let mut bytes = vec![0; BYTES];
        for (at, value) in
            [(0, MAGIC), (4, 3), (20, 16), (36, 1), (44, 0x3_0000), (52, 0x1_0000), (56, 1), (96, 4), (100, 104)]
        {
            bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
        }
        bytes[24..32].copy_from_slice(&(1u64 << 20).to_be_bytes());
        bytes
    }

    fn verdict(at: usize, value: u32) -> Result<Shape, String> {
        let mut bytes = header();
        bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
        examine(&bytes, 0x4_0000)
    }

    #[test]
    fn a_sane_header_passes_and_each_insane_one_has_its_sentence() {
        assert_eq!(examine(&header(), 0x4_0000), Ok(Shape { cluster: 0x1_0000, name: None, extensions: 104 }));
        for (at, value, words) in [
            (0, 7, "not a qcow2 image"),
            (4, 4, "version 4"),
            (20, 8, "2^8"),
            (20, 40, "2^40"),
            (12, 0xffff_0000, "first cluster"),
            (32, 1, "encrypted"),
            (36, u32::MAX, "L1 table is larger"),
            (44, 0x7fff_0000, "L1 table is not in the file"),
            (44, 0x3_0001, "L1 table is not in the file"),
            (56, 0xffff, "refcount table is larger"),
            (76, 2, "corrupt"),
            (76, 4, "another file"),
            (76, 0x20, "not known (0x20)"),
            (96, 7, "refcounts"),
            (100, 8, "impossible length"),
            (24, u32::MAX, "larger than any"),
        ] {
            let sentence = verdict(at, value).unwrap_err();
            assert!(sentence.contains(words), "{at}: {sentence}");
        }
        assert!(examine(&header()[..50], 0x4_0000).unwrap_err().contains("too short"));
    }

    #[test]
    fn a_backing_file_is_named_with_its_format() {
        let name = 200..204;
        let mut cluster = vec![0; 300];
        cluster[name.clone()].copy_from_slice(b"base");
        let backing = |format: Option<&[u8]>| Backing { name: "base".into(), format: format.map(<[u8]>::to_vec) };
        assert_eq!(named(&cluster, &name, 104), Ok(backing(None)));
        // An extension that nobody knows, of 5 bytes and 3 to fill up, then the format.
        for (at, word) in [(104, 7), (108, 5), (120, EXTENSION_FORMAT), (124, 3)] {
            cluster[at..at + 4].copy_from_slice(&u32::to_be_bytes(word));
        }
        cluster[128..131].copy_from_slice(b"raw");
        assert_eq!(named(&cluster, &name, 104), Ok(backing(Some(b"raw"))));
        cluster[108] = 0xff;
        assert!(named(&cluster, &name, 104).unwrap_err().contains("extensions"));
        assert!(named(&cluster, &(200..400), 104).unwrap_err().contains("name"));
        assert_eq!(named(&cluster, &name, 1 << 20), Ok(backing(None)));
    }

    proptest! {
        #[test]
        fn no_header_is_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..120), mut sane in Just(header()), at in 0usize..100, value: u32) {
            let _ = examine(&bytes, 1 << 20);
            let _ = named(&bytes, &(at..at + 10), at);
            sane[at..at + 4].copy_from_slice(&value.to_be_bytes());
            let _ = examine(&sane, u64::MAX);
        }
    }
}
