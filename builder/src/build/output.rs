//! The output directory: everything is written beside it and renamed into it when all of it is whole, the manifest last.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use serde::Serialize;
use tempfile::TempDir;
use thimble_spec::manifest::Manifest;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::files;

/// The disk.
pub const FLASH: &str = "flash.img";
/// The host's kernel.
pub const VMLINUZ: &str = "netboot/vmlinuz";
/// Its initramfs, in one piece.
pub const INITRD: &str = "netboot/initrd";
/// The directory that an NFS server exports.
pub const NFS: &str = "nfs";
/// In it, the guests' images under their hashes.
pub const NFS_OBJECTS: &str = "nfs/objects/";
/// What a running appliance takes in its place.
pub const UPDATE: &str = "thimble.update";
/// The image for CDs and USB sticks.
pub const ISO: &str = "thimble.iso";
/// The unified kernel image.
pub const UKI: &str = "thimble.efi";
/// The checked definition.
pub const APPLIANCE: &str = "appliance.json";
/// What all of it is.
pub const MANIFEST: &str = "manifest.json";

/// Artefacts on their way.
#[derive(Debug)]
pub struct Output<'a> {
    target: &'a Path,
    temporary: TempDir,
    /// Held against other builds into the same directory.
    _lock: File,
}

impl<'a> Output<'a> {
    /// Makes room beside `target`.
    ///
    /// # Errors
    /// It cannot be written there, or `target` is no directory.
    pub fn begin(context: &Context, target: &'a Path) -> Result<Self> {
        if target.exists() && !target.is_dir() {
            return Err(Error::Usage(format!("--out {}: that is a file, name a directory", target.display())));
        }
        let parent = files::parent(target);
        files::make_dir(parent)?;
        let whole =
            fs::canonicalize(parent).map_err(Error::io("find", parent))?.join(target.file_name().unwrap_or_default());
        let lock = context.cache.lock(&format!("out-{}", files::sha256(whole.as_os_str().as_encoded_bytes())))?;
        let temporary = files::temp_dir_in(parent, ".thimble-")?;
        fs::set_permissions(temporary.path(), Permissions::from_mode(0o755))
            .map_err(Error::io("set the mode of", parent))?;
        Ok(Self { target, temporary, _lock: lock })
    }

    /// Where an artefact is written.
    pub fn path(&self, name: &str) -> PathBuf {
        self.temporary.path().join(name)
    }

    /// Copies a file.
    ///
    /// # Errors
    /// It cannot be read, the disk is full.
    pub fn copy(&self, from: &Path, name: &str) -> Result<()> {
        self.concatenate(&[from], name)
    }

    /// Writes files one behind the other.
    ///
    /// # Errors
    /// One cannot be read, the disk is full.
    pub fn concatenate(&self, parts: &[&Path], name: &str) -> Result<()> {
        let path = self.path(name);
        files::make_dir(files::parent(&path))?;
        let mut file = File::create(&path).map_err(Error::io("write", &path))?;
        for part in parts {
            files::copy(part, &mut |chunk| file.write_all(chunk).map_err(Error::io("write", &path)))?;
        }
        file.sync_all().map_err(Error::io("write", &path))
    }

    /// Writes JSON.
    ///
    /// # Errors
    /// The disk is full.
    pub fn json(&self, value: &impl Serialize, name: &str) -> Result<()> {
        let mut json = serde_json::to_vec_pretty(value)
            .map_err(|error| Error::environment(format!("cannot write {name}: {error}")))?;
        json.push(b'\n');
        files::write(&self.path(name), &json)
    }

    /// Paths of all artefacts so far, sorted, relative to the directory.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn files(&self) -> Result<Vec<String>> {
        files_below(self.temporary.path())
    }

    /// Gives all of it its name, the manifest last. What an earlier build left behind and this one did not make goes away;
    /// a file that no build made stays.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn publish(self) -> Result<()> {
        if !self.target.exists() {
            fs::rename(self.temporary.path(), self.target).map_err(Error::io("write", self.target))?;
            // Renamed away: there is nothing left to remove.
            let _ = self.temporary.keep();
            return files::sync_dir(files::parent(self.target));
        }
        let made = self.files()?;
        let outdated = self.outdated(&made);
        for name in made.iter().filter(|name| *name != MANIFEST).chain([&MANIFEST.to_owned()]) {
            let to = self.target.join(name);
            files::make_dir(files::parent(&to))?;
            fs::rename(self.path(name), &to).map_err(Error::io("write", &to))?;
        }
        for name in outdated {
            let path = self.target.join(name);
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            // Only a directory that is empty now goes away.
            let _ = fs::remove_dir(files::parent(&path));
        }
        files::sync_dir(self.target)
    }

    /// What the manifest of an earlier build names and `made` does not, but for images on an export: nodes that run read
    /// them. A manifest that cannot be read names nothing.
    fn outdated(&self, made: &[String]) -> Vec<String> {
        let json = fs::read(self.target.join(MANIFEST)).unwrap_or_default();
        let Ok(earlier) = serde_json::from_slice::<Manifest>(&json) else { return Vec::new() };
        let plain = |name: &str| Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        let names = earlier.artefacts.into_iter().map(|artefact| artefact.name);
        let in_use = |name: &str| name.starts_with(NFS_OBJECTS);
        names
            .filter(|name| plain(name) && !in_use(name) && !made.contains(name) && self.target.join(name).is_file())
            .collect()
    }
}

fn files_below(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for path in files::list(&dir)? {
            if path.is_dir() {
                dirs.push(path);
            } else if let Ok(name) = path.strip_prefix(root) {
                names.push(name.display().to_string());
            }
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use crate::progress::Progress;
    use thimble_spec::manifest::{Object, Origin, Room};

    /// An artefact beside the manifest that names it.
    fn write(output: &Output<'_>, name: &str, hash: &str) {
        files::make_dir(files::parent(&output.path(name))).unwrap();
        files::write(&output.path(name), hash.as_bytes()).unwrap();
        let object = Object {
            name: name.to_owned(),
            room: Room::Artefact,
            size: 0,
            packed: 0,
            sha256: String::new(),
            origin: Origin::Thimble,
        };
        let manifest = Manifest {
            version: 1,
            appliance: "demo".to_owned(),
            budget: 0,
            cmdline: String::new(),
            hash: hash.to_owned(),
            artefacts: vec![object],
            objects: vec![],
            firmware: vec![],
        };
        output.json(&manifest, MANIFEST).unwrap();
    }

    #[test]
    fn all_of_it_or_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let context =
            Context { cache: Cache::open_at(&dir.path().join("cache")).unwrap(), progress: Progress::quiet() };
        let target = dir.path().join("out");
        let hash = || {
            let json = fs::read(target.join(MANIFEST)).unwrap();
            serde_json::from_slice::<Manifest>(&json).unwrap().hash
        };

        let output = Output::begin(&context, &target).unwrap();
        write(&output, INITRD, "first");
        assert!(!target.exists());
        output.publish().unwrap();
        assert_eq!(hash(), "first");

        files::write(&target.join("notes"), b"the user's own").unwrap();
        let output = Output::begin(&context, &target).unwrap();
        write(&output, INITRD, "failed");
        drop(output);
        assert_eq!(hash(), "first");

        let output = Output::begin(&context, &target).unwrap();
        write(&output, INITRD, "second");
        output.publish().unwrap();
        assert_eq!((hash(), files::read_text(&target.join(INITRD)).unwrap()), ("second".into(), "second".into()));
        assert!(target.join("notes").exists());

        // An artefact that is no longer made does not stay beside a manifest that does not know it.
        let output = Output::begin(&context, &target).unwrap();
        write(&output, FLASH, "third");
        output.publish().unwrap();
        assert_eq!(hash(), "third");
        assert!(target.join(FLASH).exists() && target.join("notes").exists());
        assert!(!target.join("netboot").exists());
        assert_eq!(files::list(dir.path()).unwrap().len(), 2, "nothing is left beside it");
    }
}
