//! What the kernel says of the host in /proc (proc(5)).

use std::path::Path;

use thimble_spec::units::KIB;

/// A line of the text of `/proc/meminfo` (Linux `Documentation/filesystems/proc.rst`), in bytes.
pub fn memory(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(KIB)
}

/// What stands behind `name` and a colon, as in `/proc/cpuinfo` and `/proc/PID/status`.
pub fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim_start().strip_prefix(':')?.trim()))
}

/// Whether the text of `/proc/self/mounts` has the mount point.
pub fn is_mounted(place: &str, mounts: &str) -> bool {
    kind_of_mount(place, mounts).is_some()
}

/// Whether what is written there outlives the host: it is mounted, and not memory, which PID 1 puts in the data partition's place
/// where there is none.
pub fn is_kept(place: &str, mounts: &str) -> bool {
    kind_of_mount(place, mounts).is_some_and(|kind| kind != "tmpfs")
}

/// The file system at the mount point, of those over one another the last: the second and third field.
fn kind_of_mount<'a>(place: &str, mounts: &'a str) -> Option<&'a str> {
    mounts.lines().rev().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        (Path::new(fields.next()?) == Path::new(place)).then(|| fields.next())?
    })
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
    fn a_value_stands_behind_its_name() {
        assert_eq!(value("processor\t: 0\nmodel name\t: QEMU TCG CPU\n", "model name"), Some("QEMU TCG CPU"));
        assert_eq!(value("NSpid:\t7\nPPid:\t1\n", "PPid"), Some("1"));
        assert_eq!(value("model\t: 6\n", "model name"), None);
    }

    #[test]
    fn memory_is_not_kept() {
        let partition = "proc /proc proc rw 0 0\n/dev/sda3 /data ext4 rw 0 0\n";
        assert!(is_kept("/data", partition) && !is_kept("/dat", partition));
        assert!(!is_kept("/data", "tmpfs /data tmpfs rw 0 0\n"));
        assert!(!is_kept("/data", &format!("{partition}tmpfs /data tmpfs rw 0 0\n")), "what is over it counts");
    }

    #[test]
    fn a_mount_is_found_by_its_place_among_others() {
        let mounts = "proc /proc proc rw 0 0\n/dev/sda3 /data ext4 rw 0 0\n";
        assert!(is_mounted("/data", mounts) && !is_mounted("/dat", mounts) && !is_mounted("/dev/sda3", mounts));
        assert!(!is_mounted(EXPORT_DIR, "proc /proc proc rw 0 0\nx /thimble/export2 nfs4 ro 0 0\n"));
        assert!(is_mounted(EXPORT_DIR, "proc /proc proc rw 0 0\n10.1.1.1:/srv /thimble/export nfs4 ro,noexec 0 0\n"));
    }
}
