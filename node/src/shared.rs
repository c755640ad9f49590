//! The kernel and the initramfs that guests start with: those that the node was built with, or those of a newer release
//! that was put beside them since ([`crate::update`], `--live`).
//!
//! ```text
//! /thimble/guest/{vmlinux,initrd}            what the node was built with; hashes in the catalogue
//! /run/thimble/guest-parts/NAME/             another version: vmlinux, initrd, hashes.json
//! /run/thimble/guest-part -> guest-parts/NAME    which one is taken; without it, the first
//! /run/thimble/guests/GUEST/started.json     which one this life of the guest was started with
//! ```
//! A version is never changed, and which one is taken changes by one rename. A guest's VMM reads both files as it starts;
//! nobody needs them after that.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use thimble_spec::catalogue::Catalogue;
use thimble_spec::paths;

use crate::plan::Place;

/// In a guest's run directory: the [`Hashes`] that it was started with.
const STARTED_FILE: &str = "started.json";
/// In a version's directory.
const HASHES_FILE: &str = "hashes.json";
/// The kernel in a version's directory.
pub const KERNEL_FILE: &str = "vmlinux";
/// The initramfs there.
pub const INITRD_FILE: &str = "initrd";

/// What tells two versions apart: SHA-256, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hashes {
    /// Of the kernel.
    pub kernel: String,
    /// Of the initramfs.
    pub initrd: String,
}

/// A version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initrd: PathBuf,
    /// Of both, where they are known.
    pub hashes: Option<Hashes>,
}

/// Where versions are.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The directory in which they are put beside the built-in one.
    run: PathBuf,
    catalogue: PathBuf,
}

impl Default for Shared {
    fn default() -> Self {
        Self { run: paths::RUN_DIR.into(), catalogue: paths::CATALOGUE.into() }
    }
}

impl Shared {
    /// Of a test.
    #[cfg(test)]
    pub fn at(run: &Path) -> Self {
        Self { run: run.to_owned(), catalogue: run.join("catalogue.json") }
    }

    /// The version that the next start of a guest takes.
    pub fn next(&self) -> Version {
        self.placed().unwrap_or_else(|| self.built_in())
    }

    /// What the node was built with.
    pub fn built_in(&self) -> Version {
        let catalogue = fs::read(&self.catalogue).ok().and_then(|json| serde_json::from_slice::<Catalogue>(&json).ok());
        let hash = |path| Some(catalogue.as_ref()?.at(path)?.sha256.clone());
        let hashes = || Some(Hashes { kernel: hash(paths::GUEST_KERNEL)?, initrd: hash(paths::GUEST_INITRD)? });
        Version { kernel: paths::GUEST_KERNEL.into(), initrd: paths::GUEST_INITRD.into(), hashes: hashes() }
    }

    /// Another version, if one was put in place. By its own path: what the link names may change at any time.
    fn placed(&self) -> Option<Version> {
        let directory = fs::canonicalize(self.link()).ok()?;
        let hashes: Hashes = serde_json::from_slice(&fs::read(directory.join(HASHES_FILE)).ok()?).ok()?;
        Some(Version { kernel: directory.join(KERNEL_FILE), initrd: directory.join(INITRD_FILE), hashes: Some(hashes) })
    }

    /// Puts a version beside the others, which `fill` writes into a directory, and has it taken from now on. The version
    /// that was taken before stays, for a guest that starts in this moment; older ones go.
    ///
    /// # Errors
    /// It cannot be written, or `fill` fails: nothing is changed then.
    pub fn put(&self, hashes: &Hashes, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        if self.built_in().hashes.as_ref() == Some(hashes) {
            return self.take_built_in();
        }
        let name = format!("{:.16}-{:.16}", hashes.kernel, hashes.initrd);
        let (versions, before) = (self.versions(), fs::read_link(self.link()).ok());
        let directory = versions.join(&name);
        if !directory.exists() {
            let beside = versions.join("new");
            remove(&beside)?;
            fs::create_dir_all(&beside).with_context(|| format!("making {}", beside.display()))?;
            let filled = fill(&beside)
                .and_then(|()| Ok(fs::write(beside.join(HASHES_FILE), serde_json::to_vec(hashes)?)?))
                .and_then(|()| finish(&beside, &directory));
            if filled.is_err() {
                // Memory; what failed is told.
                let _ = remove(&beside);
            }
            filled?;
        }
        let link = self.link().with_extension("new");
        match fs::remove_file(&link) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let target = Path::new("guest-parts").join(&name);
        symlink(&target, &link)
            .and_then(|()| fs::rename(&link, self.link()))
            .context("switching to the new version")?;
        let kept = [Some(target), before].map(|path| path.and_then(|path| Some(path.file_name()?.to_owned())));
        for entry in fs::read_dir(&versions)?.flatten() {
            if !kept.contains(&Some(entry.file_name())) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// From now on, guests start with what the node was built with.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn take_built_in(&self) -> Result<()> {
        match fs::remove_file(self.link()) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn versions(&self) -> PathBuf {
        self.run.join("guest-parts")
    }

    fn link(&self) -> PathBuf {
        self.run.join("guest-part")
    }
}

/// Nobody writes to a version any more, and it gets its name.
fn finish(beside: &Path, directory: &Path) -> Result<()> {
    for name in [KERNEL_FILE, INITRD_FILE, HASHES_FILE] {
        fs::set_permissions(beside.join(name), Permissions::from_mode(0o444))?;
    }
    fs::rename(beside, directory).with_context(|| format!("making {}", directory.display()))
}

fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Writes down which version a guest is started with; none is one that is not known, or a kernel of the guest's own.
///
/// # Errors
/// The run directory cannot be written.
pub fn record(place: &Place, hashes: Option<&Hashes>) -> Result<()> {
    let path = place.file(STARTED_FILE);
    match hashes {
        Some(hashes) => crate::launch::write_whole(&path, &serde_json::to_vec(hashes)?),
        None => match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        },
    }
}

/// Which version this life of a guest was started with, if it is known.
pub fn started_with(place: &Place) -> Option<Hashes> {
    serde_json::from_slice(&fs::read(place.file(STARTED_FILE)).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(digit: &str) -> Hashes {
        Hashes { kernel: digit.repeat(64), initrd: "e".repeat(64) }
    }

    #[test]
    fn the_built_in_one_is_taken_until_another_is_put_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let shared = Shared::at(dir.path());
        assert_eq!(shared.next().hashes, None);
        let object = |path: &str, digit: &str| serde_json::json!({"path": path, "size": 1, "sha256": digit.repeat(64)});
        let objects = [object(paths::GUEST_KERNEL, "a"), object(paths::GUEST_INITRD, "e")];
        fs::write(&shared.catalogue, serde_json::json!({ "objects": objects }).to_string()).unwrap();
        let built_in = shared.next();
        assert_eq!((built_in.kernel.to_str(), built_in.hashes), (Some(paths::GUEST_KERNEL), Some(hashes("a"))));

        let put = |digit: &str| {
            let fill = |directory: &Path| {
                fs::write(directory.join(KERNEL_FILE), digit)?;
                Ok(fs::write(directory.join(INITRD_FILE), "")?)
            };
            shared.put(&hashes(digit), fill).unwrap();
        };
        put("b");
        let first = shared.next();
        assert_eq!((fs::read(&first.kernel).unwrap(), first.hashes.clone()), (b"b".to_vec(), Some(hashes("b"))));
        put("b");
        assert_eq!(shared.next(), first);
        put("c");
        assert_eq!(shared.next().hashes, Some(hashes("c")));
        assert!(first.kernel.exists(), "a guest may be about to read it");
        put("d");
        assert!(!first.kernel.exists());
        let failed = shared.put(&hashes("f"), |_| anyhow::bail!("no memory"));
        assert_eq!((failed.is_err(), shared.next().hashes), (true, Some(hashes("d"))));
        put("a");
        assert_eq!(shared.next().hashes, Some(hashes("a")));
        assert_eq!(shared.next().kernel.to_str(), Some(paths::GUEST_KERNEL), "that is the built-in one");

        let place = Place { run: dir.path().to_owned() };
        assert_eq!(started_with(&place), None);
        record(&place, shared.next().hashes.as_ref()).unwrap();
        assert_eq!(started_with(&place), Some(hashes("a")));
        record(&place, None).unwrap();
        assert_eq!(started_with(&place), None);
    }
}
