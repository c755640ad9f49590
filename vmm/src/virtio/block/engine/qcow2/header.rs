//! The header of a qcow2 image, before anybody acts on it (QEMU `docs/interop/qcow2.txt`).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// `QFI\xfb`
const MAGIC: u32 = 0x5146_49fb;
/// Bytes of a header of version 3 without extensions.
const BYTES: usize = 104;
/// Cluster sizes: 512 bytes to 2 MiB.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
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

/// Looks at the header of `file`. `backing`: it may name another file.
///
/// # Errors
/// One sentence: what is wrong with it.
pub fn check(file: &File, backing: bool) -> io::Result<()> {
    let mut bytes = [0; BYTES];
    let mut read = 0;
    while read < BYTES {
        match file.read_at(&mut bytes[read..], read as u64)? {
            0 => break,
            count => read += count,
        }
    }
    examine(&bytes[..read], file.metadata()?.len(), backing)
        .map_err(|sentence| io::Error::new(io::ErrorKind::InvalidData, sentence))
}

/// The same for the header's bytes, of an image of `length` bytes.
///
/// # Errors
/// One sentence.
pub fn examine(bytes: &[u8], length: u64, backing: bool) -> Result<(), String> {
    let word =
        |at: usize| bytes.get(at..at + 4).map(|four| four.iter().fold(0u32, |sum, byte| sum << 8 | u32::from(*byte)));
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
    if name_at != 0 && !backing {
        return Err("it names a backing file: allow it one (`backing`), or give it an image that is whole".to_owned());
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
    }
    Ok(())
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

    fn verdict(at: usize, value: u32, backing: bool) -> Result<(), String> {
        let mut bytes = header();
        bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
        examine(&bytes, 0x4_0000, backing)
    }

    #[test]
    fn a_sane_header_passes_and_each_insane_one_has_its_sentence() {
        assert_eq!(examine(&header(), 0x4_0000, false), Ok(()));
        for (at, value, words) in [
            (0, 7, "not a qcow2 image"),
            (4, 4, "version 4"),
            (20, 8, "2^8"),
            (20, 40, "2^40"),
            (12, 0x100, "names a backing file"),
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
            let sentence = verdict(at, value, false).unwrap_err();
            assert!(sentence.contains(words), "{at}: {sentence}");
        }
        assert_eq!(verdict(12, 0x100, true), Ok(()));
        assert!(verdict(12, 0xffff_0000, true).unwrap_err().contains("first cluster"));
        assert!(examine(&header()[..50], 0x4_0000, false).unwrap_err().contains("too short"));
    }

    proptest! {
        #[test]
        fn no_header_is_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..120), mut sane in Just(header()), at in 0usize..100, value: u32) {
            let _ = examine(&bytes, 1 << 20, true);
            sane[at..at + 4].copy_from_slice(&value.to_be_bytes());
            let _ = examine(&sane, u64::MAX, true);
        }
    }
}
