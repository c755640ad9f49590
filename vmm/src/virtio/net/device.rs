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
use crate::virtio::{Progress, Service, VirtioDevice, Wake};

/// Device type (virtio 1.2, section 5).
const TYPE: u32 = 1;
/// Index of the receive queue (section 5.1.2).
const RX: usize = 0;
/// Index of the transmit queue (section 5.1.2).
const TX: usize = 1;

/// A network device.
#[derive(Debug)]
pub struct Net {
    tap: Tap,
    config: [u8; 6],
    receiver: Receiver,
    offloads_settable: bool,
}

impl Net {
    /// A device on the tap interface `tap`.
    ///
    /// # Errors
    /// As [`Tap::open`].
    pub fn open(tap: &str, mac: Mac) -> Result<Self> {
        Ok(Self {
            tap: Tap::open(tap)?,
            config: config::space(mac),
            receiver: Receiver::new(),
            offloads_settable: true,
        })
    }

    /// A device on a socket that keeps messages apart, for tests.
    #[cfg(test)]
    pub fn on(file: std::fs::File, mac: Mac) -> Self {
        Self { tap: Tap::on(file), config: config::space(mac), receiver: Receiver::new(), offloads_settable: false }
    }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        TYPE
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &config::QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        config::FEATURES
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn activate(&mut self, features: u64) -> io::Result<()> {
        self.receiver.start(features);
        if self.offloads_settable { self.tap.set_offloads(features) } else { Ok(()) }
    }

    fn deactivate(&mut self) {
        self.receiver.start(0);
    }

    fn backend(&self) -> Option<BorrowedFd<'_>> {
        Some(self.tap.as_fd())
    }

    fn service(&mut self, wake: Wake, rings: &mut [Ring], memory: &GuestMemoryMmap) -> Service {
        match wake {
            // New buffers, or new packets: the two sides of the same work.
            Wake::Queue(RX) | Wake::Backend if rings[RX].is_ready() => {
                self.receiver.receive(self.tap.as_fd(), &mut rings[RX], memory)
            }
            Wake::Queue(TX) => rings[TX].serve(memory, |chain| transmit(self.tap.as_fd(), chain)),
            _ => Ok(Progress::Done),
        }
    }
}
