//! Whose a disk is: a file that a guest writes is locked for that guest alone, one that guests only read by all of them.

use std::fs::{File, TryLockError};
use std::io;
use std::thread;
use std::time::{Duration, Instant};

/// How long a disk may be held by a guest that has ended: the kernel closes an io_uring, and with it the disk that is
/// registered there, a moment after its process is gone.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time between two tries.
const INTERVAL: Duration = Duration::from_millis(10);

/// Locks `file` for as long as it, or a copy of its descriptor, is open.
///
/// # Errors
/// Another guest has it; one sentence.
pub fn lock(file: &File, shared: bool) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match if shared { file.try_lock_shared() } else { file.try_lock() } {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(INTERVAL),
            Err(TryLockError::WouldBlock) => {
                let sentence = "it is used by another guest: give each guest its own";
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, sentence));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}
