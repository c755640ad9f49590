//! One PCI device.

use serde::Serialize;

/// Vendor of virtio devices (virtio 1.2, 4.1.2).
const VIRTIO_VENDOR: u16 = 0x1af4;
/// Devices of the first drafts, whose subsystem says what they are.
const VIRTIO_OLD: std::ops::RangeInclusive<u16> = 0x1000..=0x103f;
/// From here on the device number says it.
const VIRTIO_NEW: std::ops::RangeInclusive<u16> = 0x1040..=0x107f;
/// Virtio's number of a block device and of a SCSI host (virtio 1.2, 5).
const VIRTIO_BLOCK: u16 = 2;
/// See [`VIRTIO_BLOCK`].
const VIRTIO_SCSI: u16 = 8;

/// A function of a PCI device, by its numbers (PCI Local Bus 3.0, 6.2.1 and 6.2.4).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Where it is: `00:1f.2`, perhaps with a domain before it.
    pub slot: String,
    /// Class and subclass.
    pub class: u16,
    /// Programming interface.
    pub interface: u8,
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Vendor of the subsystem, 0 if it has none.
    pub sub_vendor: u16,
    /// The subsystem.
    pub sub_device: u16,
    /// Its name in words, where `lspci` wrote that too.
    pub name: String,
}

impl Device {
    /// What the kernel would show in `/sys/bus/pci/devices/*/modalias`.
    pub fn modalias(&self) -> String {
        let Self { class, interface, vendor, device, sub_vendor, sub_device, .. } = self;
        let (base, sub) = (class >> 8, class & 0xff);
        format!(
            "pci:v{vendor:08X}d{device:08X}sv{sub_vendor:08X}sd{sub_device:08X}bc{base:02X}sc{sub:02X}i{interface:02X}"
        )
    }

    /// Virtio's own number of what it is.
    pub fn virtio(&self) -> Option<u16> {
        match self.device {
            _ if self.vendor != VIRTIO_VENDOR => None,
            old if VIRTIO_OLD.contains(&old) => Some(self.sub_device),
            new if VIRTIO_NEW.contains(&new) => Some(new - VIRTIO_NEW.start()),
            _ => None,
        }
    }

    /// The `modalias` of the device behind a virtio transport.
    pub fn virtio_modalias(&self) -> Option<String> {
        self.virtio().map(|kind| format!("virtio:d{kind:08X}v{:08X}", self.sub_vendor))
    }

    /// Whether a host is worse off without a driver for it: disks, networks, USB.
    pub fn needed(&self) -> bool {
        matches!(self.class >> 8, 0x01 | 0x02) || self.class == 0x0c03 || self.virtio().is_some_and(|kind| kind != 5)
    }

    /// Whether its disks are driven by the kernel's SCSI disk driver: all but NVMe, virtio's own and flash memory.
    pub fn has_scsi_disks(&self) -> bool {
        match self.virtio() {
            Some(kind) => kind == VIRTIO_SCSI && kind != VIRTIO_BLOCK,
            None => self.class >> 8 == 0x01 && !matches!(self.class, 0x0108 | 0x0105 | 0x0109),
        }
    }

    /// Its kind in words (PCI Code and ID Assignment 1.11, 1).
    pub fn kind(&self) -> &'static str {
        match (self.class >> 8, self.class & 0xff) {
            (0x01, 0x00) => "SCSI controller",
            (0x01, 0x01) => "IDE controller",
            (0x01, 0x04) => "RAID controller",
            (0x01, 0x06) => "SATA controller",
            (0x01, 0x07) => "SAS controller",
            (0x01, 0x08) => "NVMe controller",
            (0x01, _) => "storage controller",
            (0x02, 0x00) => "Ethernet controller",
            (0x02, 0x07) => "InfiniBand controller",
            (0x02, _) => "network controller",
            (0x03, _) => "display controller",
            (0x04, _) => "multimedia device",
            (0x05, _) => "memory controller",
            (0x06, 0x00) => "host bridge",
            (0x06, 0x01) => "ISA bridge",
            (0x06, 0x04) => "PCI bridge",
            (0x06, _) => "bridge",
            (0x07, _) => "communication controller",
            (0x08, _) => "system device",
            (0x09, _) => "input device",
            (0x0b, _) => "processor",
            (0x0c, 0x03) => "USB controller",
            (0x0c, 0x05) => "SMBus",
            (0x0c, _) => "serial bus controller",
            (0x0d, _) => "wireless controller",
            (0x10, _) => "encryption controller",
            (0x11, _) => "signal processing controller",
            (0x12, _) => "accelerator",
            _ if self.virtio().is_some() => "virtio device",
            _ => "device",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_modalias_is_the_kernels() {
        let sata = Device {
            class: 0x0106,
            interface: 1,
            vendor: 0x8086,
            device: 0x2922,
            sub_vendor: 0x1af4,
            sub_device: 0x1100,
            ..Device::default()
        };
        assert_eq!(sata.modalias(), "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01");
        assert_eq!((sata.kind(), sata.needed(), sata.has_scsi_disks()), ("SATA controller", true, true));
        assert_eq!(sata.virtio_modalias(), None);
    }

    #[test]
    fn virtio_devices_tell_what_they_are() {
        let virtio =
            |device, sub_device| Device { vendor: 0x1af4, sub_vendor: 0x1af4, device, sub_device, ..Device::default() };
        assert_eq!(virtio(0x1000, 1).virtio_modalias().as_deref(), Some("virtio:d00000001v00001AF4"));
        assert_eq!(virtio(0x1042, 0x1100).virtio(), Some(VIRTIO_BLOCK));
        assert!(virtio(0x1048, 0x1100).has_scsi_disks() && !virtio(0x1042, 0x1100).has_scsi_disks());
        // A host gives no memory back: the balloon may stay without a driver.
        assert!(!virtio(0x1045, 0x1100).needed());
        assert_eq!(virtio(0x1110, 0x1100).virtio(), None);
    }
}
