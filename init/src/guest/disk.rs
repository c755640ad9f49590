//! The guest's own disk: formatted at its first start, grown when it became larger, never overwritten otherwise.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use thimble_spec::template::Template;

use crate::console;
use crate::error::{Doing, Error, Result};

/// A disk whose first bytes, this many, are zero holds nothing.
const BLANK: usize = 64 << 10;

/// What is at the start of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing, or what a formatting that was cut short left there.
    Blank,
    /// An ext4 file system.
    Ext4(Superblock),
    /// Something else, which is not ours to overwrite.
    Unknown,
}

/// What matters of ext4's superblock (Documentation/filesystems/ext4/super.rst in the kernel's tree).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Size of the file system in blocks.
    pub blocks: u64,
    /// Size of a block in bytes.
    pub block_size: u64,
    /// The kernel found the file system damaged.
    pub errors: bool,
}

/// Reads the head of a disk, its first [`BLANK`] bytes or all that it has.
///
/// `template` is what is written to a blank disk. The block with the superblock is written last, so a disk without it
/// whose other blocks are the template's own is one whose formatting was cut short.
pub fn look(head: &[u8], template: &Template) -> Content {
    if let Some(superblock) = Superblock::read(head) {
        return Content::Ext4(superblock);
    }
    let mut rest = head.to_vec();
    for (offset, block) in template.entries().filter(|(offset, _)| *offset != 0) {
        let Ok(start) = usize::try_from(offset) else { continue };
        let Some(found) = rest.get_mut(start..) else { continue };
        let length = found.len().min(block.len());
        if found[..length] == block[..length] {
            found[..length].fill(0);
        }
    }
    if rest.iter().all(|byte| *byte == 0) { Content::Blank } else { Content::Unknown }
}

impl Superblock {
    /// Where the superblock stands on the disk.
    const OFFSET: usize = 1024;
    /// `s_magic`.
    const MAGIC: u16 = 0xef53;
    /// Bit of `s_state`: errors detected.
    const ERROR_FS: u16 = 2;
    /// Bit of `s_feature_incompat`: sizes have a high half.
    const INCOMPAT_64BIT: u32 = 0x80;

    fn read(head: &[u8]) -> Option<Self> {
        let block = head.get(Self::OFFSET..Self::OFFSET + 1024)?;
        let word = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
        let long = |at: usize| u32::from(word(at)) | u32::from(word(at + 2)) << 16;
        // s_log_block_size: 1 KiB shifted by at most 6, 64 KiB.
        let log = long(0x18);
        if word(0x38) != Self::MAGIC || log > 6 {
            return None;
        }
        let high = if long(0x60) & Self::INCOMPAT_64BIT == 0 { 0 } else { u64::from(long(0x150)) << 32 };
        let errors = word(0x3a) & Self::ERROR_FS != 0;
        Some(Self { blocks: u64::from(long(0x04)) | high, block_size: 1024 << log, errors })
    }
}

/// Whether an ext4 file system is on a device.
pub fn has_ext4(device: &Path) -> bool {
    let mut head = [0; 2 * Superblock::OFFSET];
    let read = File::open(device).and_then(|disk| disk.read_exact_at(&mut head, 0));
    read.is_ok() && Superblock::read(&head).is_some()
}

/// Writes the template to a disk that is blank. The superblock goes last, behind a flush of everything else: until it
/// is there, the disk still is blank.
pub fn format(disk: &File, template: &Template) -> io::Result<()> {
    for (offset, block) in template.entries() {
        if offset == 0 {
            disk.sync_all()?;
        }
        disk.write_all_at(block, offset)?;
    }
    disk.sync_all()
}

/// Mounts `device` at `target`, formatted if it is blank and as large as the device.
pub fn mount_own(device: &Path, target: &Path, template: &[u8]) -> Result<()> {
    let name = device.display();
    let template = Template::parse(template)
        .map_err(|error| Error::Said(format!("{error}: build the guest's initramfs again")))?;
    let disk =
        OpenOptions::new().read(true).write(true).open(device).doing(|| format!("open the guest's disk {name}"))?;
    let size = io::Seek::seek(&mut &disk, io::SeekFrom::End(0)).doing(|| format!("measure {name}"))?;
    let mut head = vec![0; BLANK.min(usize::try_from(size).unwrap_or(BLANK))];
    disk.read_exact_at(&mut head, 0).doing(|| format!("read {name}"))?;
    let mut content = look(&head, &template);
    if content == Content::Blank {
        if size < template.size() {
            let needed = template.size() >> 20;
            return Err(Error::Said(format!(
                "the guest's disk {name} has {size} bytes: give it at least {needed} MiB"
            )));
        }
        format(&disk, &template).doing(|| format!("format {name}"))?;
        disk.read_exact_at(&mut head, 0).doing(|| format!("read {name}"))?;
        content = look(&head, &template);
    }
    let Content::Ext4(superblock) = content else {
        return Err(Error::Said(format!(
            "the guest's disk {name} holds something that is not ext4, and is left as it is: \
             wipe its first 64 KiB or give the guest another disk"
        )));
    };
    if superblock.errors {
        console::error(&format!("the file system on {name} has errors: stop the guest and run e2fsck on its disk"));
    }
    // Closed before the mount: a kernel may refuse to mount a device that is open for writing.
    drop(disk);
    mount(Some(device), target, Some("ext4"), MsFlags::MS_NOATIME, None::<&str>)
        .doing(|| format!("mount the guest's disk {name}"))?;
    grow(target, size, superblock).doing(|| format!("grow the file system on {name} to {size} bytes"))
}

/// Grows the mounted file system to the size of its device. It never shrinks.
fn grow(target: &Path, size: u64, superblock: Superblock) -> io::Result<()> {
    let blocks = size / superblock.block_size;
    if blocks <= superblock.blocks {
        return Ok(());
    }
    let directory = File::open(target)?;
    // SAFETY: the ioctl reads a `u64` behind the pointer, which `blocks` is for the whole call.
    unsafe { resize_fs(directory.as_raw_fd(), &raw const blocks) }?;
    Ok(())
}

nix::ioctl_write_ptr! {
    /// `EXT4_IOC_RESIZE_FS` (fs/ext4/ext4.h): the new size in blocks.
    resize_fs, b'f', 16, u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;
    use thimble_spec::template::pack;

    /// An image of `size_mib` as the builder makes it, and its template.
    fn template(place: &Path, size_mib: u64) -> Vec<u8> {
        let path = place.join("template.img");
        File::create(&path).unwrap().set_len(size_mib << 20).unwrap();
        let options = ["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-J", "size=4", "-N", "2048"];
        let extended = "lazy_itable_init=1,nodiscard";
        assert!(Command::new("mke2fs").args(options).args(["-E", extended]).arg(&path).status().unwrap().success());
        pack(&std::fs::read(path).unwrap())
    }

    fn head(path: &Path) -> Vec<u8> {
        let mut head = std::fs::read(path).unwrap();
        head.truncate(BLANK);
        head
    }

    #[test]
    fn a_blank_disk_becomes_a_sound_file_system() {
        let place = tempfile::tempdir().unwrap();
        let packed = template(place.path(), 16);
        let template = Template::parse(&packed).unwrap();
        // Given a blank disk that is larger than the template,
        let path = place.path().join("disk.img");
        let disk = File::options().create(true).truncate(true).read(true).write(true).open(&path).unwrap();
        disk.set_len(64 << 20).unwrap();
        assert_eq!(look(&head(&path), &template), Content::Blank);
        // when it is formatted,
        format(&disk, &template).unwrap();
        // then e2fsck finds nothing to say, and it is known for what it is.
        let check = Command::new("e2fsck").arg("-fn").arg(&path).output().unwrap();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
        let found = Superblock { blocks: 4096, block_size: 4096, errors: false };
        assert_eq!(look(&head(&path), &template), Content::Ext4(found));
    }

    #[test]
    fn a_formatting_that_was_cut_short_is_done_again() {
        let place = tempfile::tempdir().unwrap();
        let packed = template(place.path(), 16);
        let template = Template::parse(&packed).unwrap();
        let mut disk = vec![0; 16 << 20];
        // Wherever it was cut, as long as the superblock is not there,
        for (offset, block) in template.entries() {
            assert_eq!(look(&disk[..BLANK], &template), Content::Blank, "before {offset}");
            let start = usize::try_from(offset).unwrap();
            disk[start..start + block.len()].copy_from_slice(block);
        }
        // and once it is, it is a file system.
        assert!(matches!(look(&disk[..BLANK], &template), Content::Ext4(_)));
    }

    #[test]
    fn a_small_template() {
        let packed = pack(&[0; 4096]);
        let template = Template::parse(&packed).unwrap();
        assert_eq!(look(&[], &template), Content::Blank);
        assert_eq!(look(&[0; 100], &template), Content::Blank);
        assert_eq!(look(b"somebody's data", &template), Content::Unknown);
        let mut damaged = vec![0; 4096];
        damaged[1024 + 0x38..][..2].copy_from_slice(&0xef53_u16.to_le_bytes());
        damaged[1024 + 0x3a] = 3;
        damaged[1024 + 4] = 9;
        let found = Superblock { blocks: 9, block_size: 1024, errors: true };
        assert_eq!(look(&damaged, &template), Content::Ext4(found));
    }

    proptest! {
        #[test]
        fn one_byte_makes_a_disk_somebodys(at in 0..BLANK, byte in 1u8..) {
            let packed = pack(&vec![0; 2 * BLANK]);
            let template = Template::parse(&packed).unwrap();
            let mut head = vec![0; BLANK];
            prop_assert_eq!(look(&head, &template), Content::Blank);
            head[at] = byte;
            prop_assert_eq!(look(&head, &template), Content::Unknown);
        }

        #[test]
        fn any_bytes_are_safe(head in prop::collection::vec(any::<u8>(), 0..5000), magic in any::<bool>()) {
            let packed = pack(&[1; 3 * 4096]);
            let mut head = head;
            if magic && head.len() > 1082 { head[1080..1082].copy_from_slice(&[0x53, 0xef]); }
            look(&head, &Template::parse(&packed).unwrap());
        }
    }
}
