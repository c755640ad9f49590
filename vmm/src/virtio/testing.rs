//! A driver in miniature, for tests, fuzz targets and benches: it negotiates, lays out rings in a small memory, submits chains and looks at what
//! comes back. Rings and memory can be bent at will behind its back.

#![allow(clippy::unwrap_used, reason = "what fails here is the test, or its machine")]

pub mod loads;

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Arc;

use thimble_spec::vmm as spec;
use thimble_spec::vmm::DiskEngine;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::balloon::{self, Balloon};
use super::registers::{F_VERSION_1, offset, status};
use super::transport::Transport;
use super::{Progress, VirtioDevice, Wake, block::Block, console::ConsolePort, net::Net, rng::Rng};
use crate::console::{Console, Input};
use crate::sync::lock;

/// Bytes of the guest's memory.
pub const MEMORY: u64 = 1 << 20;
/// Descriptors of each ring.
pub const RING: u16 = 16;
/// Where buffers may lie: behind the rings.
pub const DATA: u64 = 0x4_0000;

/// Flags of a descriptor (virtio 1.2, section 2.7.5).
pub const NEXT: u16 = 1;
/// The device writes the buffer.
pub const WRITE: u16 = 2;
/// The buffer is a table of descriptors.
pub const INDIRECT: u16 = 4;

/// A driver and the device that it drives.
pub struct Driver {
    /// The guest's memory.
    pub memory: GuestMemoryMmap,
    /// The device.
    pub device: Arc<Transport>,
    available: Vec<u16>,
    seen: Vec<u16>,
    next: u16,
}

impl Driver {
    /// A driver that has not touched `device`, which has 20 queues at most: their rings fill the memory before
    /// [`DATA`].
    pub fn new(device: impl VirtioDevice + 'static) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).unwrap();
        let device = Arc::new(Transport::new(Box::new(device), memory.clone()).unwrap());
        let queues = device.kicks().len();
        Self { memory, device, available: vec![0; queues], seen: vec![0; queues], next: 0 }
    }

    /// Reads a register.
    pub fn read(&self, register: u64) -> u32 {
        let mut bytes = [0; 4];
        self.device.read(register, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Writes a register.
    pub fn write(&self, register: u64, value: u32) {
        self.device.write(register, &value.to_le_bytes());
    }

    /// Where a ring's descriptors, available and used ring are.
    pub fn ring(queue: usize) -> [u64; 3] {
        [0, 0x1000, 0x2000].map(|part| 0x3000 * (queue as u64 + 1) + part)
    }

    /// Takes `features`, sets up the queues, and goes live.
    pub fn start(&self, features: u64) {
        self.negotiate(features);
        self.set_up_queues();
        self.write(offset::STATUS, 15);
    }

    /// The same driver after it has reset its device, with `features`.
    pub fn restarted(mut self, features: u64) -> Self {
        self.write(offset::STATUS, 0);
        let queues = self.available.len();
        (self.available, self.seen, self.next) = (vec![0; queues], vec![0; queues], 0);
        for queue in 0..queues {
            for part in &Self::ring(queue)[1..] {
                self.memory.write_obj(0u32, GuestAddress(*part)).unwrap();
            }
        }
        self.start(features);
        self
    }

    /// Resets the device and takes `features`.
    pub fn negotiate(&self, features: u64) {
        let features = features | F_VERSION_1;
        self.write(offset::STATUS, 0);
        self.write(offset::STATUS, 1);
        self.write(offset::STATUS, 3);
        for (selector, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.write(offset::DRIVER_FEATURES_SEL, selector);
            self.write(offset::DRIVER_FEATURES, half);
        }
        self.write(offset::STATUS, 3 | status::FEATURES_OK);
    }

    /// Places the rings, all of them.
    pub fn set_up_queues(&self) {
        for queue in 0..self.device.kicks().len() {
            self.write(offset::QUEUE_SEL, queue as u32);
            self.write(offset::QUEUE_NUM, RING.into());
            let registers = [offset::QUEUE_DESC_LOW, offset::QUEUE_DRIVER_LOW, offset::QUEUE_DEVICE_LOW];
            for (register, address) in registers.into_iter().zip(Self::ring(queue)) {
                self.write(register, address as u32);
                self.write(register + 4, 0);
            }
            self.write(offset::QUEUE_READY, 1);
        }
    }

    /// Writes a descriptor.
    pub fn put_descriptor(&self, queue: usize, index: u16, address: u64, length: u32, flags: u16, next: u16) {
        let at = Self::ring(queue)[0] + u64::from(index) * 16;
        let rest = u64::from(length) | u64::from(flags) << 32 | u64::from(next) << 48;
        self.memory.write_obj(address, GuestAddress(at)).unwrap();
        self.memory.write_obj(rest, GuestAddress(at + 8)).unwrap();
    }

    /// Makes the chain that begins at descriptor `head` available.
    pub fn offer(&mut self, queue: usize, head: u16) {
        let ring = Self::ring(queue)[1];
        let index = &mut self.available[queue];
        self.memory.write_obj(head, GuestAddress(ring + 4 + u64::from(*index % RING) * 2)).unwrap();
        *index = index.wrapping_add(1);
        self.memory.write_obj(*index, GuestAddress(ring + 2)).unwrap();
    }

    /// Makes a chain of (address, length, flags) available; says its head.
    pub fn submit(&mut self, queue: usize, buffers: &[(u64, u32, u16)]) -> u16 {
        let head = self.next;
        for (index, (address, length, flags)) in buffers.iter().enumerate() {
            let here = self.next;
            self.next = (self.next + 1) % RING;
            let more = if index + 1 < buffers.len() { NEXT } else { 0 };
            self.put_descriptor(queue, here, *address, *length, *flags | more, self.next);
        }
        self.offer(queue, head);
        head
    }

    /// Lets the device serve its queue.
    pub fn kick(&self, queue: usize) {
        self.wake(queue);
    }

    /// As [`Self::kick`], and says how far the device came.
    pub fn wake(&self, queue: usize) -> Progress {
        for (index, lane) in self.device.lanes().iter().enumerate() {
            let place = lock(lane).lane().queues().iter().position(|own| *own == queue);
            if let Some(place) = place {
                return self.device.service(index, Wake::Queue(place));
            }
        }
        Progress::Done
    }

    /// Lets every lane look at its source `index`.
    pub fn rouse(&self, index: usize) {
        for lane in 0..self.device.lanes().len() {
            self.device.service(lane, Wake::Source(index));
        }
    }

    /// What the device used since the last call: head and length.
    pub fn used(&mut self, queue: usize) -> Vec<(u32, u32)> {
        let ring = Self::ring(queue)[2];
        let index: u16 = self.memory.read_obj(GuestAddress(ring + 2)).unwrap();
        let mut used = Vec::new();
        while self.seen[queue] != index {
            let slot = u64::from(self.seen[queue] % RING);
            used.push(self.memory.read_obj::<[u32; 2]>(GuestAddress(ring + 4 + slot * 8)).unwrap().into());
            self.seen[queue] = self.seen[queue].wrapping_add(1);
        }
        used
    }

    /// What is in the guest's memory.
    pub fn bytes(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    /// Puts bytes into the guest's memory.
    pub fn put(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    /// Whether the device has given up on us.
    pub fn needs_reset(&self) -> bool {
        self.read(offset::STATUS) & status::NEEDS_RESET != 0
    }
}

/// A file in memory, and a path to it that holds as long as it is open.
pub fn scratch_file() -> (File, PathBuf) {
    const NAME: &CStr = c"scratch";
    // SAFETY: the name is a C string; the call makes a descriptor or fails.
    let fd = unsafe { libc::memfd_create(NAME.as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the descriptor was made just now and is nobody else's.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    let path = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
    (file, path)
}

/// A disk of 8 sectors, and its file.
pub fn block(read_only: bool, engine: DiskEngine) -> (Block, File) {
    let (file, _) = scratch_file();
    file.set_len(4096).unwrap();
    (Block::on(file.try_clone().unwrap(), 8, read_only, engine), file)
}

/// A network device, and the other end of its wire.
pub fn net() -> (Net, UnixDatagram) {
    let (ours, mut theirs) = wires(1);
    let description = spec::Net::new("none", "02:00:00:00:00:01".parse().unwrap());
    (Net::on(ours, &description).unwrap(), theirs.remove(0))
}

/// Both ends of some wires.
pub fn wires(count: usize) -> (Vec<File>, Vec<UnixDatagram>) {
    let wire = |_| {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        (File::from(OwnedFd::from(ours)), theirs)
    };
    (0..count).map(wire).unzip()
}

/// A console device, and what is on its two sides.
pub fn console() -> (ConsolePort, Arc<Input>) {
    let input = Arc::new(Input::new(Arc::new(Console::new().unwrap())).unwrap());
    (ConsolePort::new(input.clone()), input)
}

/// A balloon that is to hold 2 MiB, and its numbers.
pub fn balloon() -> (Balloon, Arc<balloon::Metrics>) {
    let config = spec::Balloon { target_mib: 2, deflate_on_oom: true, free_page_reporting: true };
    let device = Balloon::new(&config, 4096);
    let metrics = device.metrics();
    (device, metrics)
}

/// One driver for each kind of device. The second part keeps the devices' other ends open.
pub fn one_of_each() -> (Vec<Driver>, UnixDatagram) {
    let (net, wire) = net();
    let others = [Driver::new(console().0), Driver::new(balloon().0)];
    (
        vec![Driver::new(block(false, DiskEngine::Sync).0), Driver::new(net), Driver::new(Rng)]
            .into_iter()
            .chain(others)
            .collect(),
        wire,
    )
}
