//! What PID 1 says: contract lines on the console, everything else in the kernel's log.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, write};
use thimble_spec::console::Line;

use crate::error::{Doing, Error, Result};

/// The kernel's console, whichever `console=` names last.
pub const CONSOLE: &str = "/dev/console";

/// Whether something was printed already.
static PRINTED: AtomicBool = AtomicBool::new(false);

/// Makes the console standard input, output and error. Children inherit it.
pub fn attach() -> Result<()> {
    let console = open(CONSOLE, OFlag::O_RDWR | OFlag::O_NOCTTY, Mode::empty())
        .doing(|| format!("open {CONSOLE}: does console= on the kernel command line name a device?"))?;
    dup2_stdin(&console).and(dup2_stdout(&console)).and(dup2_stderr(&console)).doing(|| format!("attach {CONSOLE}"))
}

/// Prints a contract line.
pub fn line(line: &Line) {
    text(&line.to_string());
}

/// Prints `thimble: error SENTENCE`.
pub fn error(sentence: &str) {
    line(&Line::Error { sentence });
}

/// Prints an error in the same form, and goes on.
pub fn failed(error: &Error) {
    self::error(&error.sentence());
}

/// Prints one line by one `write`, so that it is not cut by another process's. The first one starts on a new line:
/// firmware leaves the cursor behind its last word.
pub fn text(text: &str) {
    #[cfg(feature = "host")]
    log::keep(text);
    relay(text);
}

/// The same for what is kept elsewhere, or not worth keeping.
pub fn relay(text: &str) {
    let first = !PRINTED.swap(true, Ordering::Relaxed);
    let line = format!("{}{text}\n", if first { "\n" } else { "" });
    // Where the console cannot be written, there is nobody left to tell.
    let _ = write(std::io::stdout().as_fd(), line.as_bytes());
}

#[cfg(feature = "host")]
pub use log::said;

/// What was said and is not in the host's log yet.
#[cfg(feature = "host")]
mod log {
    use std::sync::Mutex;

    /// So many lines wait at most: a turn says less.
    const WAITING_MAX: usize = 256;

    static WAITING: Mutex<Vec<String>> = Mutex::new(Vec::new());

    /// Keeps a line until it is asked for. A panic that holds the lock has other worries.
    pub fn keep(text: &str) {
        if let Ok(mut waiting) = WAITING.try_lock()
            && waiting.len() < WAITING_MAX
        {
            waiting.push(text.to_owned());
        }
    }

    /// What was said since the last time.
    pub fn said() -> Vec<String> {
        WAITING.try_lock().map(|mut waiting| std::mem::take(&mut *waiting)).unwrap_or_default()
    }
}

/// Writes a notice to the kernel's log, where `quiet` hides it.
pub fn notice(text: &str) {
    // The prefix is syslog's: facility user (1 << 3), severity informational (6).
    if let Ok(mut log) = OpenOptions::new().write(true).open("/dev/kmsg") {
        let _ = log.write_all(format!("<14>init: {text}\n").as_bytes());
    }
}
