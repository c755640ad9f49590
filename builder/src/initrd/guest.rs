//! The guests' initramfs: PID 1 and an empty file system. Uncompressed, so that no guest pays for unpacking it.

use std::path::Path;

use thimble_spec::paths;

use super::archive::{Archive, Content};
use crate::context::Context;
use crate::error::Result;

use super::template;

/// Where PID 1 mounts things.
const DIRS: [(&str, u32); 6] =
    [("/data", 0o755), ("/dev", 0o755), ("/proc", 0o755), ("/run", 0o755), ("/sys", 0o755), ("/tmp", 0o1777)];

/// The archive's bytes.
///
/// # Errors
/// The file system cannot be made, `init` cannot be read.
pub fn make(context: &Context, init: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for (path, mode) in DIRS {
        archive.dir(path, mode);
    }
    archive.console();
    archive.file(paths::INIT, 0o755, Content::File(init.to_owned()));
    archive.file(paths::DISK_TEMPLATE, 0o444, Content::Bytes(template::make(context)?));
    let mut bytes = Vec::new();
    archive.write(&mut bytes)?;
    Ok(bytes)
}
