//! The device: a tap and two queues.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use thimble_spec::names::Mac;
use vm_memory::GuestMemoryMmap;

use super::config;
use super::queues::{Receiver, transmit};
use super::tap::Tap;
use crate::error::Result;
use crate::virtio::ring::Ring;
use crate::virtio::{Lane, Progress, Service, VirtioDevice, Wake, read_space};

/// Device type (virtio 1.2, section 5).
const TYPE: u32 = 1;
/// Index of the receive queue (section 5.1.2).
const RX: usize = 0;
/// Index of the transmit queue (section 5.1.2).
const TX: usize = 1;

/// A network device.
#[derive(Debug)]
pub struct Net {
    config: [u8; 6],
    lane: Option<Packets>,
}

impl Net {
    /// A device on the tap interface `tap`.
    ///
    /// # Errors
    /// As [`Tap::open`].
    pub fn open(tap: &str, mac: Mac, position: usize) -> Result<Self> {
        Ok(Self::new(Tap::open(tap)?, mac, position, true))
    }

    /// A device on a socket that keeps messages apart, for tests.
    #[cfg(any(test, feature = "testing"))]
    pub fn on(file: std::fs::File, mac: Mac) -> Self {
        Self::new(Tap::on(file), mac, 0, false)
    }

    fn new(tap: Tap, mac: Mac, position: usize, offloads_settable: bool) -> Self {
        let lane = Packets { tap, position, receiver: Receiver::new(), offloads_settable };
        Self { config: config::space(mac), lane: Some(lane) }
    }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        TYPE
    }

    fn queue_sizes(&self) -> Vec<u16> {
        config::QUEUE_SIZES.to_vec()
    }

    fn features(&self) -> u64 {
        config::FEATURES
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        read_space(&self.config, offset, data);
    }

    fn take_lanes(&mut self) -> Vec<Box<dyn Lane>> {
        self.lane.take().into_iter().map(|lane| Box::new(lane) as Box<dyn Lane>).collect()
    }
}

/// The lane of a pair of queues.
#[derive(Debug)]
struct Packets {
    tap: Tap,
    position: usize,
    receiver: Receiver,
    offloads_settable: bool,
}

impl Lane for Packets {
    fn name(&self) -> String {
        format!("net{}", self.position)
    }

    fn queues(&self) -> Vec<usize> {
        vec![RX, TX]
    }

    fn sources(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.tap.as_fd()]
    }

    fn start(&mut self, features: u64, _rings: &mut [Ring], _memory: &GuestMemoryMmap) -> io::Result<()> {
        self.receiver.start(features);
        if self.offloads_settable { self.tap.set_offloads(features) } else { Ok(()) }
    }

    fn stop(&mut self) {
        self.receiver.start(0);
    }

    fn service(&mut self, wake: Wake, rings: &mut [Ring], memory: &GuestMemoryMmap) -> Service {
        match wake {
            // New buffers, or new packets: the two sides of the same work.
            Wake::Queue(RX) | Wake::Source(_) if rings[RX].is_ready() => {
                self.receiver.receive(self.tap.as_fd(), &mut rings[RX], memory)
            }
            Wake::Queue(TX) => rings[TX].serve(memory, |chain| transmit(self.tap.as_fd(), chain)),
            _ => Ok(Progress::Done),
        }
    }
}
