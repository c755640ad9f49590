//! A newc cpio archive as the kernel unpacks it (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! The same content gives the same bytes: no time, no owner, inodes by position, paths in order.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

use cpio::newc::{self, ModeFileType};

use crate::error::{Error, Result};
use crate::files::{self, Digests, Key};

/// The console's device number: /dev/console is 5:1 (Documentation/admin-guide/devices.txt).
const CONSOLE: (u32, u32) = (5, 1);
/// Every archive's size is a multiple of this: the kernel looks for the next one at such a place.
pub const ALIGNMENT: u64 = 4;

/// A file's content.
#[derive(Clone, Debug)]
pub enum Content {
    /// In memory.
    Bytes(Vec<u8>),
    /// In a file.
    File(PathBuf),
}

impl Content {
    /// Its SHA-256.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn sha256(&self) -> Result<String> {
        match self {
            Self::Bytes(bytes) => Ok(files::sha256(bytes)),
            Self::File(path) => files::sha256_of(path),
        }
    }

    /// Its hashes.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn digests(&self) -> Result<Digests> {
        match self {
            Self::Bytes(bytes) => Ok(Digests::of_bytes(bytes)),
            Self::File(path) => Digests::of(path),
        }
    }

    /// Its size in bytes.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn size(&self) -> Result<u64> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.len() as u64),
            Self::File(path) => files::size(path),
        }
    }
}

#[derive(Clone, Debug)]
enum Member {
    Dir { mode: u32 },
    File { mode: u32, content: Content },
    Link { target: String },
    Console,
}

/// What goes into an archive.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    members: BTreeMap<String, Member>,
    last: Option<(String, Vec<u8>)>,
}

impl Archive {
    /// Adds a directory.
    pub fn dir(&mut self, path: &str, mode: u32) {
        self.parents(path);
        self.members.insert(path.to_owned(), Member::Dir { mode });
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, mode: u32, content: Content) {
        self.parents(path);
        self.members.insert(path.to_owned(), Member::File { mode, content });
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.parents(path);
        self.members.insert(path.to_owned(), Member::Link { target: target.to_owned() });
    }

    /// Adds `/dev/console`: PID 1's first words go there, before anything is mounted.
    pub fn console(&mut self) {
        self.parents("/dev/console");
        self.members.insert("/dev/console".to_owned(), Member::Console);
    }

    /// Adds a file behind all others.
    pub fn last(&mut self, path: &str, content: Vec<u8>) {
        self.parents(path);
        self.last = Some((path.to_owned(), content));
    }

    /// Its files, with their content.
    pub fn files(&self) -> impl Iterator<Item = (&str, &Content)> {
        self.members.iter().filter_map(|(path, member)| match member {
            Member::File { content, .. } => Some((path.as_str(), content)),
            Member::Dir { .. } | Member::Link { .. } | Member::Console => None,
        })
    }

    /// A hash over all that decides its bytes.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn key(&self) -> Result<String> {
        let mut key = Key::new("archive 1");
        for (path, member) in &self.members {
            key = key.with(path);
            key = match member {
                Member::Dir { mode } => key.with(format!("dir {mode:o}")),
                Member::Link { target } => key.with("link").with(target),
                Member::Console => key.with("console"),
                Member::File { mode, content } => key.with(format!("file {mode:o}")).with(content.sha256()?),
            };
        }
        if let Some((path, content)) = &self.last {
            key = key.with(path).with(content);
        }
        Ok(key.finish())
    }

    /// Writes it.
    ///
    /// # Errors
    /// A file cannot be read, `out` cannot be written, the user interrupts.
    pub fn write(&self, out: &mut dyn Write) -> Result<()> {
        let empty = Content::Bytes(Vec::new());
        let mut inode = 0;
        let mut entry = |path: &str, mode: u32, kind: ModeFileType| {
            inode += 1;
            newc::Builder::new(path.trim_start_matches('/')).ino(inode).mode(mode).set_mode_file_type(kind)
        };
        for (path, member) in &self.members {
            match member {
                Member::Dir { mode } => put(out, entry(path, *mode, ModeFileType::Directory).nlink(2), path, &empty)?,
                Member::File { mode, content } => put(out, entry(path, *mode, ModeFileType::Regular), path, content)?,
                Member::Link { target } => {
                    let content = Content::Bytes(target.clone().into_bytes());
                    put(out, entry(path, 0o777, ModeFileType::Symlink), path, &content)?;
                }
                Member::Console => {
                    let device = entry(path, 0o600, ModeFileType::Char).rdev_major(CONSOLE.0).rdev_minor(CONSOLE.1);
                    put(out, device, path, &empty)?;
                }
            }
        }
        if let Some((path, content)) = &self.last {
            put(out, entry(path, 0o444, ModeFileType::Regular), path, &Content::Bytes(content.clone()))?;
        }
        newc::trailer(out).map(drop).map_err(failed)
    }

    fn parents(&mut self, path: &str) {
        for (end, _) in path.match_indices('/').skip(1) {
            self.members.entry(path[..end].to_owned()).or_insert(Member::Dir { mode: 0o755 });
        }
    }
}

/// Writes one member.
fn put(out: &mut dyn Write, header: newc::Builder, path: &str, content: &Content) -> Result<()> {
    let mut writer = header.write(out, length(path, content)?);
    match content {
        Content::Bytes(bytes) => writer.write_all(bytes).map_err(failed)?,
        Content::File(file) => files::copy(file, &mut |chunk| writer.write_all(chunk).map_err(failed))?,
    }
    writer.finish().map(drop).map_err(failed)
}

fn failed(error: io::Error) -> Error {
    Error::io("write", "an initramfs archive")(error)
}

/// The format has eight hexadecimal digits for a file's size.
fn length(path: &str, content: &Content) -> Result<u32> {
    u32::try_from(content.size()?)
        .map_err(|_| Error::environment(format!("{path} is larger than 4 GiB, which an initramfs cannot hold")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpio::NewcReader;

    fn entries(bytes: &[u8]) -> Vec<(String, u32, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        let mut rest = bytes;
        loop {
            let mut reader = NewcReader::new(rest).unwrap();
            let entry = reader.entry();
            if entry.is_trailer() {
                return entries;
            }
            let (name, mode, inode) = (entry.name().to_owned(), entry.mode(), entry.ino());
            assert_eq!((entry.mtime(), entry.uid(), entry.gid()), (0, 0, 0));
            let mut content = Vec::new();
            io::Read::read_to_end(&mut reader, &mut content).unwrap();
            entries.push((name, mode, inode, content));
            rest = reader.finish().unwrap();
        }
    }

    fn archive() -> Archive {
        let mut archive = Archive::default();
        archive.last("/thimble/end", b"hash\n".to_vec());
        archive.file("/usr/bin/tool", 0o755, Content::Bytes(b"tool!".to_vec()));
        archive.file("/init", 0o755, Content::Bytes(b"init".to_vec()));
        archive.dir("/root", 0o700);
        archive.console();
        archive
    }

    #[test]
    fn parents_come_first_and_the_marker_last() {
        let mut bytes = Vec::new();
        archive().write(&mut bytes).unwrap();
        let entries = entries(&bytes);
        let told: Vec<(&str, u32)> = entries.iter().map(|(name, mode, ..)| (name.as_str(), *mode)).collect();
        assert_eq!(
            told,
            [
                ("dev", 0o40755),
                ("dev/console", 0o20600),
                ("init", 0o100_755),
                ("root", 0o40700),
                ("thimble", 0o40755),
                ("usr", 0o40755),
                ("usr/bin", 0o40755),
                ("usr/bin/tool", 0o100_755),
                ("thimble/end", 0o100_444),
            ]
        );
        assert_eq!(entries[7].3, b"tool!");
        assert_eq!(entries.iter().map(|entry| entry.2).collect::<Vec<_>>(), (1..=9).collect::<Vec<_>>());
        assert_eq!(bytes.len() as u64 % ALIGNMENT, 0);
    }

    #[test]
    fn the_key_changes_with_the_content_only() {
        let mut other = archive();
        assert_eq!(archive().key().unwrap(), other.key().unwrap());
        other.file("/init", 0o700, Content::Bytes(b"init".to_vec()));
        assert_ne!(archive().key().unwrap(), other.key().unwrap());
    }
}
