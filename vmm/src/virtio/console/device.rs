//! The device: one port, two queues, one lane.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use vm_memory::GuestMemoryMmap;

use super::config;
use super::queues::{receive, transmit};
use crate::console::Input;
use crate::virtio::ring::Ring;
use crate::virtio::{Lane, Progress, Service, VirtioDevice, Wake, read_space};

/// Device type (virtio 1.2, section 5).
const TYPE: u32 = 3;
/// Index of the receive queue of port 0 (section 5.3.2).
const RX: usize = 0;
/// Index of the transmit queue of port 0 (section 5.3.2).
const TX: usize = 1;

/// A console device.
#[derive(Debug)]
pub struct ConsolePort {
    lane: Option<Port>,
}

impl ConsolePort {
    /// A device that reads from `input` and writes to its console.
    pub fn new(input: Arc<Input>) -> Self {
        Self { lane: Some(Port { input }) }
    }
}

impl VirtioDevice for ConsolePort {
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
        read_space(&config::space(), offset, data);
    }

    fn take_lanes(&mut self) -> Vec<Box<dyn Lane>> {
        self.lane.take().into_iter().map(|lane| Box::new(lane) as Box<dyn Lane>).collect()
    }
}

/// The lane of both queues.
#[derive(Debug)]
struct Port {
    input: Arc<Input>,
}

impl Lane for Port {
    fn name(&self) -> String {
        "console".to_owned()
    }

    fn queues(&self) -> Vec<usize> {
        vec![RX, TX]
    }

    fn sources(&self) -> Vec<BorrowedFd<'_>> {
        // SAFETY: the input owns the descriptor and lives as long as the lane.
        vec![unsafe { BorrowedFd::borrow_raw(self.input.event().as_raw_fd()) }]
    }

    fn start(&mut self, _features: u64, _rings: &mut [Ring], _memory: &GuestMemoryMmap) -> io::Result<()> {
        self.input.open();
        Ok(())
    }

    fn stop(&mut self) {
        self.input.close();
    }

    fn service(&mut self, wake: Wake, rings: &mut [Ring], memory: &GuestMemoryMmap) -> Service {
        match wake {
            // New buffers, or new input: the two sides of the same work.
            Wake::Queue(RX) | Wake::Source(_) if rings[RX].is_ready() => receive(&self.input, &mut rings[RX], memory),
            Wake::Queue(TX) => rings[TX].serve(memory, |chain| transmit(self.input.console(), chain)),
            _ => Ok(Progress::Done),
        }
    }
}
