//! Who answers at which port and address. What nobody answers reads as all ones, and what is written there is lost.

use std::sync::{Arc, Mutex};

use thimble_spec::vmm::ExitReason;

use crate::acpi::power::{self, Power};
use crate::layout::{VIRTIO_BASE, VIRTIO_SIZE};
use crate::serial::SerialPort;
use crate::sync::lock;
use crate::virtio::transport::Transport;

/// Ports of a PC that the VMM answers at, beside those of ACPI's fixed hardware.
pub mod port {
    /// First register of the first serial port.
    pub const COM1: u16 = 0x3f8;
    /// First register of the second serial port.
    pub const COM2: u16 = 0x2f8;
    /// Command and status register of the keyboard controller.
    pub const I8042: u16 = 0x64;
    /// Reset control register of PCs since the PIIX3.
    pub const RESET: u16 = 0xcf9;

    /// Registers of a serial port.
    pub const SERIAL_REGISTERS: u16 = 8;
    /// The keyboard controller's command to pulse the processor's reset line.
    pub const I8042_RESET: u8 = 0xfe;
    /// What is written to [`RESET`] for a hard reset: it resets when bit 2 is set.
    pub const RESET_NOW: u8 = 6;
}

/// What the guest's processors reach outside their memory.
pub struct Bus {
    console: Arc<Mutex<SerialPort>>,
    agent: Arc<Mutex<SerialPort>>,
    power: Arc<Power>,
    virtio: Vec<Arc<Transport>>,
}

impl Bus {
    /// A bus with these on it; the virtio devices a page each, in this order.
    pub fn new(
        console: Arc<Mutex<SerialPort>>,
        agent: Arc<Mutex<SerialPort>>,
        power: Arc<Power>,
        virtio: Vec<Arc<Transport>>,
    ) -> Self {
        Self { console, agent, power, virtio }
    }

    fn serial(&self, port: u16) -> Option<(&Mutex<SerialPort>, u8)> {
        [(port::COM1, &self.console), (port::COM2, &self.agent)].into_iter().find_map(|(base, serial)| {
            let register = port.checked_sub(base).filter(|register| *register < port::SERIAL_REGISTERS)?;
            Some((&**serial, register as u8))
        })
    }

    /// The offset of `port` in ACPI's fixed hardware.
    fn power(port: u16) -> Option<u16> {
        port.checked_sub(power::EVENT_PORT).filter(|offset| *offset < power::BYTES)
    }

    /// `in`.
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        // A wider access reads as many registers; a string instruction comes as one access a piece.
        if let Some((serial, register)) = self.serial(port)
            && data.len() == 1
        {
            data[0] = lock(serial).read(register);
        } else if let Some(offset) = Self::power(port) {
            self.power.read(offset, data);
        } else if port == port::I8042 {
            // Neither input nor output is pending: whoever waits to write a command may.
            data.fill(0);
        }
    }

    /// `out`; the guest's end, if this is it.
    pub fn port_write(&self, port: u16, data: &[u8]) -> Option<ExitReason> {
        if let Some((serial, register)) = self.serial(port) {
            if let [value] = data {
                lock(serial).write(register, *value);
            }
            return None;
        }
        if let Some(offset) = Self::power(port) {
            return self.power.write(offset, data);
        }
        match (port, data) {
            (port::I8042, [port::I8042_RESET]) => Some(ExitReason::Reboot),
            (port::RESET, [value]) if value & 4 != 0 => Some(ExitReason::Reboot),
            _ => None,
        }
    }

    fn device(&self, address: u64) -> Option<(&Transport, u64)> {
        let offset = address.checked_sub(VIRTIO_BASE)?;
        let device = self.virtio.get(usize::try_from(offset / VIRTIO_SIZE).ok()?)?;
        Some((device, offset % VIRTIO_SIZE))
    }

    /// A load from where there is no memory.
    pub fn memory_read(&self, address: u64, data: &mut [u8]) {
        match self.device(address) {
            Some((device, offset)) => device.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// A store to where there is no memory.
    pub fn memory_write(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.device(address) {
            device.write(offset, data);
        }
    }
}

#[cfg(test)]
mod tests;
