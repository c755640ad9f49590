//! `netboot/`: what a machine without a disk of its own loads.

use std::path::Path;

use super::Contents;
use crate::build::output::{INITRD, Output, VMLINUZ};
use crate::error::Result;

/// Makes the directory.
///
/// # Errors
/// A file cannot be read, the disk is full.
pub fn write(contents: &Contents<'_>, output: &Output<'_>) -> Result<()> {
    output.copy(contents.kernel, VMLINUZ)?;
    let parts: Vec<&Path> = contents.parts.iter().map(|part| part.path.as_path()).collect();
    output.concatenate(&parts, INITRD)
}
