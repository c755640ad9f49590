//! The file system of the guest's own disk, held still for a moment: all is written out, and whoever would write waits.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::libc::c_int;
use thimble_spec::vmm::FREEZE_LIMIT_S;

use crate::clock::since_boot;
use crate::console;

nix::ioctl_readwrite! {
    /// `FIFREEZE` (include/uapi/linux/fs.h); the argument is not looked at.
    fi_freeze, b'X', 119, c_int
}

nix::ioctl_readwrite! {
    /// `FITHAW`, the same.
    fi_thaw, b'X', 120, c_int
}

/// Whether it is frozen, and until when. Dropped, it is thawed.
#[derive(Debug, Default)]
pub struct Freeze {
    /// The file system, and the time since boot at which it is thawed if nobody asks for it.
    frozen: Option<(File, Duration)>,
}

impl Freeze {
    /// Freezes it, for a limited time; asked again, for as long from now on. Says whether it is frozen.
    pub fn freeze(&mut self, own: Option<&File>) -> bool {
        let until = since_boot() + Duration::from_secs(FREEZE_LIMIT_S);
        if let Some((_, before)) = &mut self.frozen {
            *before = until;
            return true;
        }
        // What is in memory alone need not be.
        let Some(Ok(own)) = own.map(File::try_clone) else { return false };
        let mut unused = 0;
        // SAFETY: the descriptor is open, and the argument, which the kernel leaves alone, lives longer than the call.
        match unsafe { fi_freeze(own.as_raw_fd(), &raw mut unused) } {
            Ok(_) => {
                self.frozen = Some((own, until));
                true
            }
            Err(errno) => {
                console::error(&format!("cannot freeze the file system of the guest's disk: {errno}"));
                false
            }
        }
    }

    /// When it is to be thawed; none if it is not frozen.
    pub fn deadline(&self) -> Option<Duration> {
        self.frozen.as_ref().map(|(_, until)| *until)
    }

    /// Thaws it if nobody has asked for that in time.
    pub fn look(&mut self) {
        if self.deadline().is_some_and(|until| until <= since_boot()) {
            console::notice("nobody asked for the guest's disk to be thawed: it is");
            self.thaw();
        }
    }

    /// Thaws it.
    pub fn thaw(&mut self) {
        let Some((own, _)) = self.frozen.take() else { return };
        let mut unused = 0;
        // SAFETY: as above.
        if let Err(errno) = unsafe { fi_thaw(own.as_raw_fd(), &raw mut unused) } {
            // Somebody else in the guest has done it.
            console::notice(&format!("the file system of the guest's disk was thawed already: {errno}"));
        }
    }
}

impl Drop for Freeze {
    fn drop(&mut self) {
        self.thaw();
    }
}
