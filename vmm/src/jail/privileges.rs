//! From root to nobody, for good.

use std::io;

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use thimble_spec::vmm::Jail;

use super::{Failure, failed};

/// Most open descriptors: a few a device, and two a connection of the socket device.
const DESCRIPTORS: u64 = 4096;
/// `_LINUX_CAPABILITY_VERSION_3` (linux/capability.h).
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// More than the kernel has capabilities: the first that it does not know ends the loop.
const CAPABILITIES: libc::c_ulong = 64;

/// `struct __user_cap_header_struct` (linux/capability.h).
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

/// Two of `struct __user_cap_data_struct` (linux/capability.h): effective, permitted, inheritable; low, high.
type CapabilityData = [[u32; 3]; 2];

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

    drop_bounding_set().map_err(failed("drop capabilities"))?;
    setgroups(&[]).map_err(failed("leave its groups"))?;
    let (uid, gid) = (Uid::from_raw(jail.uid), Gid::from_raw(jail.gid));
    setresgid(gid, gid, gid).map_err(failed("change its group"))?;
    setresuid(uid, uid, uid).map_err(failed("change its user"))?;
    // The change of user took them; this holds for whatever a kernel's option may have kept.
    clear_capabilities().map_err(failed("drop capabilities"))?;
    prctl::set_no_new_privs().map_err(failed("forbid new privileges"))?;
    // Nobody of the same user may trace it, or read its memory.
    prctl::set_dumpable(false).map_err(failed("forbid tracing"))?;
    // The change of user has undone what the minder asked for (prctl(2)).
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(failed("tie its life to its minder's"))
}

fn drop_bounding_set() -> io::Result<()> {
    for capability in 0..CAPABILITIES {
        // SAFETY: prctl with these takes numbers only.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            let error = io::Error::last_os_error();
            return if error.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(error) };
        }
    }
    Ok(())
}

fn clear_capabilities() -> io::Result<()> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let data: CapabilityData = [[0; 3]; 2];
    // SAFETY: header and data have the layout that this version asks for, and live through the call.
    match unsafe { libc::syscall(libc::SYS_capset, &raw const header, &raw const data) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
