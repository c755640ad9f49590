//! A disk that is one to every program: a loop device over a file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::geteuid;
use tempfile::TempDir;

/// A disk of a file. Goes away with its owner.
#[derive(Debug)]
pub struct Disk {
    dir: TempDir,
    device: PathBuf,
}

impl Disk {
    /// One of this size, with an ext4 that has the label `precious`. `None`, and it says so, where there is no such thing.
    ///
    /// # Panics
    /// There is no room for it, or e2fsprogs is missing.
    pub fn new(bytes: u64) -> Option<Self> {
        if !geteuid().is_root() {
            println!("SKIPPED: a loop device needs root");
            return None;
        }
        let dir = TempDir::new().expect("a temporary directory");
        let file = dir.path().join("disk");
        File::create(&file).and_then(|file| file.set_len(bytes)).expect("a sparse file");
        let made = Command::new("mke2fs").args(["-q", "-t", "ext4", "-L", "precious"]).arg(&file).status();
        assert!(made.expect("mke2fs starts").success());
        let output = Command::new("losetup").args(["--find", "--show"]).arg(&file).output().expect("losetup starts");
        if !output.status.success() {
            println!("SKIPPED: no loop device: {}", String::from_utf8_lossy(&output.stderr));
            return None;
        }
        let device = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        Some(Self { dir, device })
    }

    /// The device.
    pub fn device(&self) -> &Path {
        &self.device
    }

    /// A directory that lives as long.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What the device is of.
    pub fn file(&self) -> PathBuf {
        self.dir().join("disk")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Nothing else can be done about a device that stays.
        let _ = Command::new("losetup").arg("--detach").arg(&self.device).status();
    }
}
