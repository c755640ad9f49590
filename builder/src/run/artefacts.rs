//! The output directory of a build, as its readers find it.

use std::path::{Path, PathBuf};

use thimble_spec::appliance::Appliance;
use thimble_spec::manifest::Manifest;

use crate::error::{Error, Result};
use crate::files;

/// Version of the manifest that is read here.
const VERSION: u32 = 1;

/// What a build left behind.
#[derive(Debug)]
pub struct Artefacts {
    /// The directory.
    pub dir: PathBuf,
    /// What was made.
    pub manifest: Manifest,
    /// What it was made from.
    pub appliance: Appliance,
}

impl Artefacts {
    /// Reads the directory's descriptions.
    ///
    /// # Errors
    /// It is not there, or no build wrote it.
    pub fn open(dir: &Path) -> Result<Self> {
        let manifest = manifest(dir)?;
        Ok(Self { dir: dir.to_owned(), manifest, appliance: read(dir, "appliance.json")? })
    }

    /// A file in the directory.
    ///
    /// # Errors
    /// It is not there.
    pub fn file(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        if path.is_file() {
            Ok(path)
        } else {
            Err(Error::Usage(format!(
                "{} has no {name}: build it again, with --format where its definition leaves that out",
                self.dir.display()
            )))
        }
    }
}

/// The manifest of a build's directory, for those who need nothing else of it.
///
/// # Errors
/// It is not there, or no build wrote it.
pub fn manifest(dir: &Path) -> Result<Manifest> {
    if !dir.is_dir() {
        return Err(Error::Usage(format!("{}: there is no such directory: build it first", dir.display())));
    }
    let manifest: Manifest = read(dir, "manifest.json")?;
    if manifest.version != VERSION {
        let (dir, version) = (dir.display(), manifest.version);
        return Err(Error::Usage(format!("{dir}: its manifest has version {version}: build it again")));
    }
    Ok(manifest)
}

fn read<T: serde::de::DeserializeOwned>(dir: &Path, name: &str) -> Result<T> {
    let foreign = |why: String| {
        Error::Usage(format!("{} is not an output directory of thimble build: {name} {why}", dir.display()))
    };
    let path = dir.join(name);
    if !path.is_file() {
        return Err(foreign("is not in it".to_owned()));
    }
    let text = files::read_text(&path)?;
    serde_json::from_str(&text).map_err(|error| foreign(format!("cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_directory_is_told_in_a_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let told = || Artefacts::open(dir.path()).unwrap_err().to_string();
        assert!(told().contains("is not an output directory of thimble build: manifest.json is not in it"));
        std::fs::write(dir.path().join("manifest.json"), "{").unwrap();
        assert!(told().contains("manifest.json cannot be read"));
        assert!(Artefacts::open(&dir.path().join("x")).unwrap_err().to_string().contains("no such directory"));
    }
}
