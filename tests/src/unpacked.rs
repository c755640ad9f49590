//! Servers of packages that are not installed: `scripts/NAME` unpacks one.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::repository;

/// Where its files are.
///
/// # Panics
/// It cannot be fetched.
pub fn unpacked(name: &str) -> PathBuf {
    let script = Command::new(repository().join("scripts").join(name)).output().expect("the script starts");
    assert!(script.status.success(), "{}", String::from_utf8_lossy(&script.stderr));
    let tree = String::from_utf8(script.stdout).expect("a path");
    PathBuf::from(tree.trim())
}

/// A program that finds the libraries there.
pub fn with_libraries(tree: &Path, program: &Path) -> Command {
    const LIBRARIES: [&str; 3] = ["usr/lib/ganesha", "usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
    let libraries = LIBRARIES.map(|directory| tree.join(directory).display().to_string()).join(":");
    let mut command = Command::new(program);
    command.env("LD_LIBRARY_PATH", libraries);
    command
}
