//! What the kernel says of the host in /proc (proc(5)).

use std::path::Path;

use thimble_spec::units::KIB;

/// A line of the text of `/proc/meminfo` (Linux `Documentation/filesystems/proc.rst`), in bytes.
pub fn memory(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(KIB)
}

/// Whether the text of `/proc/self/mounts` has the mount point: its second field.
pub fn is_mounted(place: &str, mounts: &str) -> bool {
    mounts.lines().any(|line| line.split(' ').nth(1).is_some_and(|mounted| Path::new(mounted) == Path::new(place)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use thimble_spec::paths::EXPORT_DIR;
    use thimble_spec::units::MIB;

    #[test]
    fn the_hosts_memory_is_read() {
        assert_eq!(memory("MemTotal:       2048 kB\nMemFree: 1 kB\n", "MemTotal"), Some(2 * MIB));
        assert_eq!(memory("MemTotal:         768000 kB\nMemAvailable: 1024 kB\n", "MemTotal"), Some(750 * MIB));
        assert_eq!(memory("MemFree: 1 kB\n", "MemTotal"), None);
        assert!(memory(&fs::read_to_string("/proc/meminfo").unwrap(), "MemTotal").unwrap() > 0);
    }

    #[test]
    fn a_mount_is_found_by_its_place_among_others() {
        let mounts = "proc /proc proc rw 0 0\n/dev/sda3 /data ext4 rw 0 0\n";
        assert!(is_mounted("/data", mounts) && !is_mounted("/dat", mounts) && !is_mounted("/dev/sda3", mounts));
        assert!(!is_mounted(EXPORT_DIR, "proc /proc proc rw 0 0\nx /thimble/export2 nfs4 ro 0 0\n"));
        assert!(is_mounted(EXPORT_DIR, "proc /proc proc rw 0 0\n10.1.1.1:/srv /thimble/export nfs4 ro,noexec 0 0\n"));
    }
}
