//! The terminal of whoever asks.

use std::io::stdin;
use std::os::fd::AsFd;

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// The terminal in raw mode, while this lives.
pub struct Raw(Termios);

impl Raw {
    /// None if there is no terminal.
    pub fn start() -> Option<Self> {
        let before = tcgetattr(stdin().as_fd()).ok()?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(stdin().as_fd(), SetArg::TCSANOW, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // There is nothing else to be done for a terminal that is gone.
        let _ = tcsetattr(stdin().as_fd(), SetArg::TCSANOW, &self.0);
    }
}

/// Rows and columns of the terminal, if there is one that has a size.
pub fn size() -> Option<(u16, u16)> {
    nix::ioctl_read_bad!(get_size, nix::libc::TIOCGWINSZ, nix::libc::winsize);
    // SAFETY: a size of zeros is one, and the call writes one.
    unsafe {
        let mut size: nix::libc::winsize = std::mem::zeroed();
        get_size(nix::libc::STDIN_FILENO, &raw mut size).ok()?;
        (size.ws_row > 0).then_some((size.ws_row, size.ws_col))
    }
}
