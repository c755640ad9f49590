//! The tap interface (Linux `Documentation/networking/tuntap.rst`), or a macvtap, which has a device of its own and the same
//! requests (drivers/net/tap.c) but for the filter: by itself it takes in its own address and what is for several.
//!
//! What a guest writes to it, virtio header and frame, is the host's kernel's to judge: the tun driver refuses headers
//! that reach beyond the frame or name an unknown kind of segment, and nothing here looks at them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::net::if_::if_nametoindex;
use thimble_spec::names::macvtap_device;

use super::config;
use crate::error::{Error, Result};

/// `TUNSETIFF` (linux/if_tun.h).
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
/// `TUNSETOFFLOAD` (linux/if_tun.h).
const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0;
/// `TUNSETTXFILTER` (linux/if_tun.h).
const TUNSETTXFILTER: libc::Ioctl = 0x4004_54d1;
/// `TUNSETVNETHDRSZ` (linux/if_tun.h).
const TUNSETVNETHDRSZ: libc::Ioctl = 0x4004_54d8;
/// `TUNSETQUEUE` (linux/if_tun.h).
const TUNSETQUEUE: libc::Ioctl = 0x4004_54d9;
/// Our kind of interface (linux/if_tun.h).
const FLAGS: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// What the driver takes, and what the host calls it (`TUN_F_*`, linux/if_tun.h): a row holds if all of its features
/// are taken. Segmentation rests on checksums, and congestion notification on segmentation (virtio 1.2, section
/// 5.1.3.1); the tun driver knows UDP segmentation for both protocols or neither.
const OFFLOADS: [(u64, libc::c_ulong); 7] = [
    (config::F_GUEST_CSUM, 0x01),
    (config::F_GUEST_CSUM | config::F_GUEST_TSO4, 0x02),
    (config::F_GUEST_CSUM | config::F_GUEST_TSO6, 0x04),
    (config::F_GUEST_CSUM | config::F_GUEST_TSO4 | config::F_GUEST_ECN, 0x08),
    (config::F_GUEST_CSUM | config::F_GUEST_TSO6 | config::F_GUEST_ECN, 0x08),
    (config::F_GUEST_CSUM | config::F_GUEST_UFO, 0x10),
    (config::F_GUEST_CSUM | config::F_GUEST_USO4 | config::F_GUEST_USO6, 0x60),
];

/// Features that not every host has: what a driver takes, by which the host is asked, and all that is offered then. UDP
/// segmentation came with Linux 6.2.
const OPTIONAL: [(u64, u64); 2] = [
    (config::F_GUEST_UFO, config::F_GUEST_UFO | config::F_HOST_UFO),
    (config::F_GUEST_USO4 | config::F_GUEST_USO6, config::F_GUEST_USO4 | config::F_GUEST_USO6 | config::F_HOST_USO),
];

/// Bytes of `struct virtio_net_hdr` with `num_buffers` (virtio 1.2, section 5.1.6).
pub const HEADER_BYTES: usize = 12;

/// Unicast addresses that the tun driver's filter takes; with more it lets everything pass (`FLT_EXACT_COUNT`,
/// drivers/net/tun.c).
const FILTER_UNICAST_MOST: usize = 8;

/// An open tap interface: a queue for each pair of the device's, of which the first [`Tap::pairs`] are in use.
#[derive(Debug)]
pub struct Tap {
    queues: Vec<File>,
    is_tap: bool,
    features: u64,
    pairs: AtomicUsize,
}

impl Tap {
    /// Opens `pairs` queues of the interface `name`, which must exist: one that vanished with its last user would have
    /// lost its bridge.
    ///
    /// # Errors
    /// There is none, it is no tap, it was made for fewer queues, or it was made for one and somebody else uses it. One
    /// that was made for several takes several users, and shares its packets out among them: to see that there is one
    /// is for whoever starts VMMs.
    pub fn open(name: &str, pairs: u8) -> Result<Self> {
        thimble_spec::names::check_interface(name).map_err(|error| Error::Config(error.to_string()))?;
        let error = |action| move |source| Error::Tap { action, tap: name.to_owned(), source };
        if_nametoindex(name).map_err(|errno| error("find")(errno.into()))?;
        let (first, several) = attach_first(name)?;
        if pairs > 1 && !several {
            return Err(Error::Config(format!(
                "the tap interface {name} has one queue, and the guest was given {pairs} queue pairs: make it with \
                 `ip tuntap add {name} mode tap multi_queue`, or give the guest one pair"
            )));
        }
        let mut queues = vec![first];
        for _ in 1..pairs {
            let queue = attach(name, FLAGS | libc::IFF_MULTI_QUEUE).map_err(error("open another queue of"))?;
            set_queue(&queue, false).map_err(error("rest a queue of"))?;
            queues.push(queue);
        }
        let size = HEADER_BYTES as libc::c_int;
        // SAFETY: TUNSETVNETHDRSZ reads one int.
        check(unsafe { libc::ioctl(queues[0].as_raw_fd(), TUNSETVNETHDRSZ, &raw const size) })
            .map_err(error("set the header size of"))?;
        let mut tap = Self { queues, is_tap: true, features: 0, pairs: AtomicUsize::new(1) };
        for (taken, offered) in OPTIONAL {
            // The host is asked by trying.
            if tap.set_offloads(config::F_GUEST_CSUM | taken).is_ok() {
                tap.features |= offered;
            }
        }
        tap.set_offloads(0).map_err(error("set the offloads of"))?;
        // A filter stays with a persistent interface: its last user's is no business of ours.
        tap.set_filter(None);
        Ok(tap)
    }

    /// A wire of descriptors that keep messages apart, such as datagram sockets, one for each pair of queues: for
    /// tests, benches and fuzzing.
    #[cfg(any(test, feature = "testing"))]
    pub fn on(queues: Vec<File>) -> Self {
        let features = OPTIONAL.iter().fold(0, |all, (_, offered)| all | offered);
        Self { queues, is_tap: false, features, pairs: AtomicUsize::new(1) }
    }

    /// Features that this host's taps have beyond those that all have.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// The queue of a pair.
    pub fn queue(&self, pair: usize) -> BorrowedFd<'_> {
        self.file(pair).as_fd()
    }

    /// The same as a file.
    pub fn file(&self, pair: usize) -> &File {
        // The device has as many lanes as there are queues.
        &self.queues[pair]
    }

    /// How many queues there are.
    pub fn most_pairs(&self) -> usize {
        self.queues.len()
    }

    /// How many queues are in use.
    pub fn pairs(&self) -> usize {
        self.pairs.load(Ordering::SeqCst)
    }

    /// Lets the host use the first `pairs` queues. One caller at a time: the control queue's lane, and a driver's start
    /// and end, when that lane rests.
    ///
    /// # Errors
    /// There are not so many, or none are asked for; the host refuses.
    pub fn use_pairs(&self, pairs: usize) -> io::Result<()> {
        if pairs == 0 || pairs > self.queues.len() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        loop {
            let now = self.pairs();
            let next = match now.cmp(&pairs) {
                std::cmp::Ordering::Equal => return Ok(()),
                std::cmp::Ordering::Less => now + 1,
                std::cmp::Ordering::Greater => now - 1,
            };
            if self.is_tap {
                set_queue(&self.queues[now.min(next)], next > now)?;
            }
            self.pairs.store(next, Ordering::SeqCst);
        }
    }

    /// Tells the host what the driver takes, given its features.
    ///
    /// # Errors
    /// The host cannot.
    pub fn set_offloads(&self, features: u64) -> io::Result<()> {
        if !self.is_tap {
            return Ok(());
        }
        // SAFETY: TUNSETOFFLOAD takes a number.
        check(unsafe { libc::ioctl(self.queues[0].as_raw_fd(), TUNSETOFFLOAD, offloads(features)) })
    }

    /// Tells the host which addresses the driver wants: the first unicast, then multicast; none given is all. The host
    /// tells multicast addresses apart by a hash, and lets some others pass. A host that cannot lets all pass.
    pub fn set_filter(&self, addresses: Option<&[[u8; 6]]>) {
        if !self.is_tap {
            return;
        }
        let request = tun_filter(addresses.unwrap_or_default());
        // SAFETY: TUNSETTXFILTER reads a `struct tun_filter` and as many addresses as that says.
        let _ = unsafe { libc::ioctl(self.queues[0].as_raw_fd(), TUNSETTXFILTER, request.as_ptr()) };
    }
}

/// `struct tun_filter` (linux/if_tun.h): flags, count, addresses. With no address everything passes.
fn tun_filter(addresses: &[[u8; 6]]) -> Vec<u8> {
    let unicast = addresses.iter().filter(|mac| mac[0] & 1 == 0).count();
    let addresses = if unicast > FILTER_UNICAST_MOST { &[] } else { addresses };
    let mut request = vec![0; 2];
    request.extend_from_slice(&(addresses.len() as u16).to_ne_bytes());
    request.extend_from_slice(addresses.as_flattened());
    request
}

fn offloads(features: u64) -> libc::c_ulong {
    let holds = |(needed, _): &&(u64, libc::c_ulong)| features & needed == *needed;
    OFFLOADS.iter().filter(holds).fold(0, |all, (_, offload)| all | offload)
}

/// Attaches to the interface with one queue; says whether it may have several. The flags must be those with which it
/// was made, and only trying tells.
fn attach_first(name: &str) -> Result<(File, bool)> {
    let error = |source| Error::Tap { action: "attach to", tap: name.to_owned(), source };
    match attach(name, FLAGS | libc::IFF_MULTI_QUEUE) {
        Ok(file) => Ok((file, true)),
        Err(source) if source.raw_os_error() == Some(libc::EINVAL) => {
            attach(name, FLAGS).map(|file| (file, false)).map_err(error)
        }
        Err(source) => Err(error(source)),
    }
}

fn attach(name: &str, flags: libc::c_int) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(device(name))?;
    // A macvtap does not look at the name.
    let mut request = request(flags);
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: TUNSETIFF reads and writes one ifreq.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) })?;
    Ok(file)
}

/// What the interface is opened by: macvtaps have a device each.
fn device(name: &str) -> PathBuf {
    let own = if_nametoindex(name).map(|index| PathBuf::from(macvtap_device(index)));
    own.ok().filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from("/dev/net/tun"))
}

/// Lets the host give packets to this queue, or not.
fn set_queue(queue: &File, used: bool) -> io::Result<()> {
    let request = request(if used { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE });
    // SAFETY: TUNSETQUEUE reads one ifreq.
    check(unsafe { libc::ioctl(queue.as_raw_fd(), TUNSETQUEUE, &raw const request) })
}

fn request(flags: libc::c_int) -> libc::ifreq {
    // SAFETY: an ifreq of zeros is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    request
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
pub(super) mod tests;
