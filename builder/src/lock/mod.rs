//! `thimble.lock`: the version and hash of each package that the builds of a directory use.
//!
//! It lies beside the definitions, one for all of them, so that what they share they share in one version. A build that
//! finds one asks no package list: it takes exactly these packages, from the cache or from the sources, and refuses any
//! other. Without one, a build takes what the sources have today.
//!
//! | module | what |
//! | --- | --- |
//! | [`file`] | the file, read and written |
//! | [`resolve`] | what a definition needs |
//! | [`changes`] | what a new lock changes |

pub mod changes;
pub mod file;
pub mod resolve;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::apt::Package;
use crate::error::{Error, Result};
use crate::files;

/// The file's name.
pub const FILE: &str = "thimble.lock";

/// Pinned packages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    /// By name.
    pub packages: BTreeMap<String, Pinned>,
}

/// A pinned package.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pinned {
    /// The package; what it depends on is told as far as that is pinned too.
    pub package: Package,
    /// File names of the definitions that use it.
    pub used_by: BTreeSet<String>,
}

impl Lock {
    /// The lock beside a definition, if there is one.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn beside(definition: &Path) -> Result<Option<Self>> {
        let path = path_beside(definition);
        if !path.exists() {
            return Ok(None);
        }
        let text = files::read_text(&path)?;
        file::parse(&text).map(Some).map_err(|why| Error::Usage(format!("{}: {why}", path.display())))
    }

    /// This lock with what a definition needs now: what it no longer needs goes, if nobody else does.
    #[must_use]
    pub fn with(mut self, definition: &str, needed: &[Package]) -> Self {
        for pinned in self.packages.values_mut() {
            pinned.used_by.remove(definition);
        }
        for package in needed {
            let pinned = self.packages.entry(package.name.clone()).or_default();
            pinned.package = package.clone();
            pinned.used_by.insert(definition.to_owned());
        }
        self.packages.retain(|_, pinned| !pinned.used_by.is_empty());
        self.trim();
        self
    }

    /// Dependencies on what is not pinned say nothing here: a build cannot follow them.
    fn trim(&mut self) {
        let names: BTreeSet<String> = self.packages.keys().cloned().collect();
        for pinned in self.packages.values_mut() {
            let mut seen = BTreeSet::new();
            let depends = std::mem::take(&mut pinned.package.depends);
            let kept = depends.into_iter().flatten().filter(|name| names.contains(name) && seen.insert(name.clone()));
            pinned.package.depends = kept.map(|name| vec![name]).collect();
        }
    }
}

/// Where the lock of a definition is.
pub fn path_beside(definition: &Path) -> PathBuf {
    files::parent(definition).join(FILE)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn package(name: &str, version: &str, depends: &[&str]) -> Package {
        Package {
            name: name.to_owned(),
            version: version.to_owned(),
            section: "libs".to_owned(),
            depends: depends.iter().map(|name| vec![(*name).to_owned()]).collect(),
            sha256: files::sha256(format!("{name} {version}").as_bytes()),
            size: 1000,
        }
    }

    #[test]
    fn definitions_share_a_lock() {
        let one =
            Lock::default().with("a.toml", &[package("nginx", "1", &["libc6", "debconf"]), package("libc6", "2", &[])]);
        assert_eq!(one.packages["nginx"].package.depends, [vec!["libc6".to_owned()]], "debconf is not pinned");
        let both = one.with("b.toml", &[package("libc6", "2", &[])]);
        assert_eq!(both.packages["libc6"].used_by.len(), 2);
        // What the first no longer needs goes, unless the second does.
        let left = both.with("a.toml", &[]);
        assert_eq!(left.packages.keys().collect::<Vec<_>>(), ["libc6"]);
    }

    #[test]
    fn the_lock_lies_beside_the_definition() {
        let dir = tempfile::tempdir().unwrap();
        let definition = dir.path().join("rack.toml");
        assert_eq!(Lock::beside(&definition).unwrap(), None);
        std::fs::write(dir.path().join(FILE), "version = 7").unwrap();
        let told = Lock::beside(&definition).unwrap_err().to_string();
        assert!(told.contains("thimble.lock: "), "{told}");
        assert_eq!(path_beside(Path::new("rack.toml")), Path::new("./thimble.lock"));
    }
}
