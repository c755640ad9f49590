//! The block device that is written to: opened so that nobody else has it.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;

use super::numbers;
use super::system::System;
use crate::error::{Error, Result};

/// How often the partition table is read again: udev looks at a disk when its writer closes it, and holds it for a moment.
const REREAD_TRIES: u32 = 10;
/// Time between two of them.
const REREAD_PAUSE: Duration = Duration::from_millis(200);

nix::ioctl_none!(
    /// `BLKRRPART`.
    reread_table,
    0x12,
    95
);

/// The kernel's name of the block device that `path` leads to, through any links.
///
/// # Errors
/// There is none, or it is something else.
pub fn name(system: &System, path: &Path) -> Result<String> {
    let shown = path.display();
    let told = |what: &str| Error::Usage(format!("{shown} {what}: see `thimble flash --list`"));
    let found = std::fs::metadata(path).map_err(|error| told(&format!("cannot be looked at ({error})")))?;
    if found.is_file() {
        return Err(told("is a file, not a disk"));
    }
    if !found.file_type().is_block_device() {
        return Err(told("is no disk"));
    }
    system.named(&numbers(found.rdev())).ok_or_else(|| told("is not known to the kernel"))
}

/// Opens it for reading and writing, alone: the kernel refuses while the disk or one of its partitions is mounted or part
/// of something, in other namespaces too (open(2), `O_EXCL`).
///
/// # Errors
/// It is in use, or this user may not.
pub fn open(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_EXCL | libc::O_CLOEXEC).open(path);
    opened.map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EBUSY) => Error::environment(format!(
            "{} is in use, perhaps by a program or a container: `lsof {0}` may say by whom",
            path.display()
        )),
        Some(Errno::EACCES | Errno::EPERM) => {
            Error::environment(format!("this user may not write to {}: run it as root", path.display()))
        }
        Some(Errno::EROFS) => Error::environment(format!("{} is read-only", path.display())),
        _ => Error::io("open", path)(error),
    })
}

/// Makes the kernel see the new partitions. Says whether it did.
pub fn reread(device: &File) -> bool {
    for _ in 0..REREAD_TRIES {
        // SAFETY: BLKRRPART takes no argument and touches no memory of ours; the descriptor is open.
        match unsafe { reread_table(device.as_raw_fd()) } {
            Ok(_) => return true,
            Err(Errno::EBUSY) => thread::sleep(REREAD_PAUSE),
            // A loop device without partition scanning: there is nothing to be seen.
            Err(_) => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_block_device_is_told() {
        let told = |path: &str| name(&System::this(), Path::new(path)).unwrap_err().to_string();
        assert!(told("/dev/null").contains("is no disk"));
        assert!(told("/nowhere/at/all").contains("cannot be looked at"));
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(told(file.path().to_str().unwrap()).contains("is a file, not a disk"));
    }
}
