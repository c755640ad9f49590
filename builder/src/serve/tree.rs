//! The files that are served: those under one directory, by names that a stranger sends.
//!
//! The kernel itself keeps a name inside the directory (`RESOLVE_BENEATH`: no `..`, no absolute path and no symbolic link
//! leads out, however they are combined, and no race changes that), so there is no check of ours to get wrong.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use thiserror::Error;

/// The longest name that is looked up. Firmware's are far shorter.
const MAX_NAME: usize = 512;

/// The directory.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
}

/// Why a file is not served.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// The name leads out of the tree, or is no name.
    #[error("the name leads out of the tree")]
    Outside,
    /// There is none.
    #[error("there is no such file")]
    Missing,
    /// It is there and cannot be read.
    #[error("the file cannot be read")]
    Unreadable,
}

/// A file that is open for reading.
#[derive(Debug)]
pub struct Opened {
    /// The file itself: what is renamed over its name later does not change it.
    pub file: File,
    /// Its size in bytes, when it was opened.
    pub size: u64,
}

impl Tree {
    /// The files under `root`.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Opens a file by the name that a client gave. Leading slashes are the tree's root: firmware writes them or not.
    /// The directory is opened anew each time, so that a build that replaces it is served from then on.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn open(&self, name: &str) -> Result<Opened, Refusal> {
        let name = name.trim_start_matches('/');
        if name.len() > MAX_NAME || name.contains('\0') {
            return Err(Refusal::Outside);
        }
        if name.is_empty() {
            return Err(Refusal::Missing);
        }
        let root = open(&self.root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(|_| Refusal::Missing)?;
        let how = OpenHow::new()
            // A pipe somebody put there must not hold the server up.
            .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let file = File::from(openat2(root, name, how).map_err(|error| match error {
            Errno::EXDEV | Errno::ELOOP | Errno::ENAMETOOLONG => Refusal::Outside,
            Errno::ENOENT | Errno::ENOTDIR => Refusal::Missing,
            _ => Refusal::Unreadable,
        })?);
        let about = file.metadata().map_err(|_| Refusal::Unreadable)?;
        if !about.is_file() {
            return Err(Refusal::Missing);
        }
        Ok(Opened { file, size: about.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    fn tree() -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "outside").unwrap();
        let root = dir.path().join("netboot");
        std::fs::create_dir_all(root.join("grub")).unwrap();
        std::fs::write(root.join("vmlinuz"), "inside").unwrap();
        std::fs::write(root.join("grub/grub.cfg"), "inside").unwrap();
        symlink("../secret", root.join("out")).unwrap();
        symlink("/etc/passwd", root.join("far")).unwrap();
        symlink("..", root.join("grub/up")).unwrap();
        symlink("vmlinuz", root.join("kernel")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let tree = Tree::new(&root);
        (dir, tree)
    }

    #[test]
    fn what_is_inside_is_served_and_nothing_else() {
        let (_dir, tree) = tree();
        for name in
            ["vmlinuz", "/vmlinuz", "//vmlinuz", "grub/grub.cfg", "grub/../vmlinuz", "kernel", "grub/up/vmlinuz"]
        {
            assert_eq!(tree.open(name).unwrap().size, 6, "{name}");
        }
        for name in ["../secret", "/../secret", "grub/../../secret", "out", "far", "loop", "a\0b", "grub/up/../secret"]
        {
            assert_eq!(tree.open(name).unwrap_err(), Refusal::Outside, "{name}");
        }
        for name in ["", "/", "grub", ".", "none", "vmlinuz/x", "..%2fsecret"] {
            assert_eq!(tree.open(name).unwrap_err(), Refusal::Missing, "{name}");
        }
        assert_eq!(tree.open(&"x".repeat(600)).unwrap_err(), Refusal::Outside);
    }

    #[test]
    fn a_file_that_is_replaced_while_it_is_sent_stays_what_it_was() {
        let (dir, tree) = tree();
        let mut opened = tree.open("vmlinuz").unwrap();
        std::fs::write(dir.path().join("new"), "another").unwrap();
        std::fs::rename(dir.path().join("new"), dir.path().join("netboot/vmlinuz")).unwrap();
        let mut text = String::new();
        opened.file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "inside");
        assert_eq!(tree.open("vmlinuz").unwrap().size, 7);
    }

    proptest! {
        #[test]
        fn no_name_leads_out(name in "(\\.\\./|/|grub/|up/|out|secret|far|vmlinuz|\\.|etc/passwd|\\PC){0,12}") {
            let (_dir, tree) = tree();
            if let Ok(mut opened) = tree.open(&name) {
                let mut text = String::new();
                opened.file.read_to_string(&mut text).unwrap();
                prop_assert_eq!(text, "inside");
            }
        }
    }
}
