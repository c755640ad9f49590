//! A cgroup for each guest: its VMM can use up neither the host's memory nor its process table (Linux
//! `Documentation/admin-guide/cgroup-v2.rst`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thimble_spec::units::MIB;

/// Where PID 1 mounts the unified hierarchy.
const HIERARCHY: &str = "/sys/fs/cgroup";
/// Our part of it.
const OURS: &str = "thimble";
/// The controllers that the limits below need.
const CONTROLLERS: &str = "+memory +pids";
/// What a VMM may need besides its guest's memory: the guest's page tables in KVM (up to 2 MiB for each GiB), itself and
/// its minder, the kernel's buffers for its sockets and disks. Page cache that it causes is taken back when this is full.
const OVERHEAD: u64 = 64 * MIB;
/// Threads besides those that the description tells of: minder, main, and those of devices with one lane.
const THREADS: u64 = 64;

/// Makes the guest's cgroup, or sets the limits of the one that is there, for `memory` bytes of the guest's and the
/// `threads` of its vCPUs and lanes; `None` on a host without the hierarchy.
///
/// # Errors
/// The kernel refuses a limit.
pub fn make(guest: &str, memory: u64, threads: u64) -> io::Result<Option<PathBuf>> {
    make_in(Path::new(HIERARCHY), guest, memory, threads)
}

fn make_in(hierarchy: &Path, guest: &str, memory: u64, threads: u64) -> io::Result<Option<PathBuf>> {
    if !hierarchy.join("cgroup.controllers").exists() {
        return Ok(None);
    }
    let ours = hierarchy.join(OURS);
    let place = ours.join(guest);
    fs::create_dir_all(&place)?;
    for parent in [hierarchy, &ours] {
        fs::write(parent.join("cgroup.subtree_control"), CONTROLLERS)?;
    }
    fs::write(place.join("memory.max"), memory.saturating_add(OVERHEAD).to_string())?;
    fs::write(place.join("pids.max"), (THREADS + threads).to_string())?;
    Ok(Some(place))
}

/// Removes the guest's cgroup; one that isn't there, or where a process still ends, is no error: the next start uses it.
pub fn remove(guest: &str) {
    let _ = fs::remove_dir(Path::new(HIERARCHY).join(OURS).join(guest));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_the_hierarchy_has_none() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(make_in(directory.path(), "web1", 128 * MIB, 1).unwrap(), None);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn limits_are_the_guests_and_a_fixed_rest() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("cgroup.controllers"), "memory pids").unwrap();
        for _ in 0..2 {
            let place = make_in(directory.path(), "web1", 128 * MIB, 2).unwrap().unwrap();
            assert_eq!(place, directory.path().join("thimble/web1"));
            assert_eq!(fs::read_to_string(place.join("memory.max")).unwrap(), (192 * MIB).to_string());
            assert_eq!(fs::read_to_string(place.join("pids.max")).unwrap(), "66");
        }
    }
}
