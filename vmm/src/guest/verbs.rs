//! What is asked of a guest's devices while it runs. Each refusal is one sentence.

use thimble_spec::vmm::{Limits, Stats, VcpuStats};

use super::Guest;
use super::devices::check_balloon;
use crate::phases;
use crate::virtio::{block, net};

impl Guest {
    /// What it did so far.
    pub fn stats(&self) -> Stats {
        Stats {
            vcpus: self.gang.exits().into_iter().map(|exits| VcpuStats { exits }).collect(),
            disks: self.parts.handles.disks.iter().map(|(_, disk)| disk.stats()).collect(),
            nets: self.parts.handles.nets.iter().map(net::Handle::stats).collect(),
            balloon: self.parts.handles.balloon.as_ref().map(|(_, balloon)| balloon.stats()),
            vsock: self.parts.handles.vsock.as_ref().map(|vsock| vsock.stats()),
            phases: phases::reached(),
        }
    }

    /// Presses its power button.
    ///
    /// # Errors
    /// It has none.
    pub fn press_power_button(&self) -> Result<(), String> {
        let pressed = self.parts.power.press();
        pressed.then_some(()).ok_or_else(|| "this guest has no power button: it was started without ACPI".to_owned())
    }

    /// Sets how many MiB it is to give back.
    ///
    /// # Errors
    /// It has no balloon, or not that much memory.
    pub fn set_balloon(&self, target_mib: u32) -> Result<(), String> {
        let (place, balloon) = self.parts.handles.balloon.as_ref().ok_or("this guest has no balloon")?;
        check_balloon(target_mib, self.parts.status.memory_mib)?;
        balloon.set_target_mib(target_mib);
        self.parts.transports[*place].config_changed();
        Ok(())
    }

    /// Gives a disk another size.
    ///
    /// # Errors
    /// It has no such disk; the disk cannot have that size.
    pub fn resize_disk(&self, disk: u8, bytes: Option<u64>) -> Result<(), String> {
        let (place, disk) = self.disk(disk)?;
        disk.resize(bytes)?;
        self.parts.transports[*place].config_changed();
        Ok(())
    }

    /// Replaces a disk's limits.
    ///
    /// # Errors
    /// It has no such disk.
    pub fn limit_disk(&self, disk: u8, limits: Limits) -> Result<(), String> {
        self.disk(disk)?.1.limit(limits);
        Ok(())
    }

    fn disk(&self, disk: u8) -> Result<&(usize, block::Handle), String> {
        let found = self.parts.handles.disks.get(usize::from(disk));
        found.ok_or_else(|| format!("this guest has no disk {disk}"))
    }

    /// Replaces a network interface's limits.
    ///
    /// # Errors
    /// It has no such interface, or the host's kernel moves its packets.
    pub fn limit_net(&self, net: u8, receive: Limits, transmit: Limits) -> Result<(), String> {
        let handle = self.parts.handles.nets.get(usize::from(net));
        handle.ok_or_else(|| format!("this guest has no network interface {net}"))?.limit(receive, transmit)
    }
}
