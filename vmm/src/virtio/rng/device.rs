//! The device: one queue, no features, no configuration.

use vm_memory::GuestMemoryMmap;

use super::queues;
use crate::virtio::ring::Ring;
use crate::virtio::{Lane, Service, VirtioDevice, Wake};

/// Device type (virtio 1.2, section 5).
const TYPE: u32 = 4;

/// An entropy device.
#[derive(Debug, Default)]
pub struct Rng;

impl VirtioDevice for Rng {
    fn device_type(&self) -> u32 {
        TYPE
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![queues::SIZE]
    }

    fn features(&self) -> u64 {
        0
    }

    fn read_config(&self, _offset: usize, _data: &mut [u8]) {}

    fn take_lanes(&mut self) -> Vec<Box<dyn Lane>> {
        vec![Box::new(Requests)]
    }
}

/// The request queue's lane.
struct Requests;

impl Lane for Requests {
    fn name(&self) -> String {
        "rng".to_owned()
    }

    fn queues(&self) -> Vec<usize> {
        vec![0]
    }

    fn service(&mut self, _wake: Wake, rings: &mut [Ring], memory: &GuestMemoryMmap) -> Service {
        rings[0].serve(memory, queues::answer)
    }
}
