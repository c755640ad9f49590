//! Where the machine tells of its disks.

use std::path::{Path, PathBuf};

/// Roots of the kernel's own file systems.
#[derive(Clone, Debug)]
pub struct System {
    sys: PathBuf,
    proc: PathBuf,
}

impl System {
    /// This machine.
    pub fn this() -> Self {
        Self { sys: "/sys".into(), proc: "/proc".into() }
    }

    /// A tree of files that looks like one: `sys` and `proc` below `root`.
    pub fn made_up(root: &Path) -> Self {
        Self { sys: root.join("sys"), proc: root.join("proc") }
    }

    /// The directory of a block device; `name` is the kernel's.
    pub fn block(&self, name: &str) -> PathBuf {
        self.sys.join("class/block").join(name)
    }

    /// An attribute of a block device, without the white space around it; `None` if it is not there or empty.
    pub fn attribute(&self, name: &str, attribute: &str) -> Option<String> {
        read(&self.block(name).join(attribute))
    }

    /// Names of all block devices, sorted.
    pub fn devices(&self) -> Vec<String> {
        names(&self.sys.join("class/block"))
    }

    /// Names in a directory of a block device, sorted: its holders, its slaves.
    pub fn related(&self, name: &str, directory: &str) -> Vec<String> {
        names(&self.block(name).join(directory))
    }

    /// The partitions of a disk, sorted.
    pub fn partitions(&self, name: &str) -> Vec<String> {
        let is_partition = |entry: &String| self.block(name).join(entry).join("partition").is_file();
        names(&self.block(name)).into_iter().filter(is_partition).collect()
    }

    /// The name of the block device with these numbers, `MAJOR:MINOR`.
    pub fn named(&self, numbers: &str) -> Option<String> {
        self.devices().into_iter().find(|name| self.attribute(name, "dev").as_deref() == Some(numbers))
    }

    /// The file below `/proc`; an empty text if it cannot be read.
    pub fn proc_text(&self, path: &str) -> String {
        std::fs::read_to_string(self.proc.join(path)).unwrap_or_default()
    }
}

/// A small file's text, trimmed.
pub(super) fn read(path: &Path) -> Option<String> {
    let text = String::from_utf8_lossy(&std::fs::read(path).ok()?).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A machine of files: `sda` with two partitions (one mounted at `/`, one of a volume group), a USB stick `sdb` with
    /// one, a card `mmcblk0`, a loop device.
    pub fn machine() -> (tempfile::TempDir, System) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let put = |path: &str, text: &str| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let disk = |place: &str, numbers: &str, bytes: u64, removable: &str| {
            put(&format!("sys/devices/{place}/dev"), &format!("{numbers}\n"));
            put(&format!("sys/devices/{place}/size"), &format!("{}\n", bytes / 512));
            put(&format!("sys/devices/{place}/removable"), &format!("{removable}\n"));
            put(&format!("sys/devices/{place}/ro"), "0\n");
            put(&format!("sys/devices/{place}/queue/logical_block_size"), "512\n");
        };
        let part = |place: &str, numbers: &str, number: &str, bytes: u64| {
            put(&format!("sys/devices/{place}/dev"), numbers);
            put(&format!("sys/devices/{place}/partition"), number);
            put(&format!("sys/devices/{place}/size"), &format!("{}\n", bytes / 512));
            put(&format!("sys/devices/{place}/ro"), "0\n");
        };
        let link = |place: &str| {
            let name = place.rsplit('/').next().unwrap();
            let class = root.join("sys/class/block");
            std::fs::create_dir_all(&class).unwrap();
            std::os::unix::fs::symlink(format!("../../devices/{place}"), class.join(name)).unwrap();
        };
        let (sda, usb) = ("pci0000:00/ata1/host0/block/sda", "pci0000:00/usb2/2-1/2-1:1.0/host6/block/sdb");
        let (card, loop0) = ("pci0000:00/mmc_host/mmc0/mmc0:1/block/mmcblk0", "virtual/block/loop0");
        disk(sda, "8:0", 500_000_000_000, "0");
        put(&format!("sys/devices/{sda}/device/model"), "INTEL SSDSC2KB48\n");
        part(&format!("{sda}/sda1"), "8:1", "1", 1 << 30);
        part(&format!("{sda}/sda2"), "8:2", "2", 400 << 30);
        std::fs::create_dir_all(root.join(format!("sys/devices/{sda}/sda2/holders/dm-0"))).unwrap();
        disk("virtual/block/dm-0", "254:0", 300 << 30, "0");
        put("sys/devices/virtual/block/dm-0/dm/name", "vg-root\n");
        disk(usb, "8:16", 4_000_000_000, "1");
        put("sys/devices/pci0000:00/usb2/2-1/idVendor", "0781\n");
        put("sys/devices/pci0000:00/usb2/2-1/serial", "4C5300\n");
        put(&format!("sys/devices/{usb}/device/vendor"), "SanDisk\n");
        put(&format!("sys/devices/{usb}/device/model"), "Ultra Fit\n");
        part(&format!("{usb}/sdb1"), "8:17", "1", 3_900_000_000);
        disk(card, "179:0", 8_000_000_000, "0");
        put(&format!("sys/devices/{card}/device/type"), "SD\n");
        disk(loop0, "7:0", 100 << 20, "0");
        put("sys/devices/virtual/block/loop0/loop/backing_file", "/tmp/disk.img\n");
        for place in [sda, &format!("{sda}/sda1"), &format!("{sda}/sda2"), "virtual/block/dm-0", usb] {
            link(place);
        }
        for place in [&format!("{usb}/sdb1"), card, loop0] {
            link(place);
        }
        put(
            "proc/self/mountinfo",
            "22 1 0:21 / /proc rw - proc proc rw\n\
             27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/mapper/vg-root rw\n\
             28 27 8:1 / /boot/efi rw - vfat /dev/sda1 rw\n",
        );
        put("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n");
        let system = System::made_up(root);
        (dir, system)
    }

    #[test]
    fn a_tree_of_files_is_read() {
        let (_dir, system) = machine();
        assert_eq!(system.partitions("sda"), ["sda1", "sda2"]);
        assert_eq!(system.partitions("loop0"), [] as [&str; 0]);
        assert_eq!(system.named("8:16").as_deref(), Some("sdb"));
        assert_eq!(system.attribute("sdb", "removable").as_deref(), Some("1"));
        assert_eq!(system.attribute("sdb", "nothing"), None);
        assert_eq!(system.related("sda2", "holders"), ["dm-0"]);
        assert_eq!(system.proc_text("nothing"), "");
    }
}
