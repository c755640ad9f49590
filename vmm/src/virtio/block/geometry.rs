//! The sizes of the host's blocks, and what the page cache makes of them.
//!
//! A driver counts in sectors of 512 bytes whatever the host's blocks are, and may ask for any of them (virtio 1.2,
//! section 5.2.6). Around the page cache the host takes its own blocks only. So a disk says how large they are, and
//! requests that are no whole blocks all the same go through the page cache.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;

use super::config::SECTOR;

/// Bytes of a page of the host's, and of a block of its file systems.
const PAGE: u32 = 4096;

/// What a disk's driver is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of a block, by which partition tables count: the device's for a block device, as its own tables have it;
    /// a sector for a file, as images have it.
    pub logical: u32,
    /// Bytes of which the host writes no fewer at once: a smaller write is a read and a write there.
    pub physical: u32,
}

impl Geometry {
    /// That of a file, whatever it holds.
    pub const FILE: Self = Self { logical: SECTOR as u32, physical: PAGE };

    /// That of `file`, which may be a block device.
    pub fn of(file: &File) -> Self {
        if !is_block_device(file) {
            return Self::FILE;
        }
        let logical = ask(file, BLKSSZGET).unwrap_or(SECTOR as u32);
        Self { logical, physical: ask(file, BLKPBSZGET).unwrap_or(logical).max(logical) }
    }

    /// By how many powers of two a physical block is larger than a logical one.
    pub fn exponent(self) -> u8 {
        (self.physical / self.logical).max(1).ilog2() as u8
    }
}

/// What a request must be to go around the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alignment {
    /// Bytes of which its offset and length, and the lengths of its buffers, are multiples.
    pub block: u64,
    /// Bytes of which the addresses of its buffers are multiples.
    pub memory: u64,
}

impl Alignment {
    /// What the host says of `file`; a page where it says nothing.
    pub fn of(file: &File) -> Self {
        let (block, memory) = match statx(file) {
            Some(found) => found,
            // A block device says it this way, on hosts before Linux 6.11 only this way.
            None if is_block_device(file) => ask(file, BLKSSZGET).map_or((PAGE, PAGE), |block| (block, block)),
            None => (PAGE, PAGE),
        };
        // Nothing smaller than a page goes through the page cache beside what goes around it: else a page that is
        // written back would undo what was written around it meanwhile.
        let block = if u64::from(block) <= SECTOR { SECTOR } else { u64::from(block.max(PAGE)) };
        Self { block, memory: u64::from(memory) }
    }
}

/// `STATX_DIOALIGN` (statx(2), Linux 6.1): what offsets and lengths, and memory, are multiples of.
fn statx(file: &File) -> Option<(u32, u32)> {
    // As a system call: the C library's function is one that Rust's library asks for weakly, and where the two are linked
    // into one another it would not be there.
    // SAFETY: an all-zero `statx` is one, and the call fills it; the path is an empty C string.
    let found = unsafe {
        let mut found: libc::statx = std::mem::zeroed();
        let (fd, empty, flags) = (file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH);
        let failed = libc::syscall(libc::SYS_statx, fd, empty, flags, libc::STATX_DIOALIGN, &raw mut found) != 0;
        (!failed).then_some(found)?
    };
    let sane = |bytes: u32| bytes.is_power_of_two();
    let (block, memory) = (found.stx_dio_offset_align, found.stx_dio_mem_align);
    (found.stx_mask & libc::STATX_DIOALIGN != 0 && sane(block) && sane(memory)).then_some((block, memory))
}

/// Whether it is one, which has its own size and its own blocks.
pub fn is_block_device(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.file_type().is_block_device())
}

/// `BLKSSZGET` and `BLKPBSZGET` (linux/fs.h): bytes of a device's logical, and of its physical block.
const BLKSSZGET: libc::Ioctl = 0x1268;
const BLKPBSZGET: libc::Ioctl = 0x127b;

/// Asks a block device for one of its sizes.
fn ask(file: &File, request: libc::Ioctl) -> Option<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: both requests write one int.
    let found = unsafe { libc::ioctl(file.as_raw_fd(), request, &raw mut bytes) };
    let bytes = u32::try_from(bytes).ok().filter(|_| found == 0)?;
    (bytes.is_power_of_two() && u64::from(bytes) >= SECTOR).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::Command;

    use thimble_spec::vmm::{Disk, DiskEngine};

    use super::*;
    use crate::virtio::VirtioDevice;
    use crate::virtio::block::Block;
    use crate::virtio::block::config::F_TOPOLOGY;
    use crate::virtio::block::tests::{BUFFER, S_OK, request};
    use crate::virtio::testing::{Driver, WRITE};

    /// A block device of 64 KiB whose blocks have 4096 bytes.
    struct Loop(PathBuf);

    impl Loop {
        /// None where tests may not make one.
        fn new() -> Option<Self> {
            let file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().set_len(65536).unwrap();
            let made = Command::new("losetup").args(["-b", "4096", "-f", "--show"]).arg(file.path()).output().ok()?;
            made.status.success().then(|| Self(String::from_utf8_lossy(&made.stdout).trim().into()))
        }
    }

    impl Drop for Loop {
        fn drop(&mut self) {
            let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
        }
    }

    fn word(device: &Block, at: usize) -> u32 {
        let mut bytes = [0; 4];
        device.read_config(at, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn a_device_says_its_blocks_and_gives_its_sectors_all_the_same() {
        let Some(device) = Loop::new() else { return eprintln!("no loop device: not tested") };
        for (direct, engine) in
            [(false, DiskEngine::Sync), (false, DiskEngine::Uring), (true, DiskEngine::Sync), (true, DiskEngine::Uring)]
        {
            let description = Disk { path: device.0.clone(), direct, engine, ..Disk::default() };
            let block = Block::open(&description, 0).unwrap();
            assert_eq!((block.features() & F_TOPOLOGY, word(&block, 20)), (F_TOPOLOGY, 4096));
            assert_eq!(word(&block, 24) & 0xff, 0, "what it writes at once is a block");
            let mut driver = Driver::new(block);
            driver.start(0);
            driver.put(BUFFER, &[1; 8192]);
            assert_eq!(request(&mut driver, 1, 0, &[(BUFFER, 8192, 0)]).0, S_OK);
            // One sector in the middle of a block; two at the end of one and the beginning of the next.
            for (sector, count, byte) in [(3, 1, 2), (7, 2, 3)] {
                driver.put(BUFFER, &vec![byte; count * 512]);
                assert_eq!(request(&mut driver, 1, sector, &[(BUFFER, count as u32 * 512, 0)]).0, S_OK);
            }
            // Zeros and nothing at all, both for less than a block.
            for (kind, sector) in [(13, 12u64), (11, 14)] {
                driver.put(BUFFER, &[&sector.to_le_bytes()[..], &1u32.to_le_bytes(), &[0; 4]].concat());
                assert_eq!(request(&mut driver, kind, 0, &[(BUFFER, 16, 0)]).0, S_OK, "{kind} {direct} {engine:?}");
            }
            assert_eq!(request(&mut driver, 0, 0, &[(BUFFER, 7168, WRITE)]).0, S_OK);
            for (sector, byte) in [1, 1, 1, 2, 1, 1, 1, 3, 3, 1, 1, 1, 0, 1].into_iter().enumerate() {
                let found = driver.bytes(BUFFER + sector as u64 * 512, 512);
                assert_eq!(found, [byte; 512], "{sector} {direct} {engine:?}");
            }
        }
    }

    #[test]
    fn a_file_has_sectors_whatever_is_below_it() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(Geometry::of(&file), Geometry { logical: 512, physical: 4096 });
        assert_eq!(Geometry::FILE.exponent(), 3);
        let Alignment { block, memory } = Alignment::of(&file);
        assert!(block == 512 || block >= 4096);
        assert!(memory.is_power_of_two());
    }
}
