//! Snapshots of disks that are files, as files beside them: `PREFIX.NAME.MOMENT.snapshot`, a copy with the disk's holes. What is
//! not whole yet has another name ([`Part`]), and what is there is never written to.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use thimble_spec::api::snapshot::{Moment, Snapshot};
use thimble_spec::names::check_name;
use thimble_spec::vmm::DiskFormat;

use crate::copy::{BLOCK, DISK, PART, Part};

/// What their files' names end with.
const KIND: &str = ".snapshot";
/// What a disk is about to be, between what names begin with and the ends of a snapshot's that is not whole.
const REVERT: &str = "revert";
/// The beginning of a qcow2 image: what it is, and where the size of the disk in it is (docs/interop/qcow2.rst).
const QCOW2: (&[u8], usize) = (b"QFI\xfb", 24);

/// A disk.
#[derive(Clone, Debug)]
pub struct Files {
    disk: PathBuf,
    /// What the names of its snapshots begin with.
    prefix: String,
    format: DiskFormat,
}

impl Files {
    /// The one that the node makes for a guest.
    pub fn made(disks: &Path, guest: &str) -> Self {
        Self { disk: disks.join(guest).join(DISK), prefix: String::new(), format: DiskFormat::Raw }
    }

    /// A file with a name of its own.
    pub fn named(path: &Path, format: DiskFormat) -> Self {
        // Itself, not what leads to it.
        let disk = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let prefix = disk.file_name().map_or(String::new(), |name| format!("{}.", name.to_string_lossy()));
        Self { disk, prefix, format }
    }

    fn directory(&self) -> &Path {
        self.disk.parent().unwrap_or(Path::new("/"))
    }

    fn beside(&self, rest: &str) -> PathBuf {
        self.directory().join(format!("{}{rest}", self.prefix))
    }

    /// Its snapshots, oldest first.
    pub fn list(&self) -> Vec<Snapshot> {
        let mut found: Vec<Snapshot> = self.files().into_iter().map(|(_, snapshot)| snapshot).collect();
        found.sort_by(|one, other| (one.made_ms, &one.name).cmp(&(other.made_ms, &other.name)));
        found
    }

    fn files(&self) -> Vec<(PathBuf, Snapshot)> {
        let entries = fs::read_dir(self.directory()).into_iter().flatten().flatten();
        entries.filter_map(|entry| Some((entry.path(), self.snapshot(&entry.path())?))).collect()
    }

    fn snapshot(&self, path: &Path) -> Option<Snapshot> {
        let (name, moment) = parse(path.file_name()?.to_str()?.strip_prefix(&self.prefix)?.strip_suffix(KIND)?)?;
        let found = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
        let made = found.modified().ok()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let made_ms = u64::try_from(made.as_millis()).unwrap_or(u64::MAX);
        let size = match self.format {
            DiskFormat::Raw => found.len(),
            DiskFormat::Qcow2 => size_in(path).unwrap_or(0),
        };
        Some(Snapshot { name: name.to_owned(), made_ms, moment, size, allocated: Some(found.blocks() * BLOCK) })
    }

    fn find(&self, name: &str) -> Result<PathBuf> {
        let found = self.files().into_iter().find(|(_, snapshot)| snapshot.name == name);
        let found = found.with_context(|| format!("{} has no snapshot {name} any more", self.disk.display()))?;
        Ok(found.0)
    }

    /// Begins one: a copy of the disk as it is now, which is not written to meanwhile.
    ///
    /// # Errors
    /// There is no disk or no room; it was given up. Nothing is left then.
    pub fn copy(&self, name: &str, moment: Moment, goes_on: &dyn Fn(u64) -> bool) -> Result<Part> {
        let from = File::open(&self.disk).with_context(|| format!("opening {}", self.disk.display()))?;
        let part = Part::begin(self.beside(&format!("{name}.{moment}{KIND}")))?;
        part.fill(&from, goes_on).with_context(|| format!("copying {}", self.disk.display()))?;
        Ok(part)
    }

    /// The disk is what it was, in one step; the snapshot stays. Nobody has the disk open.
    ///
    /// # Errors
    /// There is no room; it was given up. The disk is as it is now then.
    pub fn revert(&self, name: &str, goes_on: &dyn Fn(u64) -> bool) -> Result<()> {
        let path = self.find(name)?;
        let from = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        // By a name that nobody else gives.
        let part = Part::begin_as(self.disk.clone(), self.beside(&format!("{REVERT}{KIND}{PART}")))?;
        part.fill(&from, goes_on).and_then(|()| part.finish()).with_context(|| format!("copying {}", path.display()))
    }

    /// Takes one away.
    ///
    /// # Errors
    /// It stays.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.find(name)?;
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))
    }

    /// Takes all away, with the disk that they are of.
    ///
    /// # Errors
    /// Some stay.
    pub fn remove_all(&self) -> io::Result<()> {
        self.files().into_iter().try_for_each(|(path, _)| fs::remove_file(path))
    }

    /// Takes away what was left half made: nobody else makes anything of the disk.
    pub fn clear_up(&self) {
        for entry in fs::read_dir(self.directory()).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let half =
                name.to_str().and_then(|name| name.strip_prefix(&self.prefix)?.strip_suffix(PART)?.strip_suffix(KIND));
            if half.is_some_and(|half| half == REVERT || parse(half).is_some()) {
                // Another daemon tries again.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// `NAME.MOMENT`. A name has no dots: it is no other file's snapshot.
fn parse(text: &str) -> Option<(&str, Moment)> {
    let (name, moment) = text.split_once('.')?;
    check_name(name).ok()?;
    Some((name, Moment::ALL.into_iter().find(|it| it.name() == moment)?))
}

/// Bytes of the disk in a qcow2 image.
fn size_in(path: &Path) -> Option<u64> {
    let mut header = [0; QCOW2.1 + 8];
    File::open(path).ok()?.read_exact(&mut header).ok()?;
    let size = header[QCOW2.1..].try_into().ok()?;
    header.starts_with(QCOW2.0).then(|| u64::from_be_bytes(size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy;
    use std::cell::Cell;
    use std::os::unix::fs::{FileExt, PermissionsExt};

    fn node() -> (tempfile::TempDir, PathBuf) {
        let disks = tempfile::tempdir().unwrap();
        let path = disks.path().join("web1").join(DISK);
        fs::create_dir(path.parent().unwrap()).unwrap();
        let file = File::create(&path).unwrap();
        file.set_len(8 << 20).unwrap();
        file.write_all_at(&[1; 5000], 3 << 20).unwrap();
        (disks, path)
    }

    fn made(disks: &Path) -> Files {
        Files::made(disks, "web1")
    }

    #[test]
    fn a_disk_is_what_it_was_again() {
        let (disks, disk) = node();
        let (disks, before) = (disks.path(), fs::read(&disk).unwrap());
        made(disks).copy("a", Moment::Off, &|_| true).unwrap().finish().unwrap();
        fs::OpenOptions::new().write(true).open(&disk).unwrap().write_all_at(&[2; 5000], 3 << 20).unwrap();
        made(disks).copy("b", Moment::Crash, &|_| true).unwrap().finish().unwrap();
        let now = fs::read(&disk).unwrap();
        let found = made(disks).list();
        let all: Vec<_> = found.iter().map(|it| (it.name.as_str(), it.moment, it.size)).collect();
        assert_eq!(all, [("a", Moment::Off, 8 << 20), ("b", Moment::Crash, 8 << 20)]);
        assert!(found.iter().all(|it| it.allocated.unwrap() < 1 << 20), "{found:?}");
        made(disks).revert("a", &|_| true).unwrap();
        assert!(fs::read(&disk).unwrap() == before);
        made(disks).revert("b", &|_| true).unwrap();
        assert!(fs::read(&disk).unwrap() == now);
        made(disks).remove("a").unwrap();
        assert!(made(disks).remove("a").is_err() && made(disks).revert("a", &|_| true).is_err());
        // With the disk all go.
        copy::remove(disks, "web1").unwrap();
        assert_eq!(fs::read_dir(disks).unwrap().count(), 0);
    }

    #[test]
    fn what_is_half_made_is_none() {
        let (disks, disk) = node();
        let (disks, before) = (disks.path(), fs::read(&disk).unwrap());
        // A daemon that is killed drops nothing.
        std::mem::forget(made(disks).copy("a", Moment::Off, &|_| true).unwrap());
        assert_eq!(made(disks).list(), []);
        assert!(made(disks).copy("a", Moment::Off, &|_| true).unwrap_err().to_string().contains("being made already"));
        copy::clear_up(disks);
        drop(made(disks).copy("a", Moment::Off, &|_| true).unwrap());
        assert_eq!(fs::read_dir(disks.join("web1")).unwrap().count(), 1);
        made(disks).copy("a", Moment::Off, &|_| true).unwrap().finish().unwrap();
        let asked = Cell::new(0);
        let error = made(disks).revert("a", &|_| asked.replace(1) > 0).unwrap_err();
        assert!(format!("{error:#}").ends_with("given up"), "{error:#}");
        assert!(fs::read(&disk).unwrap() == before);
        fs::write(disks.join("web1/B.off.snapshot"), "").unwrap();
        fs::write(disks.join("web1/b.sometimes.snapshot"), "").unwrap();
        assert_eq!(made(disks).list().len(), 1);
    }

    #[test]
    fn a_file_of_somebody_has_its_own_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().canonicalize().unwrap();
        let path = directory.join("x.qcow2");
        let header = [&b"QFI\xfb"[..], &[0; 20], &(5_u64 << 30).to_be_bytes(), &[0; 72]].concat();
        fs::write(&path, &header).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let files = Files::named(&path, DiskFormat::Qcow2);
        files.copy("a", Moment::Off, &|_| true).unwrap().finish().unwrap();
        let copy = directory.join("x.qcow2.a.off.snapshot");
        assert_eq!(
            fs::metadata(&copy).unwrap().permissions().mode() & 0o777,
            0o600,
            "whoever may not read it reads no copy"
        );
        let found = files.list();
        assert_eq!((found.len(), found[0].size), (1, 5 << 30));
        // Neither of these is its own, nor its the other's.
        for other in ["x.qcow2.other.a.off.snapshot", "a.off.snapshot", "x.qcow2.a.snapshot", "x.qcow2.part"] {
            fs::write(directory.join(other), "mine").unwrap();
        }
        assert_eq!(files.list(), found);
        assert_eq!(Files::named(&directory.join("x"), DiskFormat::Raw).list(), []);
        fs::write(&path, "other").unwrap();
        files.revert("a", &|_| true).unwrap();
        assert_eq!(fs::read(&path).unwrap(), header);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // What a daemon left that was killed goes, and nothing else.
        let count = || fs::read_dir(&directory).unwrap().count();
        let before = count();
        for half in ["x.qcow2.b.crash.snapshot.part", "x.qcow2.revert.snapshot.part"] {
            fs::write(directory.join(half), "half").unwrap();
        }
        files.clear_up();
        assert_eq!(count(), before);
        files.remove("a").unwrap();
        assert_eq!((files.list(), count()), (vec![], before - 1));
    }
}
