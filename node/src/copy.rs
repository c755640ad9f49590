//! Copies of guests' disks: what has holes keeps them, and nobody sees one before it is whole. Where the file system can, a copy
//! shares its blocks with what it is of until one of them is written to, and is there in a moment.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{Whence, lseek};
use thimble_spec::units::{ByteSize, MIB};

use crate::snapshots::Files;

/// The file of a disk in its guest's directory.
pub const DISK: &str = "disk.raw";
/// What follows the name of a file that is not whole yet.
pub const PART: &str = ".part";
/// What is read and written at a time.
const STEP: usize = 1 << 20;
/// What a copy leaves free for the guests that run: one whose writes find no room is paused.
const ROOM: u64 = 16 * MIB;
/// Unit of `st_blocks` (stat(2)).
pub const BLOCK: u64 = 512;

/// A file that is being made. Dropped before it is whole, nothing is left of it.
#[derive(Debug)]
pub struct Part {
    file: File,
    part: PathBuf,
    whole: PathBuf,
}

impl Part {
    /// Begins with nothing, beside where it is to be; its directory is made.
    ///
    /// # Errors
    /// Somebody makes it already, or it cannot be made.
    pub fn begin(whole: PathBuf) -> Result<Self> {
        let mut part = whole.clone().into_os_string();
        part.push(PART);
        Self::begin_as(whole, part.into())
    }

    /// The same, by another name as long as it is not whole.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub fn begin_as(whole: PathBuf, part: PathBuf) -> Result<Self> {
        let directory = whole.parent().context("a file lies in a directory")?;
        fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
        let file = OpenOptions::new().write(true).create_new(true).open(&part);
        let file = file.map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => anyhow::anyhow!("{} is being made already", whole.display()),
            _ => anyhow::Error::from(error).context(format!("making {}", part.display())),
        })?;
        Ok(Self { file, part, whole })
    }

    /// Fills it with what `from` has, which is whose that is. `goes_on` is asked before, and as often as a piece is copied, with the share that is done,
    /// of 100.
    ///
    /// # Errors
    /// There is no room; it was given up; it cannot be read or written.
    pub fn fill(&self, from: &File, goes_on: &dyn Fn(u64) -> bool) -> Result<()> {
        ensure!(goes_on(0), "given up");
        let owner = from.metadata()?;
        fchown(&self.file, Some(owner.uid()), Some(owner.gid()))?;
        self.file.set_permissions(owner.permissions())?;
        if shares(from, &self.file) {
            return Ok(());
        }
        room(from, &self.file)?;
        fill(from, &self.file, goes_on)
    }

    /// Gives it so many bytes, of which none takes room.
    ///
    /// # Errors
    /// The file system has no such files.
    pub fn hole(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    /// It is whole, and in its place, where another may have been.
    ///
    /// # Errors
    /// It cannot be written out.
    pub fn finish(self) -> Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.part, &self.whole)?;
        // Its name is another's now, or nobody's.
        let directory = self.whole.parent().context("a file lies in a directory")?;
        Ok(File::open(directory)?.sync_all()?)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if fs::remove_file(&self.part).is_ok()
            && let Some(directory) = self.part.parent()
        {
            // With something else in it, it stays.
            let _ = fs::remove_dir(directory);
        }
    }
}

/// Copies the disk of `source` for `guest`, both below `disks`; `false` if there is none to copy, for its guest never ran.
/// `goes_on` is asked as often as a piece is copied, with the share that is done, of 100.
///
/// # Errors
/// The new guest has a disk already, or gets one just now; there is no room; it was given up. Nothing is left then.
pub fn disk(disks: &Path, source: &str, guest: &str, goes_on: &dyn Fn(u64) -> bool) -> Result<bool> {
    let from = match File::open(disks.join(source).join(DISK)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        opened => opened.with_context(|| format!("opening the disk of guest {source}"))?,
    };
    let part = new_disk(disks, guest)?;
    part.fill(&from, goes_on)
        .and_then(|()| part.finish())
        .with_context(|| format!("copying the disk of guest {source}"))?;
    Ok(true)
}

/// Makes a disk of `size`, with nothing on it.
///
/// # Errors
/// There is one already.
pub fn empty(disks: &Path, guest: &str, size: ByteSize) -> Result<()> {
    let part = new_disk(disks, guest)?;
    part.hole(size.bytes())
        .map_err(anyhow::Error::from)
        .and_then(|()| part.finish())
        .with_context(|| format!("making a disk of {size}"))
}

fn new_disk(disks: &Path, guest: &str) -> Result<Part> {
    let whole = disks.join(guest).join(DISK);
    ensure!(
        !whole.exists(),
        "there is a disk of a guest {guest} already, {}: take another name, or thimblectl vol-delete {guest}",
        whole.display()
    );
    Part::begin(whole)
}

/// Takes a disk away, and what else was made of it.
///
/// # Errors
/// It stays.
pub fn remove(disks: &Path, guest: &str) -> io::Result<()> {
    let directory = disks.join(guest);
    // Last: as long as it is there, it is on the list of disks.
    Files::made(disks, guest).remove_all()?;
    fs::remove_file(directory.join(DISK))?;
    // With something else in it, it stays.
    let _ = fs::remove_dir(&directory);
    Ok(())
}

/// What a daemon that was killed has left half made.
pub fn clear_up(disks: &Path) {
    for directory in fs::read_dir(disks).into_iter().flatten().flatten() {
        for file in fs::read_dir(directory.path()).into_iter().flatten().flatten() {
            if file.file_name().to_string_lossy().ends_with(PART) && fs::remove_file(file.path()).is_ok() {
                let _ = fs::remove_dir(directory.path());
            }
        }
    }
}

nix::ioctl_write_int!(
    /// Makes a file what another one is, by sharing its blocks (`FICLONE`, ioctl_ficlone(2)).
    ficlone,
    0x94,
    9
);

/// Whether a file has become what `from` is, by sharing its blocks: not if the file system has no such thing, or they are on
/// two.
fn shares(from: &File, to: &File) -> bool {
    let Ok(number) = u64::try_from(from.as_raw_fd()) else { return false };
    // SAFETY: the call takes two descriptors, which live until it is over, and no memory.
    unsafe { ficlone(to.as_raw_fd(), number) }.is_ok()
}

fn room(from: &File, to: &File) -> Result<()> {
    let needs = from.metadata()?.blocks().saturating_mul(BLOCK);
    let there = fstatvfs(to)?;
    let free = there.blocks_available().saturating_mul(there.fragment_size());
    ensure!(
        needs.saturating_add(ROOM) <= free,
        "it has {}, and {} are free: make room",
        ByteSize(needs / MIB * MIB),
        ByteSize(free / MIB * MIB)
    );
    Ok(())
}

/// Data where there is data, and holes where there are holes.
fn fill(from: &File, to: &File, goes_on: &dyn Fn(u64) -> bool) -> Result<()> {
    let length = from.metadata()?.len();
    let mut bytes = vec![0; STEP];
    let mut at = 0;
    while at < length {
        let (start, end) = match next_data(from, at)? {
            Some(piece) => piece,
            None => break,
        };
        at = start;
        while at < end {
            ensure!(goes_on(at * 100 / length), "given up");
            let count = STEP.min(usize::try_from(end - at)?);
            from.read_exact_at(&mut bytes[..count], at)?;
            to.write_all_at(&bytes[..count], at)?;
            at += count as u64;
        }
    }
    Ok(to.set_len(length)?)
}

/// The next piece of data from `at` on: where it begins and ends (lseek(2)).
fn next_data(file: &File, at: u64) -> io::Result<Option<(u64, u64)>> {
    let seek =
        |at: u64, whence| lseek(file, i64::try_from(at).map_err(io::Error::other)?, whence).map_err(io::Error::from);
    match seek(at, Whence::SeekData) {
        Ok(start) => {
            let start = start.cast_unsigned();
            Ok(Some((start, seek(start, Whence::SeekHole)?.cast_unsigned())))
        }
        Err(error) if error.raw_os_error() == Some(Errno::ENXIO as i32) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use proptest::prelude::*;
    use std::cell::Cell;

    const LENGTH: u64 = 8 << 20;

    fn source(disks: &Path, pieces: &[(u64, u8)]) {
        fs::create_dir_all(disks.join("web1")).unwrap();
        let file = File::create(disks.join("web1/disk.raw")).unwrap();
        file.set_len(LENGTH).unwrap();
        for (at, byte) in pieces {
            file.write_all_at(&[*byte; 5000], *at).unwrap();
        }
    }

    fn entries(disks: &Path) -> Vec<String> {
        let names = fs::read_dir(disks).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn a_copy_is_the_same_and_as_sparse(pieces in prop::collection::vec((0..LENGTH - 5000, 1..=255u8), 0..6)) {
            let disks = tempfile::tempdir().unwrap();
            source(disks.path(), &pieces);
            let seen = Cell::new(0);
            let copied = disk(disks.path(), "web1", "web2", &|share| {
                assert!(share >= seen.replace(share) && share < 100);
                true
            });
            prop_assert!(copied.unwrap());
            let [one, other] = ["web1", "web2"].map(|name| disks.path().join(name).join(DISK));
            prop_assert!(fs::read(&one).unwrap() == fs::read(&other).unwrap());
            // Of a hole at most what a file system rounds up is written.
            let blocks = |path: &Path| fs::metadata(path).unwrap().blocks();
            prop_assert!(blocks(&other) <= blocks(&one) + 64, "{} {}", blocks(&one), blocks(&other));
        }
    }

    #[test]
    fn nothing_is_left_of_what_is_given_up() {
        let disks = tempfile::tempdir().unwrap();
        source(disks.path(), &[(0, 1), (4 << 20, 2)]);
        let error = disk(disks.path(), "web1", "web2", &|_| false).unwrap_err();
        assert!(format!("{error:#}").ends_with("given up"), "{error:#}");
        assert_eq!(entries(disks.path()), ["web1"]);
    }

    /// A file in memory, and files on two file systems, share no blocks.
    #[test]
    fn what_cannot_be_shared_is_copied() {
        let directory = tempfile::tempdir().unwrap();
        let from = File::from(memfd_create(c"disk", MFdFlags::empty()).unwrap());
        from.set_len(LENGTH).unwrap();
        from.write_all_at(&[7; 5000], 3 << 20).unwrap();
        let part = Part::begin(directory.path().join("copy")).unwrap();
        assert!(!shares(&from, &part.file));
        let asked = Cell::new(0);
        part.fill(&from, &|_| asked.replace(asked.get() + 1) < 10).unwrap();
        assert_eq!(asked.get(), 2, "before, and for the one piece");
        part.finish().unwrap();
        let copy = fs::read(directory.path().join("copy")).unwrap();
        assert!(copy.len() as u64 == LENGTH && copy[3 << 20..][..5000] == [7; 5000]);
        assert_eq!(copy.iter().filter(|byte| **byte != 0).count(), 5000);
        // It can be given up in the middle, too.
        let part = Part::begin(directory.path().join("copy")).unwrap();
        asked.set(0);
        let error = part.fill(&from, &|_| asked.replace(asked.get() + 1) < 1).unwrap_err();
        assert_eq!((error.to_string().as_str(), asked.get()), ("given up", 2));
    }

    #[test]
    fn what_is_there_is_not_written_over() {
        let disks = tempfile::tempdir().unwrap();
        assert!(!disk(disks.path(), "web1", "web2", &|_| true).unwrap(), "there is nothing to copy");
        source(disks.path(), &[(0, 1)]);
        fs::create_dir(disks.path().join("web2")).unwrap();
        let part = &format!("{DISK}{PART}");
        for (file, wanted) in [(DISK, "there is a disk of a guest web2 already"), (part, "is being made already")] {
            fs::write(disks.path().join("web2").join(file), "mine").unwrap();
            let error = disk(disks.path(), "web1", "web2", &|_| true).unwrap_err();
            assert!(format!("{error:#}").contains(wanted), "{error:#}");
            assert_eq!(fs::read(disks.path().join("web2").join(file)).unwrap(), b"mine");
            fs::remove_file(disks.path().join("web2").join(file)).unwrap();
        }
        // What a daemon left that was killed goes, and nothing else.
        fs::write(disks.path().join("web2").join(part), "half").unwrap();
        fs::write(disks.path().join("web1").join(part), "half").unwrap();
        clear_up(disks.path());
        assert_eq!(entries(disks.path()), ["web1"]);
        assert!(disk(disks.path(), "web1", "web2", &|_| true).unwrap());
        remove(disks.path(), "web2").unwrap();
        assert_eq!(entries(disks.path()), ["web1"]);
        // One that nobody has yet is all hole.
        empty(disks.path(), "new", ByteSize::mib(64)).unwrap();
        let made = fs::metadata(disks.path().join("new").join(DISK)).unwrap();
        assert_eq!((made.len(), made.blocks()), (64 << 20, 0));
        assert!(empty(disks.path(), "new", ByteSize::mib(64)).is_err());
    }
}
