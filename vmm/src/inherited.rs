//! Descriptors that came with the process.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// The first behind standard input, output and error.
const FIRST: u32 = 3;

/// Closes them, but for the standard ones and `hold`, which it gives back.
///
/// # Errors
/// The host refuses; `hold` is not open.
pub fn close_all_but(hold: Option<RawFd>) -> io::Result<Option<OwnedFd>> {
    let Some(hold) = hold else { return close_range(FIRST, u32::MAX).map(|()| None) };
    // SAFETY: the call takes numbers only.
    if unsafe { libc::fcntl(hold, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let number = u32::try_from(hold).map_err(io::Error::other)?;
    if number > FIRST {
        close_range(FIRST, number - 1)?;
    }
    close_range(FIRST.max(number + 1), u32::MAX)?;
    // SAFETY: it is open, and whoever started this process meant it for us alone.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(hold) }))
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: nothing of this process uses these descriptors yet: they are what its parent left open.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
