//! What is to be written, looked at before anything is touched.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Serialize;
use thimble_spec::manifest::Manifest;

use crate::error::{Error, Result};
use crate::flash::read;
use crate::progress::Progress;
use crate::run::artefacts;
use crate::{build::output, files};

/// Where a volume descriptor of ISO 9660 says what it is (ECMA-119, 8.1: sector 16, byte 1).
const ISO_MARK: (u64, &[u8; 5]) = (16 * 2048 + 1, b"CD001");
/// Where a boot sector says that it is one.
const BOOT_MARK: (u64, &[u8; 2]) = (510, &[0x55, 0xaa]);

/// Something that boots from a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Image {
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// What it is.
    pub kind: Kind,
}

/// What an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A disk with a partition table, as `thimble build` makes it.
    Flash,
    /// An ISO 9660 image that is a disk besides.
    Iso,
}

impl Image {
    /// Finds and checks what `path` means: an image, or a build's directory with one. What a manifest knows of it, in that
    /// directory or beside the file, it must be.
    ///
    /// # Errors
    /// It is not there, no image, damaged, or not what the manifest says.
    pub fn open(path: &Path, progress: &Progress) -> Result<Self> {
        let wrong = |what: &str| {
            Error::Usage(format!("{}: {what}: name a flash.img, an ISO or a build's directory", path.display()))
        };
        let (path, manifest) = if path.is_dir() {
            (path.join(output::FLASH), Some(artefacts::manifest(path)?))
        } else {
            let beside = files::parent(path);
            let manifest = beside.join(output::MANIFEST).is_file().then(|| artefacts::manifest(beside)).transpose()?;
            (path.to_owned(), manifest)
        };
        let there = std::fs::metadata(&path).map_err(|error| wrong(&error.to_string()))?;
        if !there.is_file() {
            return Err(wrong("not a file"));
        }
        let (bytes, kind) = (there.len(), sniff(&path)?);
        if kind == Kind::Flash {
            read::open(&path)?;
        }
        let image = Self { path, bytes, kind };
        if let Some(manifest) = manifest {
            image.compare(&manifest, progress)?;
        }
        Ok(image)
    }

    /// Compares it with a manifest, if that names it.
    fn compare(&self, manifest: &Manifest, progress: &Progress) -> Result<()> {
        let named = |name: &String| self.path.file_name().is_some_and(|file| file == name.as_str());
        let Some(artefact) = manifest.artefacts.iter().find(|artefact| named(&artefact.name)) else { return Ok(()) };
        let step = progress.step("comparing the image with its manifest");
        if artefact.size != self.bytes || files::sha256_of(&self.path)? != artefact.sha256 {
            return Err(Error::environment(format!(
                "{} is not what the manifest beside it says: build it again, or move it to another directory",
                self.path.display()
            )));
        }
        step.done();
        Ok(())
    }
}

fn sniff(path: &Path) -> Result<Kind> {
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let mut has = |(at, mark): (u64, &[u8])| {
        let mut found = vec![0; mark.len()];
        file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut found)).is_ok_and(|()| found == mark)
    };
    let boots = has((BOOT_MARK.0, BOOT_MARK.1));
    if !has((ISO_MARK.0, ISO_MARK.1)) {
        return Ok(Kind::Flash);
    }
    if boots {
        return Ok(Kind::Iso);
    }
    Err(Error::environment(format!(
        "{}: this ISO boots from optical disks only: it has no boot sector for a disk",
        path.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_boot_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.img");
        let told = || Image::open(&path, &Progress::quiet()).unwrap_err().to_string();
        assert!(told().contains("name a flash.img, an ISO or a build's directory"));
        std::fs::write(&path, vec![0; 100_000]).unwrap();
        assert!(told().contains("no flash image"), "{}", told());
        let mut iso = vec![0; 100_000];
        iso[16 * 2048 + 1..][..5].copy_from_slice(b"CD001");
        std::fs::write(&path, &iso).unwrap();
        assert!(told().contains("optical disks only"));
        iso[510..512].copy_from_slice(&[0x55, 0xaa]);
        std::fs::write(&path, &iso).unwrap();
        let image = Image::open(&path, &Progress::quiet()).unwrap();
        assert_eq!((image.kind, image.bytes), (Kind::Iso, 100_000));
    }
}
