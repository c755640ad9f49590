//! The device: three queues, one lane, and the host's side behind one descriptor.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use thimble_spec::vmm;
use vm_memory::GuestMemoryMmap;

use super::config;
use super::host::{self, Host};
use super::metrics::Metrics;
use super::queues::{receive, transmit};
use super::table::Table;
use crate::error::{Error, Result};
use crate::jail::seccomp::Duty;
use crate::virtio::ring::Ring;
use crate::virtio::{Lane, Progress, Service, VirtioDevice, Wake, read_space};

/// Device type (virtio 1.2, section 5).
const TYPE: u32 = 19;
/// Index of the receive queue (section 5.10.2).
const RX: usize = 0;
/// Index of the transmit queue (section 5.10.2).
const TX: usize = 1;
/// Index of the event queue (section 5.10.2).
const EVENTS: usize = 2;

/// A socket device.
#[derive(Debug)]
pub struct Vsock {
    cid: u32,
    metrics: Arc<Metrics>,
    lane: Option<Packets>,
}

impl Vsock {
    /// A device as `config` says; from now on it listens.
    ///
    /// # Errors
    /// The context identifier is none of a guest's; as [`Host::bind`].
    pub fn open(config: &vmm::Vsock) -> Result<Self> {
        Self::check(config)?;
        let cid = config.cid;
        let metrics = Arc::new(Metrics::default());
        let table = Table::new(cid, Host::bind(&config.path)?, metrics.clone());
        Ok(Self { cid, metrics, lane: Some(Packets { table }) })
    }

    /// Looks at `config` alone, and at nothing of the host.
    ///
    /// # Errors
    /// The context identifier is none of a guest's, or the path is none of a socket's.
    pub fn check(config: &vmm::Vsock) -> Result<()> {
        let cid = config.cid;
        // The last one stands for "any" (linux/vm_sockets.h).
        if cid < config::FIRST_CID || cid == u32::MAX {
            let message = format!("{cid} is no context identifier of a guest: give one from {} on", config::FIRST_CID);
            return Err(Error::Config(message));
        }
        host::check(&config.path)
    }

    /// Its counters.
    pub fn metrics(&self) -> Arc<Metrics> {
        self.metrics.clone()
    }
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> u32 {
        TYPE
    }

    fn queue_sizes(&self) -> Vec<u16> {
        config::QUEUE_SIZES.to_vec()
    }

    /// Without features the device has streams, and those alone (section 5.10.3).
    fn features(&self) -> u64 {
        0
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        read_space(&config::space(self.cid), offset, data);
    }

    fn take_lanes(&mut self) -> Vec<Box<dyn Lane>> {
        self.lane.take().into_iter().map(|lane| Box::new(lane) as Box<dyn Lane>).collect()
    }
}

/// The lane of all queues.
#[derive(Debug)]
struct Packets {
    table: Table,
}

impl Lane for Packets {
    fn name(&self) -> String {
        "vsock".to_owned()
    }

    fn duty(&self) -> Duty {
        Duty::Vsock
    }

    fn queues(&self) -> Vec<usize> {
        vec![RX, TX, EVENTS]
    }

    fn sources(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.table.source()]
    }

    fn stop(&mut self) {
        self.table.clear();
    }

    /// Whatever woke it: what the guest sends brings packets for the guest, and buffers of the guest's let it send on.
    fn service(&mut self, _wake: Wake, rings: &mut [Ring], memory: &GuestMemoryMmap) -> Service {
        let mut more = self.table.poll() == Progress::More;
        if rings[TX].is_ready() {
            more |= transmit(&mut self.table, &mut rings[TX], memory)? == Progress::More;
        }
        let was_backed_up = self.table.is_backed_up();
        if rings[RX].is_ready() {
            more |= receive(&mut self.table, &mut rings[RX], memory)? == Progress::More;
        }
        more |= was_backed_up && !self.table.is_backed_up();
        Ok(if more { Progress::More } else { Progress::Done })
    }
}
