//! What is on a block device, told by its first and its last MiB.
//!
//! The list of signatures is what people are told by; what protects a device is the rule below it: **any byte that is not
//! zero means that something is there**, known or not.

use std::fmt;

use thimble_spec::appliance::FilesystemKind;

use crate::mark;

/// The label of a LUKS container in which nothing is yet, for what it shows as its content was not cleared.
pub const LUKS_FRESH: &str = "thimble-new";
/// How much of a device's beginning and of its end is looked at.
pub const SPAN: usize = 1 << 20;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Whether all that was looked at is zero.
    pub blank: bool,
    /// All signatures, those that enclose others first.
    pub signatures: Vec<Signature>,
}

/// A signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signature {
    /// Ours: something was being made here.
    Unfinished,
    /// A member of an array, with a superblock of version 1.
    Md(Md),
    /// A LUKS container.
    Luks {
        /// What is in it was not cleared yet: see [`LUKS_FRESH`].
        fresh: bool,
    },
    /// A physical volume of LVM.
    Lvm,
    /// A file system that may be declared.
    Filesystem(FilesystemKind),
    /// Swap.
    Swap,
    /// A GUID partition table.
    Gpt,
    /// Anything else that has a name.
    Other(&'static str),
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unfinished => f.write_str("something unfinished of Thimble's"),
            Self::Md(md) => write!(f, "a member of the array {}", md.name),
            Self::Luks { .. } => f.write_str("a LUKS container"),
            Self::Lvm => f.write_str("a physical volume of LVM"),
            Self::Filesystem(kind) => write!(
                f,
                "{} file system",
                if *kind == FilesystemKind::Ext4 { "an ext2, ext3 or ext4" } else { "an XFS" }
            ),
            Self::Swap => f.write_str("swap"),
            Self::Gpt => f.write_str("a GUID partition table"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

impl Found {
    /// What a blank device has.
    pub fn nothing() -> Self {
        Self { blank: true, signatures: Vec::new() }
    }

    /// Whether there is this.
    pub fn has(&self, signature: &Signature) -> bool {
        self.signatures.contains(signature)
    }

    /// The array that it belongs to.
    pub fn md(&self) -> Option<&Md> {
        self.signatures.iter().find_map(|signature| match signature {
            Signature::Md(md) => Some(md),
            _ => None,
        })
    }

    /// Whether Thimble had begun something here and not finished it.
    pub fn unfinished(&self) -> bool {
        self.has(&Signature::Unfinished) || self.has(&Signature::Luks { fresh: true })
    }

    /// What is there, for people.
    pub fn describe(&self) -> String {
        match (&self.signatures[..], self.blank) {
            ([], true) => "nothing".to_owned(),
            ([], false) => "data that nothing here knows".to_owned(),
            (signatures, _) => signatures.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and "),
        }
    }
}

/// What a superblock of version 1 says (`struct mdp_superblock_1`, linux/raid/md_p.h).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Md {
    /// The array's identity.
    pub uuid: [u8; 16],
    /// Its name, without the name of the machine that made it.
    pub name: String,
    /// RAID level; negative ones are not RAID.
    pub level: i32,
    /// Members that the array is to have.
    pub disks: u32,
    /// The member's place in it; none of a spare or a faulty one.
    pub role: Option<u16>,
    /// Counts the array's changes of state.
    pub events: u64,
}

/// Magic number of md (`MD_SB_MAGIC`).
const MD_MAGIC: u32 = 0xa92b_4efc;
/// The largest role of a member (`MD_DISK_ROLE_MAX`).
const MD_ROLE_MAX: u16 = 0xff00;

/// Tells what is on a device: `head` is its first MiB, `tail` its last, or less of a smaller device.
pub fn recognize(head: &[u8], tail: &[u8], size: u64) -> Found {
    let mut signatures = Vec::new();
    let marks = [mark::is_at(head, 0), mark::is_at(head, mark::TABLE as usize)];
    if marks.contains(&true) || tail.len().checked_sub(mark::SIZE).is_some_and(|last| mark::is_at(tail, last)) {
        signatures.push(Signature::Unfinished);
    }
    let md = [Some(4096), Some(0), md_end(size)].into_iter().flatten().find_map(|offset| {
        let content = part(head, tail, size, offset)?;
        parse_md(content, offset)
    });
    signatures.extend(md.map(Signature::Md));
    signatures.extend(luks(head));
    for (signature, found) in known(head, tail, size) {
        if found && !signatures.contains(&signature) {
            signatures.push(signature);
        }
    }
    let blank = head.iter().chain(tail).all(|byte| *byte == 0);
    Found { blank, signatures }
}

/// What can be seen of the device from `offset` on.
fn part<'a>(head: &'a [u8], tail: &'a [u8], size: u64, offset: u64) -> Option<&'a [u8]> {
    let in_head = usize::try_from(offset).ok().and_then(|offset| head.get(offset..)).filter(|rest| !rest.is_empty());
    in_head.or_else(|| {
        let start = size.checked_sub(tail.len() as u64)?;
        tail.get(usize::try_from(offset.checked_sub(start)?).ok()?..)
    })
}

/// The offset of a superblock of version 1.0: 8 KiB before the end or a bit more, in whole 4 KiB.
fn md_end(size: u64) -> Option<u64> {
    (size / 512).checked_sub(16).map(|sectors| (sectors & !7) * 512)
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..offset + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes.get(offset..offset + 8)?.try_into().ok().map(u64::from_le_bytes)
}

/// A superblock that stands where it says that it stands.
fn parse_md(bytes: &[u8], offset: u64) -> Option<Md> {
    if u32_at(bytes, 0)? != MD_MAGIC || u32_at(bytes, 4)? != 1 || u64_at(bytes, 144)? != offset / 512 {
        return None;
    }
    let name: Vec<u8> = bytes.get(32..64)?.iter().copied().take_while(|byte| *byte != 0).collect();
    let name = String::from_utf8_lossy(&name).into_owned();
    let name = name.split_once(':').map_or(name.clone(), |(_, name)| name.to_owned());
    let number = usize::try_from(u32_at(bytes, 160)?).ok()?;
    let at = number.checked_mul(2)?.checked_add(256)?;
    let role = bytes.get(at..at.checked_add(2)?).map(|role| u16::from_le_bytes([role[0], role[1]]));
    Some(Md {
        uuid: bytes.get(16..32)?.try_into().ok()?,
        name: name.chars().filter(|c| !c.is_control()).collect(),
        level: u32_at(bytes, 72)?.cast_signed(),
        disks: u32_at(bytes, 92)?,
        role: role.filter(|role| *role < MD_ROLE_MAX),
        events: u64_at(bytes, 200)?,
    })
}

/// The header of a LUKS container at its beginning, of either version (LUKS2 On-Disk Format Specification 1.1.3, 2.1: magic,
/// version, size and number of the header, then a label of 48 bytes).
fn luks(head: &[u8]) -> Option<Signature> {
    let version = u16::from_be_bytes(head.strip_prefix(b"LUKS\xba\xbe")?.get(..2)?.try_into().ok()?);
    let label = head.get(24..72).filter(|_| version == 2).and_then(|label| label.split(|byte| *byte == 0).next());
    Some(Signature::Luks { fresh: label == Some(LUKS_FRESH.as_bytes()) })
}

/// Signatures at fixed places. Sources: the kernel's headers, and the formats' own documents.
fn known(head: &[u8], tail: &[u8], size: u64) -> Vec<(Signature, bool)> {
    let at = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
    let from_end = |distance: u64, magic: &[u8]| {
        let content = size.checked_sub(distance).and_then(|offset| part(head, tail, size, offset));
        content.is_some_and(|content| content.starts_with(magic))
    };
    let other = Signature::Other;
    // LVM2: a label in one of the first four sectors.
    let lvm = (0..4).any(|sector| at(sector * 512, b"LABELONE") && at(sector * 512 + 24, b"LVM2 001"));
    let swap =
        [4096, 8192, 16384, 65536].iter().any(|page| at(page - 10, b"SWAPSPACE2") || at(page - 10, b"SWAP-SPACE"));
    let gpt = [512, 4096].iter().any(|sector| at(*sector, b"EFI PART"))
        || [512, 4096].iter().any(|sector| from_end(*sector, b"EFI PART"));
    // Copies of a header of version 2 stand at 16 KiB or, where headers are larger, behind.
    let luks_copy = !at(0, b"LUKS\xba\xbe") && (at(0, b"SKUL\xba\xbe") || at(16384, b"SKUL\xba\xbe"));
    let boot = at(510, &[0x55, 0xaa]);
    let fat = at(54, b"FAT") || at(82, b"FAT32");
    let ntfs = at(3, b"NTFS    ");
    let exfat = at(3, b"EXFAT   ");
    // The places of ZFS's uberblocks in its first label, for either byte order.
    let zfs = (128..256)
        .map(|kib| kib * 1024)
        .any(|offset| at(offset, &0x00ba_b10c_u64.to_le_bytes()) || at(offset, &0x00ba_b10c_u64.to_be_bytes()));
    let old_md = size.checked_sub(64 << 10).map(|end| size - (end & !0xffff));
    vec![
        (Signature::Lvm, lvm),
        (other("a LUKS container without its first header"), luks_copy),
        (Signature::Filesystem(FilesystemKind::Ext4), at(1024 + 56, &[0x53, 0xef])),
        (Signature::Filesystem(FilesystemKind::Xfs), at(0, b"XFSB")),
        (Signature::Swap, swap),
        (Signature::Gpt, gpt),
        (other("a FAT file system"), boot && fat),
        (other("an NTFS file system"), ntfs),
        (other("an exFAT file system"), exfat),
        (other("an MBR or another boot sector"), boot && !fat && !ntfs && !exfat && !gpt),
        (other("a Btrfs file system"), at(0x10040, b"_BHRfS_M")),
        (other("a pool of ZFS"), zfs),
        (other("a bcachefs or bcache device"), at(4096 + 24, &[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca])),
        (other("an ISO 9660 file system"), at(32769, b"CD001")),
        (other("a UDF file system"), at(32769, b"BEA01")),
        (other("a SquashFS image"), at(0, b"hsqs")),
        (other("an EROFS image"), at(1024, &[0xe2, 0xe1, 0xf5, 0xe0])),
        (other("an F2FS file system"), at(1024, &[0x10, 0x20, 0xf5, 0xf2])),
        (other("a ReiserFS file system"), at(65536 + 52, b"ReIsEr")),
        (other("a JFS file system"), at(32768, b"JFS1")),
        (other("a qcow2 image"), at(0, b"QFI\xfb")),
        (
            other("a member of an array of version 0.90"),
            old_md.is_some_and(|end| from_end(end, &MD_MAGIC.to_le_bytes())),
        ),
        (other("a member of a RAID controller's array (DDF)"), from_end(512, &[0xde, 0x11, 0xde, 0x11])),
        (other("a member of an Intel firmware's array"), from_end(1024, b"Intel Raid ISM Cfg Sig.")),
        // `MD_MAGIC` of DRBD 8.4 and 9, big endian, in the last 4 KiB.
        (
            other("a device of DRBD"),
            from_end(4096 - 60, &[0x83, 0x74, 0x02, 0x6b]) || from_end(4096 - 60, &[0x83, 0x74, 0x02, 0x6c]),
        ),
    ]
}

#[cfg(test)]
mod tests;
