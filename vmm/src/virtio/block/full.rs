//! Requests for which the host has no room: they wait, and are begun anew until there is some. The guest sees a disk that is
//! slow, never one that fails: a file system that is told of an error gives up, and what it had in memory is lost.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use vmm_sys_util::timerfd::TimerFd;

use super::request::{Kind, Operation};

/// Time between two tries.
const PAUSE: Duration = Duration::from_secs(1);

/// Those that wait, by their heads.
#[derive(Debug)]
pub struct Full<T> {
    waiting: Vec<(u16, T)>,
    timer: TimerFd,
}

impl<T> Full<T> {
    /// None.
    ///
    /// # Errors
    /// The host gives no timer.
    pub fn new() -> io::Result<Self> {
        let timer = TimerFd::new().map_err(io::Error::from)?;
        // Read only to take its signal away; that must not wait.
        // SAFETY: fcntl with these takes numbers only.
        if unsafe { libc::fcntl(timer.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { waiting: Vec::new(), timer })
    }

    /// One more. Without a timer it cannot wait, and comes back.
    pub fn hold(&mut self, head: u16, request: T) -> Result<(), T> {
        if self.timer.reset(PAUSE, None).is_err() {
            return Err(request);
        }
        self.waiting.push((head, request));
        Ok(())
    }

    /// All of them, to be tried again.
    pub fn take(&mut self) -> Vec<(u16, T)> {
        // One that has not fired has nothing to read.
        let _ = self.timer.wait();
        std::mem::take(&mut self.waiting)
    }

    /// Whether this one waits.
    pub fn has(&self, head: u16) -> bool {
        self.waiting.iter().any(|(waiting, _)| *waiting == head)
    }

    /// Becomes readable when it is time to try again.
    pub fn source(&self) -> BorrowedFd<'_> {
        // SAFETY: the timer owns the descriptor and lives as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(self.timer.as_raw_fd()) }
    }
}

/// Whether a piece failed for want of room, so that the same may succeed later. A flush that failed must be told: what
/// it was about is lost, and the next one would succeed.
pub fn is_want_of_room(piece: Operation, result: &io::Result<u64>) -> bool {
    match (piece.kind, result) {
        (Kind::Write | Kind::WriteZeroes { .. }, Err(error)) => {
            matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
        }
        // The rest had no room.
        (Kind::Write, Ok(moved)) => *moved < piece.length,
        _ => false,
    }
}
