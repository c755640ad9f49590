//! Snapshots of the disks that the node makes, as files beside them: `NAME.MOMENT.snapshot`, a copy with the disk's holes. What is
//! not whole yet has another name ([`crate::copy::Part`]), and what is there is never written to.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use thimble_spec::api::snapshot::{Moment, Snapshot};
use thimble_spec::names::check_name;

use crate::copy::{BLOCK, DISK, Part};

/// What their files' names end with.
const KIND: &str = "snapshot";

/// Those of a guest, oldest first.
pub fn list(disks: &Path, guest: &str) -> Vec<Snapshot> {
    let mut found: Vec<Snapshot> = files(disks, guest).into_iter().filter_map(|(_, snapshot)| snapshot).collect();
    found.sort_by(|one, other| (one.made_ms, &one.name).cmp(&(other.made_ms, &other.name)));
    found
}

/// The files of all, and what each is.
fn files(disks: &Path, guest: &str) -> Vec<(PathBuf, Option<Snapshot>)> {
    let entries = fs::read_dir(disks.join(guest)).into_iter().flatten().flatten();
    let ours = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|kind| kind == KIND));
    ours.map(|path| (path.clone(), snapshot(&path))).collect()
}

fn snapshot(path: &Path) -> Option<Snapshot> {
    let (name, moment) = path.file_stem()?.to_str()?.split_once('.')?;
    check_name(name).ok()?;
    let moment = Moment::ALL.into_iter().find(|it| it.name() == moment)?;
    let found = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    let made = found.modified().ok()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    let made_ms = u64::try_from(made.as_millis()).unwrap_or(u64::MAX);
    let allocated = Some(found.blocks() * BLOCK);
    Some(Snapshot { name: name.to_owned(), made_ms, moment, size: found.len(), allocated })
}

fn find(disks: &Path, guest: &str, name: &str) -> Result<(PathBuf, Snapshot)> {
    let found = files(disks, guest)
        .into_iter()
        .find_map(|(path, snapshot)| Some((path, snapshot?)).filter(|it| it.1.name == name));
    found.with_context(|| format!("guest {guest} has no snapshot {name} any more"))
}

/// Begins one: a copy of the disk as it is now, which is not written to meanwhile.
///
/// # Errors
/// There is no disk or no room; it was given up. Nothing is left then.
pub fn copy(disks: &Path, guest: &str, name: &str, moment: Moment, goes_on: &dyn Fn(u64) -> bool) -> Result<Part> {
    let directory = disks.join(guest);
    let disk = directory.join(DISK);
    let from = File::open(&disk).with_context(|| format!("opening {}", disk.display()))?;
    let part = Part::begin(directory.join(format!("{name}.{moment}.{KIND}")))?;
    part.fill(&from, goes_on).with_context(|| format!("copying {}", disk.display()))?;
    Ok(part)
}

/// The disk is what it was, in one step; the snapshot stays. Nobody has the disk open.
///
/// # Errors
/// There is no room; it was given up. The disk is as it is now then.
pub fn revert(disks: &Path, guest: &str, name: &str, goes_on: &dyn Fn(u64) -> bool) -> Result<()> {
    let (path, _) = find(disks, guest, name)?;
    let from = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
    let part = Part::begin(disks.join(guest).join(DISK))?;
    part.fill(&from, goes_on).and_then(|()| part.finish()).with_context(|| format!("copying {}", path.display()))
}

/// Takes one away.
///
/// # Errors
/// It stays.
pub fn remove(disks: &Path, guest: &str, name: &str) -> Result<()> {
    let (path, _) = find(disks, guest, name)?;
    fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))
}

/// Takes all away, with the disk that they are of.
///
/// # Errors
/// Some stay.
pub fn remove_all(disks: &Path, guest: &str) -> io::Result<()> {
    files(disks, guest).into_iter().try_for_each(|(path, _)| fs::remove_file(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy;
    use std::cell::Cell;
    use std::os::unix::fs::FileExt;

    fn node() -> (tempfile::TempDir, PathBuf) {
        let disks = tempfile::tempdir().unwrap();
        let path = disks.path().join("web1").join(DISK);
        fs::create_dir(path.parent().unwrap()).unwrap();
        let file = File::create(&path).unwrap();
        file.set_len(8 << 20).unwrap();
        file.write_all_at(&[1; 5000], 3 << 20).unwrap();
        (disks, path)
    }

    #[test]
    fn a_disk_is_what_it_was_again() {
        let (disks, disk) = node();
        let (disks, before) = (disks.path(), fs::read(&disk).unwrap());
        copy(disks, "web1", "a", Moment::Off, &|_| true).unwrap().finish().unwrap();
        fs::OpenOptions::new().write(true).open(&disk).unwrap().write_all_at(&[2; 5000], 3 << 20).unwrap();
        copy(disks, "web1", "b", Moment::Crash, &|_| true).unwrap().finish().unwrap();
        let now = fs::read(&disk).unwrap();
        let found = list(disks, "web1");
        let all: Vec<_> = found.iter().map(|it| (it.name.as_str(), it.moment, it.size)).collect();
        assert_eq!(all, [("a", Moment::Off, 8 << 20), ("b", Moment::Crash, 8 << 20)]);
        assert!(found.iter().all(|it| it.allocated.unwrap() < 1 << 20), "{found:?}");
        revert(disks, "web1", "a", &|_| true).unwrap();
        assert!(fs::read(&disk).unwrap() == before);
        revert(disks, "web1", "b", &|_| true).unwrap();
        assert!(fs::read(&disk).unwrap() == now);
        remove(disks, "web1", "a").unwrap();
        assert!(remove(disks, "web1", "a").is_err() && revert(disks, "web1", "a", &|_| true).is_err());
        // With the disk all go.
        copy::remove(disks, "web1").unwrap();
        assert_eq!(fs::read_dir(disks).unwrap().count(), 0);
    }

    #[test]
    fn what_is_half_made_is_none() {
        let (disks, disk) = node();
        let (disks, before) = (disks.path(), fs::read(&disk).unwrap());
        // A daemon that is killed drops nothing.
        std::mem::forget(copy(disks, "web1", "a", Moment::Off, &|_| true).unwrap());
        assert_eq!(list(disks, "web1"), []);
        assert!(
            copy(disks, "web1", "a", Moment::Off, &|_| true).unwrap_err().to_string().contains("being made already")
        );
        copy::clear_up(disks);
        drop(copy(disks, "web1", "a", Moment::Off, &|_| true).unwrap());
        assert_eq!(fs::read_dir(disks.join("web1")).unwrap().count(), 1);
        copy(disks, "web1", "a", Moment::Off, &|_| true).unwrap().finish().unwrap();
        let asked = Cell::new(0);
        let error = revert(disks, "web1", "a", &|_| asked.replace(1) > 0).unwrap_err();
        assert!(format!("{error:#}").ends_with("given up"), "{error:#}");
        assert!(fs::read(&disk).unwrap() == before);
        fs::write(disks.join("web1/B.off.snapshot"), "").unwrap();
        fs::write(disks.join("web1/b.sometimes.snapshot"), "").unwrap();
        assert_eq!(list(disks, "web1").len(), 1);
    }
}
