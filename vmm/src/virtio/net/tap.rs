//! The tap interface (Linux `Documentation/networking/tuntap.rst`).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use super::config;
use crate::error::{Error, Result};

/// `TUNSETIFF` (linux/if_tun.h).
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
/// `TUNSETOFFLOAD` (linux/if_tun.h).
const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0;
/// `TUNSETVNETHDRSZ` (linux/if_tun.h).
const TUNSETVNETHDRSZ: libc::Ioctl = 0x4004_54d8;
/// `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR` (linux/if_tun.h).
const FLAGS: libc::c_short = 0x0002 | 0x1000 | 0x4000;
/// `TUN_F_CSUM` (linux/if_tun.h).
const TUN_F_CSUM: libc::c_ulong = 1;
/// `TUN_F_TSO4` (linux/if_tun.h).
const TUN_F_TSO4: libc::c_ulong = 2;
/// `TUN_F_TSO6` (linux/if_tun.h).
const TUN_F_TSO6: libc::c_ulong = 4;

/// Bytes of `struct virtio_net_hdr` with `num_buffers` (virtio 1.2, section 5.1.6).
pub const HEADER_BYTES: usize = 12;

/// An open tap interface.
#[derive(Debug)]
pub struct Tap {
    file: File,
}

impl Tap {
    /// Opens the interface `name`, which must exist: one that vanished with its last user would have lost its bridge.
    ///
    /// # Errors
    /// There is none, it is no tap, or somebody else uses it.
    pub fn open(name: &str) -> Result<Self> {
        thimble_spec::names::check_interface(name).map_err(|error| Error::Config(error.to_string()))?;
        let error = |action| move |source| Error::Tap { action, tap: name.to_owned(), source };
        nix::net::if_::if_nametoindex(name).map_err(|errno| error("find")(errno.into()))?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .map_err(error("open /dev/net/tun for"))?;
        // SAFETY: an ifreq of zeros is a valid one.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = FLAGS;
        // SAFETY: TUNSETIFF reads and writes one ifreq.
        check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) }).map_err(error("attach to"))?;
        let size = HEADER_BYTES as libc::c_int;
        // SAFETY: TUNSETVNETHDRSZ reads one int.
        check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETVNETHDRSZ, &raw const size) })
            .map_err(error("set the header size of"))?;
        let tap = Self { file };
        tap.set_offloads(0).map_err(error("set the offloads of"))?;
        Ok(tap)
    }

    /// Tells the host what the driver takes, given its features.
    ///
    /// # Errors
    /// The host cannot.
    pub fn set_offloads(&self, features: u64) -> io::Result<()> {
        let mut offloads = 0;
        if features & config::F_GUEST_CSUM != 0 {
            offloads |= TUN_F_CSUM;
            // Segmentation rests on checksums (virtio 1.2, section 5.1.3.1).
            for (feature, offload) in [(config::F_GUEST_TSO4, TUN_F_TSO4), (config::F_GUEST_TSO6, TUN_F_TSO6)] {
                if features & feature != 0 {
                    offloads |= offload;
                }
            }
        }
        // SAFETY: TUNSETOFFLOAD takes a number.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), TUNSETOFFLOAD, offloads) })
    }

    /// A device on any descriptor that keeps messages apart, for tests.
    #[cfg(any(test, feature = "testing"))]
    pub fn on(file: File) -> Self {
        Self { file }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
