//! The MMIO window of a device (virtio 1.2, section 4.2.2).
//!
//! vCPU threads come in by [`Transport::read`] and [`Transport::write`], the lanes' threads by [`Transport::service`],
//! the supervisor by [`Transport::config_changed`]. Notifications and the interrupt registers, which a driver uses for
//! every request, need no lock; a reset waits until the lanes have done what they are doing.

use std::sync::{Arc, Mutex};

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::interrupt::Interrupt;
use super::lane::Work;
use super::registers::{Registers, offset};
use super::{Progress, VirtioDevice, Wake};
use crate::error::{Error, Result};
use crate::sync::lock;

/// A device behind its registers.
pub struct Transport {
    registers: Mutex<Registers>,
    lanes: Vec<Arc<Mutex<Work>>>,
    interrupt: Arc<Interrupt>,
    kicks: Vec<Arc<EventFd>>,
}

impl Transport {
    /// Puts `device` behind registers.
    ///
    /// # Errors
    /// The host gives no event descriptors.
    pub fn new(mut device: Box<dyn VirtioDevice>, memory: GuestMemoryMmap) -> Result<Self> {
        let event = || EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(Error::host("make an eventfd"));
        let interrupt = Arc::new(Interrupt::new(event()?));
        let sizes = device.queue_sizes();
        let kicks = sizes.iter().map(|_| event().map(Arc::new)).collect::<Result<Vec<_>>>()?;
        let work = |lane| {
            Work::new(lane, &sizes, &kicks, &interrupt, memory.clone())
                .map(|work| Arc::new(Mutex::new(work)))
                .map_err(|error| Error::Config(format!("a device's queue cannot be made: {error}")))
        };
        let lanes = device.take_lanes().into_iter().map(work).collect::<Result<Vec<_>>>()?;
        let registers = Registers::new(device, lanes.clone(), memory, interrupt.clone());
        Ok(Self { registers: Mutex::new(registers), lanes, interrupt, kicks })
    }

    /// What works on its queues.
    pub fn lanes(&self) -> &[Arc<Mutex<Work>>] {
        &self.lanes
    }

    /// Its interrupt.
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// The events that tell of notifications, one a queue. KVM may signal them too (ioeventfd).
    pub fn kicks(&self) -> &[Arc<EventFd>] {
        &self.kicks
    }

    /// A vCPU reads `data.len()` bytes. Registers are 32 bits wide and aligned (section 4.2.2.2); other accesses to
    /// them read as zero. The configuration space takes every width.
    pub fn read(&self, at: u64, data: &mut [u8]) {
        data.fill(0);
        if at >= offset::CONFIG {
            lock(&self.registers).device.read_config((at - offset::CONFIG) as usize, data);
        } else if data.len() == 4 && at.is_multiple_of(4) {
            let value = match at {
                offset::INTERRUPT_STATUS => self.interrupt.status(),
                _ => lock(&self.registers).read(at),
            };
            data.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// A vCPU writes. Accesses of a width or at a place where nothing can be written are ignored.
    pub fn write(&self, at: u64, data: &[u8]) {
        if at >= offset::CONFIG {
            return lock(&self.registers).device.write_config((at - offset::CONFIG) as usize, data);
        }
        let Ok(bytes) = <[u8; 4]>::try_from(data) else { return };
        let value = u32::from_le_bytes(bytes);
        match at {
            offset::QUEUE_NOTIFY => self.kick(value as usize),
            offset::INTERRUPT_ACK => self.interrupt.acknowledge(value),
            _ if at.is_multiple_of(4) => {
                let mut registers = lock(&self.registers);
                let was_live = registers.is_live();
                registers.write(at, value);
                // Drivers may fill queues before DRIVER_OK; what came before is looked at now.
                if !was_live && registers.is_live() {
                    (0..self.kicks.len()).for_each(|queue| self.kick(queue));
                }
            }
            _ => {}
        }
    }

    fn kick(&self, queue: usize) {
        if let Some(event) = self.kicks.get(queue) {
            // A full counter is a kick that has yet to be seen.
            let _ = event.write(1);
        }
    }

    /// Lets a lane work. A driver that breaks the rules loses the device until it resets it.
    pub fn service(&self, lane: usize, wake: Wake) -> Progress {
        let service = lock(&self.lanes[lane]).service(wake);
        service.unwrap_or_else(|_| {
            lock(&self.registers).fail();
            Progress::Done
        })
    }

    /// Tells the driver that the configuration space changed.
    pub fn config_changed(&self) {
        lock(&self.registers).config_changed();
    }
}

#[cfg(test)]
mod tests;
