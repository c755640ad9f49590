//! Capabilities (capabilities(7)), which are a thread's own: to be given up while there is one.

use std::io;

/// `_LINUX_CAPABILITY_VERSION_3` (linux/capability.h).
const VERSION: u32 = 0x2008_0522;
/// More than the kernel has capabilities: the first that it does not know ends the loop.
const MOST: libc::c_ulong = 64;

/// `CAP_DAC_OVERRIDE` (linux/capability.h): files whatever their mode is.
pub const DAC_OVERRIDE: u8 = 1;
/// `CAP_KILL` (linux/capability.h): signals to processes of other users.
pub const KILL: u8 = 5;

/// `struct __user_cap_header_struct` (linux/capability.h).
#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

/// `struct __user_cap_data_struct` (linux/capability.h), one for each 32 of them.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Gives up every capability but those of `kept` that it has.
pub(crate) fn keep(kept: &[u8]) -> io::Result<()> {
    let mut header = Header { version: VERSION, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: header and data have the layout that this version asks for, and live through the call.
    if unsafe { libc::syscall(libc::SYS_capget, &raw mut header, &raw mut data) } != 0 {
        return Err(io::Error::last_os_error());
    }
    for (word, data) in (0..).zip(&mut data) {
        let wanted =
            kept.iter().filter(|number| **number / 32 == word).fold(0, |bits, number| bits | 1 << (number % 32));
        let permitted = data.permitted & wanted;
        // Without the inheritable ones the ambient ones go too.
        *data = Data { effective: permitted, permitted, inheritable: 0 };
    }
    // SAFETY: as above.
    match unsafe { libc::syscall(libc::SYS_capset, &raw const header, &raw const data) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives up every way to get a capability by running a program. It takes `CAP_SETPCAP` itself.
pub(crate) fn empty_bounding_set() -> io::Result<()> {
    for capability in 0..MOST {
        // SAFETY: prctl with these takes numbers only.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            let error = io::Error::last_os_error();
            return if error.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(error) };
        }
    }
    Ok(())
}
