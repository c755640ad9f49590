//! The virtio devices of a guest, in the order in which it meets them: disks, network interfaces, entropy, a
//! console, a balloon, sockets.

use std::sync::Arc;

use thimble_spec::vmm::GuestConfig;
use vm_memory::GuestMemoryMmap;

use crate::console::Input;
use crate::error::Result;
use crate::kvm::Machine;
use crate::virtio::VirtioDevice;
use crate::virtio::balloon::{self, Balloon};
use crate::virtio::block::{self, Block};
use crate::virtio::console::ConsolePort;
use crate::virtio::net::{self, Net};
use crate::virtio::rng::Rng;
use crate::virtio::transport::Transport;
use crate::virtio::vsock::{self, Vsock};
use crate::{layout, memory};

/// Devices whose files and interfaces are open.
pub struct Devices {
    devices: Vec<Box<dyn VirtioDevice>>,
    handles: Handles,
}

/// What is asked of devices while they work, by their indices.
#[derive(Clone, Debug, Default)]
pub struct Handles {
    /// Disks: each one's place among the devices, and its handle.
    pub disks: Vec<(usize, block::Handle)>,
    /// Network interfaces.
    pub nets: Vec<net::Handle>,
    /// The balloon's place among the devices, and its numbers.
    pub balloon: Option<(usize, Arc<balloon::Metrics>)>,
    /// The socket device's counters.
    pub vsock: Option<Arc<vsock::Metrics>>,
}

impl Devices {
    /// Opens what `config` names; what is typed for a console among them comes by `input`.
    ///
    /// # Errors
    /// A file or an interface cannot be used.
    pub fn open(config: &GuestConfig, input: &Arc<Input>) -> Result<Self> {
        let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::new();
        let mut handles = Handles::default();
        for (index, disk) in config.disks.iter().enumerate() {
            let disk = Block::open(disk, index)?;
            handles.disks.push((devices.len(), disk.handle()));
            devices.push(Box::new(disk));
        }
        for (index, net) in config.nets.iter().enumerate() {
            let net = Net::open(net, index)?;
            handles.nets.push(net.handle());
            devices.push(Box::new(net));
        }
        devices.push(Box::new(Rng));
        if config.virtio_console {
            devices.push(Box::new(ConsolePort::new(input.clone())));
        }
        if let Some(balloon) = &config.balloon {
            let balloon = Balloon::new(balloon, memory::page_bytes(&config.memory));
            handles.balloon = Some((devices.len(), balloon.metrics()));
            devices.push(Box::new(balloon));
        }
        if let Some(vsock) = &config.vsock {
            let vsock = Vsock::open(vsock)?;
            handles.vsock = Some(vsock.metrics());
            devices.push(Box::new(vsock));
        }
        Ok(Self { devices, handles })
    }

    /// How many they are.
    pub fn count(&self) -> usize {
        self.devices.len()
    }

    /// What verbs ask of them.
    pub fn handles(&self) -> Handles {
        self.handles.clone()
    }

    /// Connects them to the machine.
    ///
    /// # Errors
    /// The host gives no descriptors, or KVM refuses.
    pub fn connect(self, machine: &Machine, memory: &GuestMemoryMmap) -> Result<Vec<Arc<Transport>>> {
        let mut transports = Vec::new();
        for (index, device) in self.devices.into_iter().enumerate() {
            let transport = Arc::new(Transport::new(device, memory.clone())?);
            let base = layout::VIRTIO_BASE + index as u64 * layout::VIRTIO_SIZE;
            machine.connect(&transport, base, layout::virtio_irq(index))?;
            transports.push(transport);
        }
        Ok(transports)
    }
}

/// How many devices a guest has by its description.
pub fn count(config: &GuestConfig) -> usize {
    let others = [true, config.virtio_console, config.balloon.is_some(), config.vsock.is_some()];
    config.disks.len() + config.nets.len() + others.into_iter().filter(|there| *there).count()
}

/// Whether a guest with `memory_mib` can give `target_mib` back.
///
/// # Errors
/// One sentence: it has not that much.
pub fn check_balloon(target_mib: u32, memory_mib: u32) -> std::result::Result<(), String> {
    if target_mib <= memory_mib {
        return Ok(());
    }
    Err(format!("a guest with {memory_mib} MiB of memory cannot give back {target_mib} MiB: ask for less"))
}
