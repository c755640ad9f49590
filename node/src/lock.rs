//! One VMM a guest, whoever dies when.
//!
//! The run directory of a guest holds a file `lock`. The daemon takes an exclusive flock(2) on it before it starts a
//! VMM, and the VMM inherits the open file. Such a lock belongs to the open file, not to a process: it is held as long as
//! the VMM lives, and gone the moment it is not, even after `kill -9` of both. A daemon that finds it taken knows that
//! the guest runs, also in the moment before the control socket exists.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// Name of the file in the run directory.
const LOCK_FILE: &str = "lock";

/// What the lock tells.
#[derive(Debug)]
pub enum Lock {
    /// No VMM runs; now the lock is ours until the file is closed, to be handed to a VMM.
    Free(File),
    /// A VMM runs.
    Taken,
}

/// Tries to take the lock of the guest with this run directory.
///
/// # Errors
/// The file cannot be opened or locked.
pub fn take(run: &Path) -> io::Result<Lock> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(run.join(LOCK_FILE))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock::Free(file)),
        Err(TryLockError::WouldBlock) => Ok(Lock::Taken),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// A descriptor of the locked file that a child inherits. When the caller closes its own two, once the child runs, the
/// child alone holds the lock.
///
/// # Errors
/// There are no descriptors left.
pub fn inheritable(lock: &File) -> io::Result<OwnedFd> {
    let copy: OwnedFd = lock.try_clone()?.into();
    fcntl(&copy, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn the_child_holds_the_lock_as_long_as_it_lives() {
        let run = tempfile::tempdir().unwrap();
        let Lock::Free(lock) = take(run.path()).unwrap() else { panic!("nobody has it yet") };
        assert!(matches!(take(run.path()).unwrap(), Lock::Taken));

        let inherited = inheritable(&lock).unwrap();
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        drop((inherited, lock));
        assert!(matches!(take(run.path()).unwrap(), Lock::Taken), "the child has it");

        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(take(run.path()).unwrap(), Lock::Free(_)), "it went with the child");
    }
}
