//! A guest's own block device on the host: made when it is declared by size, looked for when it is declared by path.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use thimble_spec::appliance::{DiskSource, Guest};
use thimble_spec::units::ByteSize;

use crate::plan::own_disk;

/// How long a declared block device may take to appear: a RAID controller scans its disks for that long.
const DEVICE_LIMIT: Duration = Duration::from_secs(30);
/// Time between two looks.
const DEVICE_INTERVAL: Duration = Duration::from_millis(100);

/// Makes the guest's disk ready to be opened by its VMM.
///
/// # Errors
/// It cannot be made, or does not appear.
pub async fn prepare(guest: &Guest) -> Result<()> {
    let (Some(disk), Some(path)) = (&guest.disk, own_disk(guest)) else { return Ok(()) };
    match &disk.source {
        DiskSource::Size(size) => {
            make_sparse(&path, *size).with_context(|| format!("making the disk {} of {size}", path.display()))
        }
        DiskSource::Device(_) => wait_for_device(&path).await,
        DiskSource::File(_) => match fs::metadata(&path) {
            Ok(found) if found.is_file() => Ok(()),
            Ok(_) => bail!("{} is not a file", path.display()),
            Err(error) => Err(error).with_context(|| format!("opening the disk {}", path.display())),
        },
    }
}

/// What a guest runs by as soon as its disk has grown to what `next` says, and how large that is; none if it does not grow
/// while it runs.
pub fn grown(runs: &Guest, next: &Guest) -> Option<(Guest, ByteSize)> {
    let (mut guest, wanted) = (runs.clone(), next.disk.as_ref()?);
    match (&mut guest.disk.as_mut()?.source, &wanted.source) {
        (DiskSource::Size(size), DiskSource::Size(more)) if *more > *size => {
            *size = *more;
            Some((guest, *more))
        }
        _ => None,
    }
}

/// A sparse file of `size`. One that is there grows, if it is smaller, and is never shortened: what lies behind the end
/// would be lost.
fn make_sparse(path: &Path, size: ByteSize) -> Result<()> {
    let directory = path.parent().context("a disk lies in a directory")?;
    fs::create_dir_all(directory)?;
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    if file.metadata()?.len() < size.bytes() {
        file.set_len(size.bytes())?;
        file.sync_all()?;
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

async fn wait_for_device(path: &Path) -> Result<()> {
    let deadline = tokio::time::Instant::now() + DEVICE_LIMIT;
    loop {
        match fs::metadata(path) {
            Ok(found) if found.file_type().is_block_device() => return Ok(()),
            Ok(_) => bail!("{} is not a block device", path.display()),
            Err(_) if tokio::time::Instant::now() < deadline => tokio::time::sleep(DEVICE_INTERVAL).await,
            Err(_) => bail!("the block device {} did not appear within {DEVICE_LIMIT:?}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_made_once_grows_and_never_shrinks() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web1/disk.raw");
        let length = || fs::metadata(&path).unwrap().len();
        make_sparse(&path, ByteSize::mib(16)).unwrap();
        fs::write(directory.path().join("web1/other"), "").unwrap();
        assert_eq!(length(), 16 << 20);
        make_sparse(&path, ByteSize::mib(32)).unwrap();
        assert_eq!(length(), 32 << 20);
        make_sparse(&path, ByteSize::mib(16)).unwrap();
        assert_eq!(length(), 32 << 20);
    }

    #[tokio::test]
    async fn a_file_is_no_block_device() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        fs::write(&path, "").unwrap();
        assert!(wait_for_device(&path).await.unwrap_err().to_string().ends_with("is not a block device"));
    }
}
