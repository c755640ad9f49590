//! The output directory: everything is written beside it and renamed into it when all of it is whole, the manifest last.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tempfile::TempDir;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::files;

/// The disk.
pub const FLASH: &str = "flash.img";
/// The host's kernel.
pub const VMLINUZ: &str = "netboot/vmlinuz";
/// Its initramfs, in one piece.
pub const INITRD: &str = "netboot/initrd";
/// The checked definition.
pub const APPLIANCE: &str = "appliance.json";
/// What all of it is.
pub const MANIFEST: &str = "manifest.json";

/// In the order in which they get their names.
const ORDER: [&str; 5] = [FLASH, VMLINUZ, INITRD, APPLIANCE, MANIFEST];

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
        files::make_dir(&temporary.path().join("netboot"))?;
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

    /// Gives all of it its name.
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
        files::make_dir(&self.target.join("netboot"))?;
        for name in ORDER {
            let to = self.target.join(name);
            fs::rename(self.path(name), &to).map_err(Error::io("write", &to))?;
        }
        files::sync_dir(self.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use crate::progress::Progress;

    fn write(output: &Output<'_>, text: &str) {
        for name in ORDER {
            files::write(&output.path(name), text.as_bytes()).unwrap();
        }
    }

    #[test]
    fn all_of_it_or_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let context =
            Context { cache: Cache::open_at(&dir.path().join("cache")).unwrap(), progress: Progress::quiet() };
        let target = dir.path().join("out");
        let manifest = || fs::read_to_string(target.join(MANIFEST)).unwrap();

        let output = Output::begin(&context, &target).unwrap();
        write(&output, "first");
        assert!(!target.exists());
        output.publish().unwrap();
        assert_eq!(manifest(), "first");

        files::write(&target.join("notes"), b"the user's own").unwrap();
        let output = Output::begin(&context, &target).unwrap();
        write(&output, "failed");
        drop(output);
        assert_eq!(manifest(), "first");

        let output = Output::begin(&context, &target).unwrap();
        write(&output, "second");
        output.publish().unwrap();
        assert_eq!(manifest(), "second");
        assert!(target.join("notes").exists());
        assert_eq!(files::list(dir.path()).unwrap().len(), 2, "nothing is left beside it");
    }
}
