//! The virtio devices of a guest, in the order in which it meets them: disks, network interfaces, entropy, a
//! console.

use std::sync::Arc;

use thimble_spec::vmm::GuestConfig;
use vm_memory::GuestMemoryMmap;

use crate::console::Input;
use crate::error::Result;
use crate::kvm::Machine;
use crate::layout;
use crate::virtio::VirtioDevice;
use crate::virtio::block::Block;
use crate::virtio::console::ConsolePort;
use crate::virtio::net::Net;
use crate::virtio::rng::Rng;
use crate::virtio::transport::Transport;
use crate::virtio::worker::Worker;

/// Devices whose files and interfaces are open.
pub struct Devices(Vec<Box<dyn VirtioDevice>>);

impl Devices {
    /// Opens what `config` names; what is typed for a console among them comes by `input`.
    ///
    /// # Errors
    /// A file or an interface cannot be used.
    pub fn open(config: &GuestConfig, input: &Arc<Input>) -> Result<Self> {
        let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::new();
        for (index, disk) in config.disks.iter().enumerate() {
            devices.push(Box::new(Block::open(&disk.path, disk.read_only, index)?));
        }
        for (index, net) in config.nets.iter().enumerate() {
            devices.push(Box::new(Net::open(&net.tap, net.mac, index)?));
        }
        devices.push(Box::new(Rng));
        if config.virtio_console {
            devices.push(Box::new(ConsolePort::new(input.clone())));
        }
        Ok(Self(devices))
    }

    /// How many they are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Connects them to the machine and starts their threads.
    ///
    /// # Errors
    /// The host gives no threads or descriptors, or KVM refuses.
    pub fn start(self, machine: &Machine, memory: &GuestMemoryMmap) -> Result<(Vec<Arc<Transport>>, Vec<Worker>)> {
        let mut transports = Vec::new();
        let mut workers = Vec::new();
        for (index, device) in self.0.into_iter().enumerate() {
            let transport = Arc::new(Transport::new(device, memory.clone())?);
            let base = layout::VIRTIO_BASE + index as u64 * layout::VIRTIO_SIZE;
            machine.connect(&transport, base, layout::VIRTIO_IRQS[index])?;
            for lane in 0..transport.lanes().len() {
                workers.push(Worker::start(transport.clone(), lane)?);
            }
            transports.push(transport);
        }
        Ok((transports, workers))
    }
}
