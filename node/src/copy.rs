//! A copy of a guest's disk: what has holes keeps them, and nobody sees it before it is whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{Whence, lseek};
use thimble_spec::units::{ByteSize, MIB};

/// The file of a disk in its guest's directory.
pub const DISK: &str = "disk.raw";
/// One that is not whole yet.
const PART: &str = "disk.raw.part";
/// What is read and written at a time.
const STEP: usize = 1 << 20;
/// What a copy leaves free for the guests that run: one whose writes find no room is paused.
const ROOM: u64 = 16 * MIB;
/// Unit of `st_blocks` (stat(2)).
const BLOCK: u64 = 512;

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
    let directory = disks.join(guest);
    let (part, whole) = (directory.join(PART), directory.join(DISK));
    ensure!(
        !whole.exists(),
        "there is a disk of a guest {guest} already, {}: take another name, or thimblectl vol-delete {guest}",
        whole.display()
    );
    fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    let to = OpenOptions::new().write(true).create_new(true).open(&part);
    let to = to.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => anyhow::anyhow!("a disk of guest {guest} is being made already"),
        _ => anyhow::Error::from(error).context(format!("making {}", part.display())),
    })?;
    let copied = room(&from, &to).and_then(|()| {
        fill(&from, &to, goes_on)?;
        to.sync_all()?;
        fs::rename(&part, &whole)?;
        Ok(File::open(&directory)?.sync_all()?)
    });
    if copied.is_err() {
        let _ = fs::remove_file(&part);
        // With something else in it, it stays.
        let _ = fs::remove_dir(&directory);
    }
    copied.with_context(|| format!("copying the disk of guest {source}"))?;
    Ok(true)
}

/// Takes a disk away.
///
/// # Errors
/// It stays.
pub fn remove(disks: &Path, guest: &str) -> io::Result<()> {
    let directory = disks.join(guest);
    fs::remove_file(directory.join(DISK))?;
    // With something else in it, it stays.
    let _ = fs::remove_dir(&directory);
    Ok(())
}

/// What a daemon that was killed has left half made.
pub fn clear_up(disks: &Path) {
    for directory in fs::read_dir(disks).into_iter().flatten().flatten() {
        if fs::remove_file(directory.path().join(PART)).is_ok() {
            let _ = fs::remove_dir(directory.path());
        }
    }
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
        let times = Cell::new(0);
        let goes_on = |_| {
            times.set(times.get() + 1);
            times.get() < 2
        };
        let error = disk(disks.path(), "web1", "web2", &goes_on).unwrap_err();
        assert!(format!("{error:#}").ends_with("given up"), "{error:#}");
        assert_eq!((entries(disks.path()), times.get()), (vec!["web1".to_owned()], 2));
    }

    #[test]
    fn what_is_there_is_not_written_over() {
        let disks = tempfile::tempdir().unwrap();
        assert!(!disk(disks.path(), "web1", "web2", &|_| true).unwrap(), "there is nothing to copy");
        source(disks.path(), &[(0, 1)]);
        fs::create_dir(disks.path().join("web2")).unwrap();
        for (file, wanted) in [(DISK, "there is a disk of a guest web2 already"), (PART, "is being made already")] {
            fs::write(disks.path().join("web2").join(file), "mine").unwrap();
            let error = disk(disks.path(), "web1", "web2", &|_| true).unwrap_err();
            assert!(format!("{error:#}").contains(wanted), "{error:#}");
            assert_eq!(fs::read(disks.path().join("web2").join(file)).unwrap(), b"mine");
            fs::remove_file(disks.path().join("web2").join(file)).unwrap();
        }
        // What a daemon left that was killed goes, and nothing else.
        fs::write(disks.path().join("web2").join(PART), "half").unwrap();
        fs::write(disks.path().join("web1").join(PART), "half").unwrap();
        clear_up(disks.path());
        assert_eq!(entries(disks.path()), ["web1"]);
        assert!(disk(disks.path(), "web1", "web2", &|_| true).unwrap());
        remove(disks.path(), "web2").unwrap();
        assert_eq!(entries(disks.path()), ["web1"]);
    }
}
