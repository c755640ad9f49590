//! Files that are there as a whole or not at all, and their hashes.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use tempfile::{NamedTempFile, TempDir};

use crate::error::{Error, Result};
use crate::interrupt;

/// How much is read at once.
const BUFFER: usize = 256 << 10;

/// The mode of a file of which nothing else is said: for everybody to read.
pub const PUBLIC: u32 = 0o644;

/// Writes `content` beside `path`, flushes it to the disk and renames it: a reader sees the old file or the new one.
///
/// # Errors
/// The disk is full, the directory cannot be written.
pub fn write(path: &Path, content: &[u8]) -> Result<()> {
    write_as(path, content, PUBLIC)
}

/// The same with a mode, which is 0600 until all is written.
///
/// # Errors
/// As [`write()`].
pub fn write_as(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let parent = parent(path);
    let mut file = NamedTempFile::new_in(parent).map_err(Error::io("create a file in", parent))?;
    file.write_all(content).map_err(Error::io("write", path))?;
    publish_as(file, path, mode)
}

/// Gives a finished temporary file (of the same directory) the name `path`, mode 0644.
///
/// # Errors
/// The disk is full, the directory cannot be written.
pub fn publish(file: NamedTempFile, path: &Path) -> Result<()> {
    publish_as(file, path, PUBLIC)
}

fn publish_as(file: NamedTempFile, path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.as_file().set_permissions(fs::Permissions::from_mode(mode)).map_err(Error::io("set the mode of", path))?;
    file.as_file().sync_all().map_err(Error::io("write", path))?;
    file.persist(path).map_err(|error| error.error).map_err(Error::io("write", path))?;
    sync_dir(parent(path))
}

/// Flushes a directory's names to the disk.
///
/// # Errors
/// The disk fails.
pub fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io("flush", dir))
}

/// The directory that `path` lies in.
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Reads a whole file.
///
/// # Errors
/// It is not there or cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(Error::io("read", path))
}

/// Reads a whole file of text.
///
/// # Errors
/// It is not there, cannot be read or is no UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(Error::io("read", path))
}

/// Makes a directory and those above it.
///
/// # Errors
/// One of them cannot be made.
pub fn make_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::io("create", path))
}

/// A directory that goes away with its owner.
///
/// # Errors
/// `parent` cannot be written.
pub fn temp_dir_in(parent: &Path, prefix: &str) -> Result<TempDir> {
    tempfile::Builder::new().prefix(prefix).tempdir_in(parent).map_err(Error::io("create a directory in", parent))
}

/// Size of a file.
///
/// # Errors
/// It is not there.
pub fn size(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path).map_err(Error::io("read", path))?.len())
}

/// Names in a directory, sorted.
///
/// # Errors
/// It cannot be read.
pub fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).map_err(Error::io("list", dir))?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(Error::io("list", dir))?;
    paths.sort();
    Ok(paths)
}

/// SHA-256 of bytes, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// It cannot be read.
pub fn sha256_of(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    copy(path, &mut |chunk| {
        hash.update(chunk);
        Ok(())
    })?;
    Ok(hex(&hash.finalize()))
}

/// The hashes by which other programs know a file. SHA-1 is what bills of materials ask for; nothing here trusts it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    /// In hexadecimal.
    pub sha1: String,
    /// In hexadecimal.
    pub sha256: String,
}

impl Digests {
    /// Those of a file.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of(path: &Path) -> Result<Self> {
        let (mut one, mut two) = (Sha1::new(), Sha256::new());
        copy(path, &mut |chunk| {
            one.update(chunk);
            two.update(chunk);
            Ok(())
        })?;
        Ok(Self { sha1: hex(&one.finalize()), sha256: hex(&two.finalize()) })
    }

    /// Those of bytes.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self { sha1: hex(&Sha1::digest(bytes)), sha256: sha256(bytes) }
    }
}

/// Hands a file's content on in pieces.
///
/// # Errors
/// It cannot be read, `sink` fails, the user interrupts.
pub fn copy(path: &Path, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let mut buffer = vec![0; BUFFER];
    loop {
        interrupt::check()?;
        match file.read(&mut buffer).map_err(Error::io("read", path))? {
            0 => return Ok(()),
            read => sink(&buffer[..read])?,
        }
    }
}

/// A hash over named parts, in the order in which they come; unlike a plain concatenation, parts cannot run together.
#[derive(Default)]
pub struct Key(Sha256);

impl Key {
    /// A key for one purpose.
    pub fn new(purpose: &str) -> Self {
        Self::default().with(purpose)
    }

    /// Adds a part.
    #[must_use]
    pub fn with(mut self, part: impl AsRef<[u8]>) -> Self {
        let part = part.as_ref();
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
        self
    }

    /// The key, in hexadecimal.
    pub fn finish(self) -> String {
        hex(&self.0.finalize())
    }
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write(&path, b"old").unwrap();
        write(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(list(dir.path()).unwrap(), std::slice::from_ref(&path), "nothing temporary is left");
        assert_eq!(sha256_of(&path).unwrap(), sha256(b"new"));
    }

    #[test]
    fn parts_of_a_key_do_not_run_together() {
        assert_ne!(Key::new("x").with("ab").with("c").finish(), Key::new("x").with("a").with("bc").finish());
    }
}
