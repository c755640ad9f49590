//! The words on the kernel's command line that name the devices (Linux `drivers/virtio/virtio_mmio.c`).

use thimble_spec::cmdline::{CmdlineError, MAX_BYTES};

use crate::error::{Error, Result};
use crate::layout::{VIRTIO_BASE, VIRTIO_IRQS, VIRTIO_SIZE};

/// `line` with a `virtio_mmio.device=SIZE@ADDRESS:IRQ` for each of `devices` devices.
///
/// # Errors
/// There are more devices than interrupts, or the line is longer than the kernel keeps.
pub fn with_devices(line: &str, devices: usize) -> Result<String> {
    if devices > VIRTIO_IRQS.len() {
        let most = VIRTIO_IRQS.len() - 1;
        return Err(Error::Config(format!("a guest has at most {most} disks and network interfaces together")));
    }
    let mut line = line.trim().to_owned();
    for (index, irq) in VIRTIO_IRQS.iter().take(devices).enumerate() {
        let address = VIRTIO_BASE + index as u64 * VIRTIO_SIZE;
        line.push_str(&format!(" virtio_mmio.device={}K@{address:#x}:{irq}", VIRTIO_SIZE / 1024));
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
            with_devices("quiet ", 3).unwrap(),
            "quiet virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=4K@0xd0001000:6 \
             virtio_mmio.device=4K@0xd0002000:7"
        );
    }

    #[test]
    fn no_device_has_the_clocks_interrupt() {
        let line = with_devices("", VIRTIO_IRQS.len()).unwrap();
        assert!(!line.contains(":8 ") && line.ends_with(":23"));
    }

    #[test]
    fn too_much_is_refused() {
        assert!(with_devices("", VIRTIO_IRQS.len() + 1).is_err());
        assert!(with_devices(&"x".repeat(MAX_BYTES), 0).is_ok());
        assert!(with_devices(&"x".repeat(MAX_BYTES), 1).is_err());
        assert!(with_devices("a\0b", 0).is_err());
    }
}
