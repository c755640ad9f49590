//! How a guest ends: whoever sees it first says why, and the process leaves that word behind.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::OnceLock;

use thimble_spec::vmm::{Exit, ExitReason};
use vmm_sys_util::eventfd::EventFd;

use crate::error::{Error, Result};
use crate::phases::{self, Phase};

/// The end of the guest, once it is decided.
#[derive(Debug)]
pub struct Ending {
    reason: OnceLock<ExitReason>,
    event: EventFd,
}

impl Ending {
    /// No end is in sight.
    ///
    /// # Errors
    /// The host gives no eventfd.
    pub fn new() -> Result<Self> {
        let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(Error::host("make an eventfd"))?;
        Ok(Self { reason: OnceLock::new(), event })
    }

    /// Ends the guest for `reason`, unless it ends already.
    pub fn end(&self, reason: ExitReason) {
        if self.reason.set(reason).is_ok() {
            phases::mark(Phase::End);
            // The first write to an eventfd cannot overflow it.
            let _ = self.event.write(1);
        }
    }

    /// Why the guest ends, if it does.
    pub fn reason(&self) -> Option<&ExitReason> {
        self.reason.get()
    }

    /// Readable once there is a reason.
    pub fn event(&self) -> &EventFd {
        &self.event
    }
}

/// Leaves `exit` in `path`: written beside it, synced and renamed, so that a reader finds all of it or nothing.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, exit: &Exit) -> Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let write = || -> io::Result<()> {
        let mut file = File::create(&beside)?;
        file.write_all(&serde_json::to_vec(exit)?)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().map_err(|source| Error::File { action: "write the guest's end to", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stands() {
        let ending = Ending::new().unwrap();
        assert_eq!(ending.reason(), None);
        ending.end(ExitReason::PowerOff);
        ending.end(ExitReason::Killed);
        assert_eq!(ending.reason(), Some(&ExitReason::PowerOff));
        assert_eq!(ending.event().read().unwrap(), 1);
    }

    #[test]
    fn an_exit_file_reads_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("exit.json");
        let exit = Exit::new(ExitReason::Error("no".to_owned()), 0.5);
        write(&path, &exit).unwrap();
        assert_eq!(serde_json::from_slice::<Exit>(&fs::read(&path).unwrap()).unwrap(), exit);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(write(Path::new("/nowhere/exit.json"), &exit).is_err());
    }
}
