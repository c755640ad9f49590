//! Boot loaders, from the distribution's packages: nothing of them has to be installed on this machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Format, packages};
use crate::apt::{Apt, Package};
use crate::context::Context;
use crate::efi::trust::Trust;
use crate::error::{Error, Result};
use crate::files::{self, Key};

/// GRUB's platforms, and the package of each.
const GRUB: [(&str, &str); 2] = [("i386-pc", "grub-pc-bin"), ("x86_64-efi", "grub-efi-amd64-bin")];

/// What was fetched for the formats of a build.
#[derive(Clone, Debug, Default)]
pub struct Loaders {
    /// GRUB's modules: a directory with `i386-pc/` and `x86_64-efi/`, as far as a format asked for those packages.
    pub grub: PathBuf,
    /// Each package with the tree of its files.
    packages: BTreeMap<String, (Package, PathBuf)>,
}

impl Loaders {
    /// Fetches the packages that the formats take where that is trusted.
    ///
    /// # Errors
    /// A package is in no source, or cannot be fetched.
    pub fn fetch(context: &Context, apt: &Apt<'_>, formats: &[Format], trust: &Trust) -> Result<Self> {
        let of_format = |format: &Format| packages(*format).iter().chain(trust.packages(*format));
        let mut names: Vec<&str> = formats.iter().flat_map(of_format).copied().collect();
        names.sort_unstable();
        names.dedup();
        let mut loaders = Self::default();
        for package in apt.find(&names)? {
            let tree = apt.unpacked(&package)?;
            loaders.packages.insert(package.name.clone(), (package, tree));
        }
        loaders.grub = loaders.grub_modules(context)?;
        Ok(loaders)
    }

    /// Loaders that lie somewhere else: GRUB's modules in `grub`.
    pub fn with_grub(grub: &Path) -> Self {
        Self { grub: grub.to_owned(), packages: BTreeMap::new() }
    }

    /// A file of a package.
    ///
    /// # Errors
    /// No format asked for that package, or it has no such file.
    pub fn file(&self, package: &str, path: &str) -> Result<PathBuf> {
        let file = self.packages.get(package).map(|(_, tree)| tree.join(path)).filter(|file| file.is_file());
        file.ok_or_else(|| {
            Error::environment(format!(
                "the package {package} has no file {path}: this version of it is not one that Thimble knows"
            ))
        })
    }

    /// A package, if a format asked for it.
    pub fn package(&self, name: &str) -> Option<&Package> {
        self.packages.get(name).map(|(package, _)| package)
    }

    /// The packages.
    pub fn packages(&self) -> impl Iterator<Item = &Package> {
        self.packages.values().map(|(package, _)| package)
    }

    /// The packages with the trees of their files.
    pub fn trees(&self) -> impl Iterator<Item = (&Package, &Path)> {
        self.packages.values().map(|(package, tree)| (package, tree.as_path()))
    }

    /// All platforms' modules in one directory.
    fn grub_modules(&self, context: &Context) -> Result<PathBuf> {
        let of_grub = |package: &&Package| GRUB.iter().any(|(_, name)| *name == package.name);
        let key = self.packages().filter(of_grub).fold(Key::new("grub 2"), |key, package| key.with(&package.sha256));
        let entry = context.cache.dir_for("grub", &key.finish(), |out| {
            for (platform, package) in GRUB {
                if let Some((_, tree)) = self.packages.get(package) {
                    copy_flat(&tree.join("usr/lib/grub").join(platform), &out.join(platform))?;
                }
            }
            Ok(())
        })?;
        Ok(entry.path)
    }
}

/// Copies a directory that holds files only.
fn copy_flat(from: &Path, to: &Path) -> Result<()> {
    files::make_dir(to)?;
    for path in files::list(from)? {
        if let Some(name) = path.file_name().filter(|_| path.is_file()) {
            let target = to.join(name);
            fs::copy(&path, &target).map_err(Error::io("write", &target))?;
        }
    }
    Ok(())
}
