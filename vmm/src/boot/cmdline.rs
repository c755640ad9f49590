//! The words on the kernel's command line that name the devices (Linux `drivers/virtio/virtio_mmio.c`).

use thimble_spec::cmdline::{CmdlineError, MAX_BYTES};
use thimble_spec::vmm::Discovery;

use crate::error::{Error, Result};
use crate::layout::{VIRTIO_BASE, VIRTIO_MAX, VIRTIO_SIZE, virtio_irq};

/// `line` for a guest of `devices` devices: with a `virtio_mmio.device=SIZE@ADDRESS:IRQ` for each, if that is how its
/// kernel learns of them.
///
/// # Errors
/// There are more devices than a guest can have, or the line is longer than the kernel keeps.
pub fn with_devices(line: &str, devices: usize, discovery: Discovery) -> Result<String> {
    if devices > VIRTIO_MAX {
        return Err(Error::Config(format!(
            "the guest would have {devices} virtio devices, with its entropy device, and can have {VIRTIO_MAX}: give \
             it fewer disks and network interfaces"
        )));
    }
    let mut line = line.trim().to_owned();
    if discovery == Discovery::Cmdline {
        for index in 0..devices {
            let (address, irq) = (VIRTIO_BASE + index as u64 * VIRTIO_SIZE, virtio_irq(index));
            line.push_str(&format!(" virtio_mmio.device={}K@{address:#x}:{irq}", VIRTIO_SIZE / 1024));
        }
    }
    if line.len() > MAX_BYTES {
        return Err(Error::Config(CmdlineError::TooLong(line.len()).to_string()));
    }
    if line.contains('\0') {
        return Err(Error::Config("the kernel command line holds a zero byte: remove it".to_owned()));
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_in_order() {
        assert_eq!(
            with_devices("quiet ", 3, Discovery::Cmdline).unwrap(),
            "quiet virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=4K@0xd0001000:6 \
             virtio_mmio.device=4K@0xd0002000:7"
        );
        assert_eq!(with_devices("quiet ", 3, Discovery::Acpi).unwrap(), "quiet");
    }

    #[test]
    fn too_much_is_refused() {
        let line = |line: &str, devices| with_devices(line, devices, Discovery::Cmdline);
        assert!(line("", VIRTIO_MAX).is_ok());
        assert!(line("", VIRTIO_MAX + 1).is_err());
        assert!(line(&"x".repeat(MAX_BYTES), 0).is_ok());
        assert!(line(&"x".repeat(MAX_BYTES), 1).is_err());
        assert!(line("a\0b", 0).is_err());
    }
}
