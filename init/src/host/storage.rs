//! The node's own data: a partition known by its name, or memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use thimble_spec::paths::{DATA_DIR, DATA_PARTITION};

use crate::early::make_directory;
use crate::error::{Doing, Result};

/// The longest wait for a disk.
pub const LIMIT: Duration = Duration::from_secs(10);

/// Kinds of hardware whose disks may come later than their driver, and how long they are quiet at most before one does.
/// All others are there when their module is loaded: finit_module(2) waits for asynchronous probes
/// (`async_synchronize_full` in kernel/module/main.c).
const SLOW: [(&str, Duration); 4] = [
    // A storage device on USB waits for a second before its first command (`delay_use`).
    ("/sys/bus/usb/drivers/usb-storage", Duration::from_millis(2500)),
    ("/sys/class/fc_host", Duration::from_secs(3)),
    ("/sys/class/sas_host", Duration::from_secs(3)),
    // Hubs are asked for their ports one after the other.
    ("/sys/bus/usb/devices", Duration::from_millis(500)),
];

/// How long to wait, since the last event, for a disk that may still come; none if it cannot.
pub fn patience() -> Option<Duration> {
    // A bus or a class without a device, and a driver that drives nothing, have no links in their directories.
    let in_use = |path: &str| {
        fs::read_dir(path).is_ok_and(|entries| {
            entries
                .flatten()
                .any(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink()) && entry.file_name() != "module")
        })
    };
    SLOW.iter().filter(|(path, _)| in_use(path)).map(|(_, patience)| *patience).max()
}

/// The data partition's node, if it is there.
pub fn find() -> Option<PathBuf> {
    let entries = fs::read_dir("/sys/class/block").ok()?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| device_of(&fs::read_to_string(entry.path().join("uevent")).ok()?).map(str::to_owned))
        .collect();
    // With two, the same one at every start.
    names.sort_unstable();
    names.first().map(|name| Path::new("/dev").join(name)).filter(|path| path.exists())
}

/// The device name in a block device's `uevent` file, if that is the data partition.
fn device_of(uevent: &str) -> Option<&str> {
    let value = |key: &str| uevent.lines().find_map(|line| line.strip_prefix(key));
    value("DEVNAME=").filter(|_| value("PARTNAME=") == Some(DATA_PARTITION))
}

/// Mounts the data partition.
pub fn mount_partition(device: &Path) -> Result<()> {
    make_directory(DATA_DIR, 0o755)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
    mount(Some(device), DATA_DIR, Some("ext4"), flags, None::<&str>)
        .doing(|| format!("mount the data partition {} as ext4", device.display()))
}

/// Mounts memory in its place.
pub fn mount_memory() -> Result<()> {
    make_directory(DATA_DIR, 0o755)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
    mount(Some("tmpfs"), DATA_DIR, Some("tmpfs"), flags, Some("mode=755"))
        .doing(|| format!("mount a tmpfs at {DATA_DIR}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partition_is_known_by_its_name() {
        let ours = "MAJOR=254\nMINOR=1\nDEVNAME=vda1\nDEVTYPE=partition\nPARTN=1\nPARTNAME=thimble-data\n";
        assert_eq!(device_of(ours), Some("vda1"));
        assert_eq!(device_of(&ours.replace("thimble-data", "thimble-data2")), None);
        assert_eq!(device_of("DEVNAME=vda\nDEVTYPE=disk\n"), None);
        assert_eq!(device_of(""), None);
    }
}
