//! A lane with its rings, between the vCPUs, which set it up, and its thread, which works on it.

use std::io;
use std::sync::Arc;

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::interrupt::Interrupt;
use super::ring::Ring;
use super::{Lane, Progress, Service, Wake};

/// A lane and the rings that it works on.
pub struct Work {
    lane: Box<dyn Lane>,
    rings: Vec<Ring>,
    memory: GuestMemoryMmap,
    live: bool,
}

impl Work {
    /// A lane at rest.
    ///
    /// # Errors
    /// A queue's size is not a power of two.
    pub fn new(
        lane: Box<dyn Lane>,
        sizes: &[u16],
        kicks: &[Arc<EventFd>],
        interrupt: &Arc<Interrupt>,
        memory: GuestMemoryMmap,
    ) -> Result<Self, virtio_queue::Error> {
        let ring = |queue: usize| Ring::new(sizes[queue], kicks[queue].clone(), interrupt.clone());
        let rings = lane.queues().into_iter().map(ring).collect::<Result<_, _>>()?;
        Ok(Self { lane, rings, memory, live: false })
    }

    /// The lane.
    pub fn lane(&self) -> &dyn Lane {
        &*self.lane
    }

    /// Its rings.
    pub fn rings(&self) -> &[Ring] {
        &self.rings
    }

    /// Its rings, to be set up.
    pub fn rings_mut(&mut self) -> &mut [Ring] {
        &mut self.rings
    }

    /// The driver is ready.
    ///
    /// # Errors
    /// As [`Lane::start`].
    pub fn start(&mut self, features: u64) -> io::Result<()> {
        self.lane.start(features, &mut self.rings, &self.memory)?;
        self.live = true;
        Ok(())
    }

    /// No more work is done until the next start.
    pub fn stop(&mut self) {
        if std::mem::replace(&mut self.live, false) {
            self.lane.stop();
        }
    }

    /// Lets the lane work, if it is live and the queue is set up.
    ///
    /// # Errors
    /// The driver broke the rules.
    pub fn service(&mut self, wake: Wake) -> Service {
        let ready = match wake {
            Wake::Queue(index) => self.rings.get(index).is_some_and(Ring::is_ready),
            Wake::Source(_) => true,
        };
        if !self.live || !ready {
            return Ok(Progress::Done);
        }
        self.lane.service(wake, &mut self.rings, &self.memory)
    }
}
