//! The MMIO window of a device (virtio 1.2, section 4.2.2).
//!
//! vCPU threads come in by [`Transport::read`] and [`Transport::write`], the device's own thread by
//! [`Transport::service`]. Notifications and the interrupt registers, which a driver uses for every request, need no
//! lock; the others wait until the device has done what it is doing, as a reset must.

use std::sync::{Arc, Mutex};

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::interrupt::Interrupt;
use super::registers::{Registers, offset};
use super::{Progress, VirtioDevice, Wake};
use crate::error::{Error, Result};
use crate::sync::lock;

/// A device behind its registers.
pub struct Transport {
    registers: Mutex<Registers>,
    interrupt: Arc<Interrupt>,
    kicks: Vec<EventFd>,
}

impl Transport {
    /// Puts `device` behind registers.
    ///
    /// # Errors
    /// The host gives no event descriptors.
    pub fn new(device: Box<dyn VirtioDevice>, memory: GuestMemoryMmap) -> Result<Self> {
        let event = || EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(Error::host("make an eventfd"));
        let interrupt = Arc::new(Interrupt::new(event()?));
        let kicks = device.queue_sizes().iter().map(|_| event()).collect::<Result<_>>()?;
        let registers = Registers::new(device, memory, interrupt.clone())
            .map_err(|error| Error::Config(format!("a device's queue cannot be made: {error}")))?;
        Ok(Self { registers: Mutex::new(registers), interrupt, kicks })
    }

    /// Its interrupt.
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// The events that tell of notifications, one a queue. KVM may signal them too (ioeventfd).
    pub fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    /// A vCPU reads `data.len()` bytes. Registers are 32 bits wide and aligned (section 4.2.2.2); other accesses to
    /// them read as zero. The configuration space takes every width.
    pub fn read(&self, at: u64, data: &mut [u8]) {
        data.fill(0);
        if at >= offset::CONFIG {
            let registers = lock(&self.registers);
            let config = registers.device.config();
            let start = config.len().min((at - offset::CONFIG) as usize);
            let count = data.len().min(config.len() - start);
            data[..count].copy_from_slice(&config[start..start + count]);
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
        let Ok(bytes) = <[u8; 4]>::try_from(data) else { return };
        let value = u32::from_le_bytes(bytes);
        match at {
            offset::QUEUE_NOTIFY => self.kick(value as usize),
            offset::INTERRUPT_ACK => self.interrupt.acknowledge(value),
            _ if at < offset::CONFIG && at.is_multiple_of(4) => {
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

    /// Runs `visit` on the device's host side.
    pub fn with_backend<T>(&self, visit: impl FnOnce(Option<std::os::fd::BorrowedFd<'_>>) -> T) -> T {
        visit(lock(&self.registers).device.backend())
    }

    /// Lets the device work.
    pub fn service(&self, wake: Wake) -> Progress {
        lock(&self.registers).service(wake)
    }
}

#[cfg(test)]
mod tests;
