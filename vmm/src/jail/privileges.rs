//! From root to nobody, for good.

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use thimble_spec::vmm::Jail;

use super::{Failure, capabilities, failed};

/// Most open descriptors: a few a device, and two a connection of the socket device.
const DESCRIPTORS: u64 = 4096;

/// Becomes the jail's user and group, without capabilities and without a way back.
pub(super) fn drop_all(jail: &Jail) -> Result<(), Failure> {
    let limit = |resource, most: u64| {
        let (_, hard) = getrlimit(resource)?;
        let most = most.min(hard);
        setrlimit(resource, most, most)
    };
    limit(Resource::RLIMIT_NOFILE, DESCRIPTORS).map_err(failed("limit its descriptors"))?;
    // A core file would hold the guest's memory.
    limit(Resource::RLIMIT_CORE, 0).map_err(failed("forbid core files"))?;

    capabilities::empty_bounding_set().map_err(failed("drop capabilities"))?;
    setgroups(&[]).map_err(failed("leave its groups"))?;
    let (uid, gid) = (Uid::from_raw(jail.uid), Gid::from_raw(jail.gid));
    setresgid(gid, gid, gid).map_err(failed("change its group"))?;
    setresuid(uid, uid, uid).map_err(failed("change its user"))?;
    // The change of user took them; this holds for whatever a kernel's option may have kept.
    capabilities::keep(&[]).map_err(failed("drop capabilities"))?;
    prctl::set_no_new_privs().map_err(failed("forbid new privileges"))?;
    // Nobody of the same user may trace it, or read its memory.
    prctl::set_dumpable(false).map_err(failed("forbid tracing"))?;
    // The change of user has undone what the minder asked for (prctl(2)).
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(failed("tie its life to its minder's"))
}
