//! One disk, as it tells of itself in `/sys/class/block` (Linux, Documentation/ABI/stable/sysfs-block).

use std::path::Path;

use serde::Serialize;

use super::system::{self, System};

/// Bytes of what `/sys` counts sizes in, whatever the disk's own sectors are.
const SYSFS_SECTOR: u64 = 512;

/// A whole disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// The kernel's name, such as `sdb`.
    pub name: String,
    /// Who made it and what it is called; empty if it doesn't say.
    pub model: String,
    /// Empty if it doesn't say.
    pub serial: String,
    /// Size in bytes; 0 where no medium is in the drive.
    pub bytes: u64,
    /// Bytes of a logical sector.
    pub sector: u64,
    /// How it is fastened to the machine.
    pub bus: Bus,
    /// Whether the medium or the drive can be taken out.
    pub removable: bool,
    /// Whether the kernel refuses to write to it.
    pub read_only: bool,
    /// Names of its partitions.
    pub partitions: Vec<String>,
}

/// How a disk is fastened to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bus {
    /// USB.
    Usb,
    /// SD and MMC cards, and eMMC.
    Mmc,
    /// A file that the kernel shows as a disk.
    Loop,
    /// Inside the machine: SATA, SAS, NVMe, virtio.
    Internal,
}

/// What a block device's name says that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A disk of its own.
    Disk,
    /// A part of that disk.
    PartitionOf(String),
    /// Made of something else, or no disk: in words.
    Other(&'static str),
}

/// Kernel names that stand for no disk of their own (Linux, Documentation/admin-guide/devices.txt).
const OTHERS: [(&str, &str); 7] = [
    ("dm-", "a volume of the device mapper (LVM, LUKS, multipath)"),
    ("md", "a RAID array"),
    ("zram", "compressed memory"),
    ("ram", "memory"),
    ("sr", "an optical drive"),
    ("fd", "a floppy drive"),
    ("mtd", "raw flash, which no partition table fits"),
];

/// What the block device with this kernel name is.
pub fn kind(system: &System, name: &str) -> Kind {
    if system.attribute(name, "partition").is_some() {
        // The directory of a partition lies in its disk's.
        let above = std::fs::canonicalize(system.block(name))
            .ok()
            .and_then(|path| Some(path.parent()?.file_name()?.to_string_lossy().into_owned()));
        return Kind::PartitionOf(above.unwrap_or_else(|| "its disk".to_owned()));
    }
    // eMMC has partitions of its own kind, which look like disks: the firmware's boot areas, and protected memory.
    if name.starts_with("mmcblk") && ["boot", "rpmb", "gp"].iter().any(|area| name.contains(area)) {
        return Kind::Other("a special area of an eMMC");
    }
    let numbered = |prefix: &str| {
        name.strip_prefix(prefix)
            .is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit() || first == '_'))
    };
    OTHERS.iter().find(|(prefix, _)| numbered(prefix)).map_or(Kind::Disk, |(_, words)| Kind::Other(words))
}

impl Disk {
    /// Reads what is known of a disk.
    pub fn read(system: &System, name: &str) -> Self {
        let number = |attribute: &str| system.attribute(name, attribute).and_then(|text| text.parse::<u64>().ok());
        let place = std::fs::canonicalize(system.block(name)).unwrap_or_default();
        let bus = bus(system, name, &place);
        Self {
            name: name.to_owned(),
            model: model(system, name),
            serial: serial(system, name, &place),
            bytes: number("size").unwrap_or(0).saturating_mul(SYSFS_SECTOR),
            sector: number("queue/logical_block_size").unwrap_or(SYSFS_SECTOR),
            bus,
            removable: number("removable") == Some(1) || matches!(bus, Bus::Usb | Bus::Mmc),
            read_only: number("ro") == Some(1),
            partitions: system.partitions(name),
        }
    }

    /// All disks of a machine that have a medium; loop devices only where they have a file.
    pub fn all(system: &System) -> Vec<Self> {
        let disks = system.devices().into_iter().filter(|name| kind(system, name) == Kind::Disk);
        disks.map(|name| Self::read(system, &name)).filter(|disk| disk.bytes > 0).collect()
    }

    /// Path of its device.
    pub fn path(&self) -> String {
        device_path(&self.name)
    }

    /// `4.0 GB USB disk SanDisk Ultra Fit, serial 4C5300`.
    pub fn describe(&self) -> String {
        let what = match self.bus {
            Bus::Usb => "USB disk",
            Bus::Mmc => "memory card",
            Bus::Loop => "loop device",
            Bus::Internal => "internal disk",
        };
        let mut text = format!("{} {what}", size(self.bytes));
        if !self.model.is_empty() {
            text.push_str(&format!(" {}", self.model));
        }
        if !self.serial.is_empty() {
            text.push_str(&format!(", serial {}", self.serial));
        }
        text
    }
}

/// Path of a block device; the kernel writes `!` for a slash in a name.
pub fn device_path(name: &str) -> String {
    format!("/dev/{}", name.replace('!', "/"))
}

/// Decimal units, which is what is printed on disks.
pub fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1000, "kB")];
    let unit = UNITS.iter().find(|(unit, _)| bytes >= *unit);
    unit.map_or_else(|| format!("{bytes} bytes"), |(unit, name)| format!("{:.1} {name}", bytes as f64 / *unit as f64))
}

fn bus(system: &System, name: &str, place: &Path) -> Bus {
    let through = |prefix: &str| {
        let parts = place.components().map(|part| part.as_os_str().to_string_lossy().into_owned());
        parts.into_iter().any(|part| {
            part.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
        })
    };
    if name.starts_with("loop") {
        Bus::Loop
    } else if name.starts_with("mmcblk") && system.attribute(name, "device/type").is_some() {
        Bus::Mmc
    } else if through("usb") {
        Bus::Usb
    } else {
        Bus::Internal
    }
}

fn model(system: &System, name: &str) -> String {
    let attribute = |attribute: &str| system.attribute(name, attribute);
    // ATA disks have "ATA" for a vendor, which says nothing.
    let vendor = attribute("device/vendor").filter(|vendor| vendor != "ATA" && !vendor.starts_with("0x"));
    let model = attribute("device/model").or_else(|| attribute("device/name"));
    let model = model.or_else(|| attribute("loop/backing_file"));
    [vendor, model].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn serial(system: &System, name: &str, place: &Path) -> String {
    let own = ["device/serial", "serial"].iter().find_map(|attribute| system.attribute(name, attribute));
    // The serial number of a USB disk is its USB device's, which is the one above that has a vendor.
    let usb = || {
        let device = place.ancestors().find(|path| path.join("idVendor").is_file())?;
        system::read(&device.join("serial"))
    };
    own.or_else(usb).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::system::tests::machine;
    use super::*;

    #[test]
    fn a_disk_tells_of_itself() {
        let (_dir, system) = machine();
        let stick = Disk::read(&system, "sdb");
        assert_eq!((stick.bus, stick.removable, stick.bytes), (Bus::Usb, true, 4_000_000_000));
        assert_eq!(stick.describe(), "4.0 GB USB disk SanDisk Ultra Fit, serial 4C5300");
        let inside = Disk::read(&system, "sda");
        assert_eq!((inside.bus, inside.removable), (Bus::Internal, false));
        assert_eq!(inside.partitions, ["sda1", "sda2"]);
        // A card in a reader that does not call itself removable still is a card.
        assert!(Disk::read(&system, "mmcblk0").removable);
        assert_eq!(Disk::read(&system, "loop0").model, "/tmp/disk.img");
    }

    #[test]
    fn names_say_what_is_no_disk() {
        let (_dir, system) = machine();
        assert_eq!(kind(&system, "sda"), Kind::Disk);
        assert_eq!(kind(&system, "sda2"), Kind::PartitionOf("sda".to_owned()));
        for name in ["dm-0", "md127", "md_d0", "zram0", "sr0", "mmcblk0boot1", "mmcblk1rpmb"] {
            assert!(matches!(kind(&system, name), Kind::Other(_)), "{name}");
        }
        for name in ["nvme0n1", "vda", "mmcblk0", "loop3", "nbd0", "cciss!c0d0"] {
            assert_eq!(kind(&system, name), Kind::Disk, "{name}");
        }
        let all: Vec<String> = Disk::all(&system).into_iter().map(|disk| disk.name).collect();
        assert_eq!(all, ["loop0", "mmcblk0", "sda", "sdb"]);
        assert_eq!(device_path("cciss!c0d0"), "/dev/cciss/c0d0");
    }

    #[test]
    fn sizes_are_those_of_the_label() {
        assert_eq!(size(67_108_864), "67.1 MB");
        assert_eq!(size(500), "500 bytes");
        assert_eq!(size(2_000_398_934_016), "2.0 TB");
    }
}
