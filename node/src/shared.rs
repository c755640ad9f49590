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

use std::fs;
use std::path::PathBuf;

use anyhow::Result;
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

    fn link(&self) -> PathBuf {
        self.run.join("guest-part")
    }
}

/// Writes down which version a guest is started with.
///
/// # Errors
/// The run directory cannot be written.
pub fn record(place: &Place, version: &Version) -> Result<()> {
    let path = place.file(STARTED_FILE);
    match &version.hashes {
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
        let shared = Shared { run: dir.path().to_owned(), catalogue: dir.path().join("catalogue.json") };
        assert_eq!(shared.next().hashes, None);
        let object = |path: &str, digit: &str| serde_json::json!({"path": path, "size": 1, "sha256": digit.repeat(64)});
        let objects = [object(paths::GUEST_KERNEL, "a"), object(paths::GUEST_INITRD, "e")];
        fs::write(&shared.catalogue, serde_json::json!({ "objects": objects }).to_string()).unwrap();
        let built_in = shared.next();
        assert_eq!((built_in.kernel.to_str(), built_in.hashes), (Some(paths::GUEST_KERNEL), Some(hashes("a"))));

        let place = Place { run: dir.path().to_owned() };
        assert_eq!(started_with(&place), None);
        record(&place, &shared.next()).unwrap();
        assert_eq!(started_with(&place), Some(hashes("a")));
        record(&place, &Version { hashes: None, ..shared.next() }).unwrap();
        assert_eq!(started_with(&place), None);
    }
}
