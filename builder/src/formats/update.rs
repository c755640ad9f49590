//! `thimble.update`: a signed release with all its objects, which a running appliance or an image takes.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::Contents;
use crate::error::{Error, Result};
use crate::files;

/// Writes it: the layout is that of [`thimble_store::update`].
///
/// # Errors
/// A file cannot be read, the disk is full.
pub fn write(contents: &Contents<'_>, out: &Path) -> Result<()> {
    let mut file = File::create(out).map_err(Error::io("write", out))?;
    file.write_all(contents.envelope.bytes()).map_err(Error::io("write", out))?;
    for part in contents.envelope.release().objects() {
        files::copy(contents.object(part)?, &mut |chunk| file.write_all(chunk).map_err(Error::io("write", out)))?;
    }
    file.sync_all().map_err(Error::io("write", out))
}
