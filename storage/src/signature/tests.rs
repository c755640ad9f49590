use std::fs::{self, File};
use std::process::{Command, Stdio};

use super::*;
use crate::mark::{Place, bytes};
use proptest::prelude::*;

const SIZE: u64 = 3 << 20;

/// What is seen of a device with these bytes at these places.
fn seen(size: u64, pieces: &[(u64, &[u8])]) -> Found {
    let mut content = vec![0; size as usize];
    for (offset, bytes) in pieces {
        content[*offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    of(&content)
}

fn of(content: &[u8]) -> Found {
    let tail = &content[content.len().saturating_sub(SPAN)..];
    recognize(&content[..content.len().min(SPAN)], tail, content.len() as u64)
}

/// A superblock of version 1 for its place.
fn superblock(offset: u64, name: &str, role: u16) -> Vec<u8> {
    let mut block = vec![0; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &MD_MAGIC.to_le_bytes());
    put(4, &1_u32.to_le_bytes());
    put(16, &[7; 16]);
    put(32, name.as_bytes());
    put(72, &5_u32.to_le_bytes());
    put(92, &3_u32.to_le_bytes());
    put(144, &(offset / 512).to_le_bytes());
    put(160, &2_u32.to_le_bytes());
    put(200, &41_u64.to_le_bytes());
    put(256 + 4, &role.to_le_bytes());
    block
}

#[test]
fn a_superblock_tells_its_array_wherever_it_stands() {
    let end = md_end(SIZE).unwrap();
    for offset in [0, 4096, end] {
        let found = seen(SIZE, &[(offset, &superblock(offset, "other-host:data", 1))]);
        let md = found.md().unwrap();
        assert_eq!((md.name.as_str(), md.level, md.disks, md.role, md.events), ("data", 5, 3, Some(1), 41));
        assert!(!found.blank);
    }
    let spare = seen(SIZE, &[(4096, &superblock(4096, "data", 0xffff))]);
    assert_eq!(spare.md().unwrap().role, None);
    // One that was copied to another place is none, but the device is not blank.
    let copied = seen(SIZE, &[(8192, &superblock(4096, "data", 1)), (4096, &superblock(0, "data", 1))]);
    assert_eq!((copied.md(), copied.blank), (None, false));
}

#[test]
fn what_the_distributions_tools_write_is_known() {
    let directory = tempfile::tempdir().unwrap();
    let made = |program: &str, arguments: &[&str], size: u64| {
        let path = directory.path().join("disk");
        File::create(&path).unwrap().set_len(size).unwrap();
        let path_text = path.display().to_string();
        let mut command = Command::new(program);
        command.args(arguments).arg(&path_text).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        assert!(command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").status().unwrap().success(), "{program}");
        of(&fs::read(path).unwrap())
    };
    let filesystem = Signature::Filesystem;
    assert_eq!(made("mke2fs", &["-q", "-t", "ext4"], 16 << 20).signatures, [filesystem(FilesystemKind::Ext4)]);
    assert_eq!(made("mkfs.xfs", &["-q"], 512 << 20).signatures, [filesystem(FilesystemKind::Xfs)]);
    assert_eq!(made("mkswap", &[], SIZE).signatures, [Signature::Swap]);
    assert_eq!(made("mkfs.fat", &[], SIZE).signatures, [Signature::Other("a FAT file system")]);
    let key = directory.path().join("key");
    fs::write(&key, [7; 64]).unwrap();
    let (key, fresh) = (format!("--key-file={}", key.display()), format!("--label={LUKS_FRESH}"));
    let words = ["luksFormat", "-q", "--type=luks2", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", &key];
    let container = |fresh: bool| [Signature::Luks { fresh }];
    assert_eq!(made("cryptsetup", &[&words[..], &[&fresh]].concat(), 32 << 20).signatures, container(true));
    assert_eq!(made("cryptsetup", &words, 32 << 20).signatures, container(false));
    let words = ["luksFormat", "-q", "--type=luks1", "--pbkdf-force-iterations=1000", &key];
    assert_eq!(made("cryptsetup", &words, 32 << 20).signatures, container(false));
}

#[test]
fn signatures_at_fixed_places() {
    for (offset, magic, name) in [
        (0, &b"LUKS\xba\xbe\0\x02"[..], "a LUKS container"),
        (16384, b"SKUL\xba\xbe\0\x02", "a LUKS container without its first header"),
        (0x10040, b"_BHRfS_M", "a Btrfs file system"),
        (32769, b"CD001", "an ISO 9660 file system"),
        (SIZE - 512, &[0xde, 0x11, 0xde, 0x11], "a member of a RAID controller's array (DDF)"),
        (SIZE - 1024, b"Intel Raid ISM Cfg Sig. 1.2", "a member of an Intel firmware's array"),
        (SIZE - (64 << 10), &[0xfc, 0x4e, 0x2b, 0xa9], "a member of an array of version 0.90"),
        (510, &[0x55, 0xaa], "an MBR or another boot sector"),
        (SIZE - 512, b"EFI PART", "a GUID partition table"),
    ] {
        assert_eq!(seen(SIZE, &[(offset, magic)]).describe(), name);
    }
    assert_eq!(seen(SIZE, &[(77, b"x")]).describe(), "data that nothing here knows");
    assert_eq!(seen(SIZE, &[]), Found::nothing());
}

#[test]
fn our_mark_is_seen_at_each_of_its_places() {
    for place in [Place::First, Place::Table, Place::Last] {
        assert!(seen(SIZE, &[(place.offset(SIZE), &bytes())]).unfinished());
    }
    assert!(!seen(SIZE, &[(4096, &bytes())]).unfinished());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is on a foreign disk: no panic, and never taken for blank.
    #[test]
    fn any_bytes_are_safe(
        pieces in proptest::collection::vec((0..SIZE - 4096, proptest::collection::vec(any::<u8>(), 1..4096)), 0..4),
        cut in 0_usize..3 << 20,
    ) {
        let pieces: Vec<(u64, &[u8])> = pieces.iter().map(|(offset, bytes)| (*offset, &bytes[..])).collect();
        let found = seen(SIZE, &pieces);
        prop_assert!(!found.blank || found.signatures.is_empty());
        let mut small = vec![0; cut];
        if let Some((_, bytes)) = pieces.first() {
            let length = bytes.len().min(cut);
            small[..length].copy_from_slice(&bytes[..length]);
        }
        of(&small);
    }

    #[test]
    fn one_byte_is_something(offset in 0..2 * SPAN, byte in 1_u8..) {
        let offset = if offset < SPAN { offset as u64 } else { SIZE - (offset - SPAN) as u64 - 1 };
        prop_assert!(!seen(SIZE, &[(offset, &[byte])]).blank);
    }

    #[test]
    fn a_superblock_of_anything_is_safe(mut block in proptest::collection::vec(any::<u8>(), 512), offset in prop::sample::select(vec![0_u64, 4096])) {
        block[..4].copy_from_slice(&MD_MAGIC.to_le_bytes());
        block[4..8].copy_from_slice(&1_u32.to_le_bytes());
        block[144..152].copy_from_slice(&(offset / 512).to_le_bytes());
        let found = seen(2 << 20, &[(offset, &block)]);
        prop_assert!(found.md().is_some_and(|md| !md.name.contains('\n')));
    }
}
