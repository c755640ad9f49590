//! The device: one queue, no features, no configuration.

use std::io;

use vm_memory::GuestMemoryMmap;

use super::queues;
use crate::virtio::ring::Ring;
use crate::virtio::{Service, VirtioDevice, Wake};

/// Device type (virtio 1.2, section 5).
const TYPE: u32 = 4;

/// An entropy device.
#[derive(Debug, Default)]
pub struct Rng;

impl VirtioDevice for Rng {
    fn device_type(&self) -> u32 {
        TYPE
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[queues::SIZE]
    }

    fn features(&self) -> u64 {
        0
    }

    fn config(&self) -> &[u8] {
        &[]
    }

    fn activate(&mut self, _features: u64) -> io::Result<()> {
        Ok(())
    }

    fn service(&mut self, _wake: Wake, rings: &mut [Ring], memory: &GuestMemoryMmap) -> Service {
        rings[0].serve(memory, queues::answer)
    }
}
