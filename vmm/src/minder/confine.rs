//! What a minder gives up once its VMM is started. It stays root, for the files that it writes and removes are root's; a
//! guest that should get as far as to the minder finds little to do with that.

use nix::sys::prctl;
use nix::unistd::Pid;

use crate::error::{Error, Result};
use crate::jail::capabilities::{self, DAC_OVERRIDE, KILL};
use crate::jail::seccomp;

/// What it needs of root's capabilities. By the one it ends its VMM, which has another user: with a signal that it hands
/// on, and with its own death, whose signal the kernel checks as if the minder had sent it. By the other it leaves the
/// exit file in a directory of a developer's.
const KEPT: [u8; 2] = [KILL, DAC_OVERRIDE];

/// Gives up every other capability for good. To be called while there is one thread: those that it starts have no more.
pub(super) fn drop_capabilities() -> Result<()> {
    capabilities::empty_bounding_set()
        .and_then(|()| capabilities::keep(&KEPT))
        .map_err(Error::jail("drop the minder's capabilities"))?;
    prctl::set_no_new_privs().map_err(Error::jail("forbid the minder new privileges"))
}

/// Binds all threads to what is left to be done: to wait for `vmm`, copy its console, write down its end and clean up.
pub(super) fn bind(vmm: Pid) -> Result<()> {
    seccomp::bind_minder(vmm)
}
