//! Ctrl-C and SIGTERM: whoever works looks at one flag, ends what it started and returns.
//!
//! Nothing is killed in the middle: temporary files go away as their owners are dropped, and [`crate::tool`] ends the
//! programs that it runs. A second signal ends the process at once.

use std::io;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::error::{Error, Result};

/// Code of a process that a second signal ends.
const EXIT_CODE: i32 = 130;

static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();

fn flag() -> &'static Arc<AtomicBool> {
    FLAG.get_or_init(Arc::default)
}

/// Starts to listen; once, at the start of the process.
///
/// # Errors
/// The kernel refuses the handlers.
pub fn install() -> io::Result<()> {
    for signal in [SIGINT, SIGTERM] {
        // Order matters: the first signal finds the flag unset, sets it, and only the second ends the process.
        signal_hook::flag::register_conditional_shutdown(signal, EXIT_CODE, Arc::clone(flag()))?;
        signal_hook::flag::register(signal, Arc::clone(flag()))?;
    }
    Ok(())
}

/// Whether somebody asked to stop.
pub fn requested() -> bool {
    flag().load(Ordering::Relaxed)
}

/// Takes the request back: for whoever has an orderly way to obey the first one, and wants to see the second.
pub fn forget() {
    flag().store(false, Ordering::Relaxed);
}

/// Stops here if somebody asked to: for loops that take longer than a moment.
///
/// # Errors
/// [`Error::Interrupted`].
pub fn check() -> Result<()> {
    if requested() { Err(Error::Interrupted) } else { Ok(()) }
}
