//! What several targets share.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::sys::memfd::{MFdFlags, memfd_create};

/// Hands `body` the path of a file in memory with this content.
///
/// # Panics
/// There is no memory for it.
pub fn with_file(content: &[u8], body: impl FnOnce(&Path)) {
    let memory = memfd_create(c"input", MFdFlags::MFD_CLOEXEC).expect("a file in memory");
    let mut file = std::fs::File::from(memory);
    file.write_all(content).expect("memory");
    body(&PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())));
}
