//! A pair of queues whose packets the host's kernel moves (vhost-net, linux/vhost.h).
//!
//! The kernel reads the rings in guest memory, is woken by the same events as a lane would be, and raises the device's
//! interrupt line itself. What remains for the lane's thread is the control queue, and the end of a device whose driver
//! broke the rules: those of the ring are the kernel's to check then, and it checks every address against the table of
//! guest memory that it was given.
//!
//! # Where the filter is
//! No packet passes through here, so that filters are the tap's ([`super::tap::Tap::set_filter`]), exact for a few
//! unicast addresses and by hash for multicast; packets larger than the MTU are kept away by the tap's own MTU.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use vhost::vhost_kern::VhostKernBackend;
use vhost::vhost_kern::vhost_binding::{VHOST_NET_SET_BACKEND, vhost_vring_file};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::ioctl::ioctl_with_ref;

use super::config::F_MRG_RXBUF;
use super::control;
use super::port::Port;
use super::queues::{CONTROL, Place, RX, Role, TX};
use crate::jail::seccomp::Duty;
use crate::virtio::registers::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1};
use crate::virtio::ring::{Ring, RingError};
use crate::virtio::{Lane, Progress, Service, Wake};

/// Where the host's kernel offers it.
pub const PATH: &str = "/dev/vhost-net";
/// What a driver may take and the kernel must know: all that touches the rings.
const NEEDED: u64 = F_MRG_RXBUF | F_INDIRECT_DESC | F_EVENT_IDX | F_VERSION_1;

/// Opens vhost-net, once for each of `pairs`.
///
/// # Errors
/// The host's kernel has none, denies it, or has one that knows too little.
pub fn open(pairs: u8) -> io::Result<Vec<File>> {
    (0..pairs).map(|_| open_one()).collect()
}

fn open_one() -> io::Result<File> {
    let device = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(PATH)?;
    let features = Vhost { device: &device, memory: &GuestMemoryMmap::new() }.get_features().map_err(to_io)?;
    if features & NEEDED == NEEDED { Ok(device) } else { Err(io::ErrorKind::Unsupported.into()) }
}

/// A vhost device and the memory that it works in, for calls to it.
struct Vhost<'a> {
    device: &'a File,
    memory: &'a GuestMemoryMmap,
}

impl AsRawFd for Vhost<'_> {
    fn as_raw_fd(&self) -> RawFd {
        self.device.as_raw_fd()
    }
}

impl<'a> VhostKernBackend for Vhost<'a> {
    type AS = &'a GuestMemoryMmap;

    fn mem(&self) -> &Self::AS {
        &self.memory
    }

    /// [`ring`] has looked.
    fn is_valid(&self, _: &VringConfigData) -> bool {
        true
    }
}

impl Vhost<'_> {
    /// Makes a new device this process's and tells it what guest memory is.
    fn set_up(&self, owned: &mut bool, features: u64) -> io::Result<()> {
        if !*owned {
            self.set_owner().map_err(to_io)?;
            *owned = true;
        }
        let region = |region: &vm_memory::GuestRegionMmap| {
            let start = region.start_addr();
            let host = self.memory.get_host_address(start).map_err(io::Error::other)?;
            Ok(VhostUserMemoryRegionInfo {
                guest_phys_addr: start.raw_value(),
                memory_size: region.len(),
                userspace_addr: host as u64,
                ..Default::default()
            })
        };
        let table = self.memory.iter().map(region).collect::<io::Result<Vec<_>>>()?;
        self.set_features(features & NEEDED).map_err(to_io)?;
        self.set_mem_table(&table).map_err(to_io).map(|_| ())
    }

    /// Hands queue `index` over, which then runs between the driver and `tap`.
    fn hand_over(&self, index: usize, ring: &Ring, broken: &EventFd, tap: BorrowedFd<'_>) -> io::Result<()> {
        let place = place(&ring.queue, self.memory)?;
        self.set_vring_num(index, place.queue_size).map_err(to_io)?;
        self.set_vring_addr(index, &place).map_err(to_io)?;
        self.set_vring_base(index, ring.queue.next_avail()).map_err(to_io)?;
        self.set_vring_call(index, ring.interrupt().line()).map_err(to_io)?;
        self.set_vring_err(index, broken).map_err(to_io)?;
        self.set_vring_kick(index, ring.kick()).map_err(to_io)?;
        self.set_backend(index, Some(tap))
    }

    /// Connects a queue with a tap, or with nothing; that returns when the kernel is done with the queue's buffers.
    fn set_backend(&self, index: usize, tap: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let file = vhost_vring_file { index: index as u32, fd: tap.map_or(-1, |tap| tap.as_raw_fd()) };
        // SAFETY: VHOST_NET_SET_BACKEND reads one vhost_vring_file.
        match unsafe { ioctl_with_ref(self, VHOST_NET_SET_BACKEND(), &file) } {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Where a ring lies. Each of its parts must be in one region of guest memory: regions that touch in the guest need not
/// touch in this process, and the kernel goes by addresses of this process.
fn place(queue: &Queue, memory: &GuestMemoryMmap) -> io::Result<VringConfigData> {
    let size = usize::from(queue.size());
    // Bytes of each part with event indices (virtio 1.2, section 2.7).
    for (start, bytes) in
        [(queue.desc_table(), 16 * size), (queue.avail_ring(), 6 + 2 * size), (queue.used_ring(), 6 + 8 * size)]
    {
        memory.get_slice(GuestAddress(start), bytes).map_err(|_| io::Error::from_raw_os_error(libc::EFAULT))?;
    }
    Ok(VringConfigData {
        queue_max_size: queue.max_size(),
        queue_size: queue.size(),
        desc_table_addr: queue.desc_table(),
        avail_ring_addr: queue.avail_ring(),
        used_ring_addr: queue.used_ring(),
        ..Default::default()
    })
}

fn to_io(error: vhost::Error) -> io::Error {
    match error {
        vhost::Error::IoctlError(error) => error,
        other => io::Error::other(other),
    }
}

/// The lane of a pair of queues that the host's kernel serves.
pub struct KernelPair {
    place: Place,
    port: Arc<Port>,
    device: File,
    /// The device belongs to this process: from the first start on, for a process that is to be jailed may have become
    /// another one after it opened the device.
    owned: bool,
    role: Role,
    /// Signalled when the kernel finds that the driver broke the rules.
    broken: EventFd,
}

impl KernelPair {
    /// A lane on one of the devices that [`open`] gave.
    ///
    /// # Errors
    /// The host gives no event descriptor.
    pub fn new(place: Place, port: Arc<Port>, device: File) -> io::Result<Self> {
        let broken = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        Ok(Self { place, port, device, owned: false, role: Role::None, broken })
    }

    fn hand_over(&mut self, features: u64, rings: &[Ring], memory: &GuestMemoryMmap) -> io::Result<()> {
        let vhost = Vhost { device: &self.device, memory };
        vhost.set_up(&mut self.owned, features)?;
        for index in [RX, TX] {
            if rings[index].is_ready() {
                rings[index].interrupt().raised_elsewhere();
                vhost.hand_over(index, &rings[index], &self.broken, self.port.wire(self.place.pair))?;
            }
        }
        Ok(())
    }

    fn take_back(&self) {
        let vhost = Vhost { device: &self.device, memory: &GuestMemoryMmap::new() };
        for index in [RX, TX] {
            // A queue that was not handed over cannot be taken back, which is as well.
            let _ = vhost.set_backend(index, None);
        }
    }
}

impl Lane for KernelPair {
    fn name(&self) -> String {
        self.place.name()
    }

    fn queues(&self) -> Vec<usize> {
        self.place.queues()
    }

    fn duty(&self) -> Duty {
        Duty::Net
    }

    fn watches(&self, queue: usize) -> bool {
        // What may be the control queue: behind the first pair's, or in place of the second pair's receive queue. The
        // kernel asks for kicks of that one only when it is out of buffers.
        match self.place.pair {
            0 => queue == CONTROL,
            pair => pair == 1 && queue == RX,
        }
    }

    fn sources(&self) -> Vec<BorrowedFd<'_>> {
        // SAFETY: the event owns the descriptor and lives as long as the borrow.
        vec![unsafe { BorrowedFd::borrow_raw(self.broken.as_raw_fd()) }]
    }

    fn start(&mut self, features: u64, rings: &mut [Ring], memory: &GuestMemoryMmap) -> io::Result<()> {
        self.role = Role::of(self.place.pair, features);
        if self.place.pair == 0 {
            self.port.start(features)?;
        }
        // What the last driver did is forgotten.
        let _ = self.broken.read();
        if self.role != Role::Packets {
            return Ok(());
        }
        self.hand_over(features, rings, memory).inspect_err(|_| self.take_back())
    }

    fn stop(&mut self) {
        if self.role == Role::Packets {
            self.take_back();
        }
        self.role = Role::None;
        if self.place.pair == 0 {
            self.port.stop();
        }
    }

    fn service(&mut self, wake: Wake, rings: &mut [Ring], memory: &GuestMemoryMmap) -> Service {
        match (self.role, wake) {
            (Role::Packets, Wake::Source(_)) if self.broken.read().is_ok() => Err(RingError::Kernel),
            (Role::Packets, Wake::Queue(CONTROL)) => control::serve(&self.port, &mut rings[CONTROL], memory),
            (Role::Control, Wake::Queue(RX)) => control::serve(&self.port, &mut rings[RX], memory),
            _ => Ok(Progress::Done),
        }
    }
}

#[cfg(test)]
mod tests;
