//! A cgroup for each guest: its VMM can use up neither the host's memory nor its process table (Linux
//! `Documentation/admin-guide/cgroup-v2.rst`).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use thimble_spec::units::MIB;
use tokio::time::sleep;

use crate::say;

/// Where PID 1 mounts the unified hierarchy.
const HIERARCHY: &str = "/sys/fs/cgroup";
/// Our part of it.
const OURS: &str = "thimble";
/// The controllers that the limits below need.
const CONTROLLERS: [&str; 2] = ["memory", "pids"];
/// What a VMM may need besides its guest's memory, whatever its size: itself and its minder, qcow2 tables, the kernel's
/// buffers for its sockets, packets and disks. Page cache that it causes is taken back when this is full.
const OVERHEAD: u64 = 64 * MIB;
/// What it may need for its guest's memory, as a part of it. Each page of 4 KiB can have an entry of 8 bytes in a table
/// of the VMM's, one in a table of KVM's, one in KVM's reverse map, which a guest with guests of its own makes it keep,
/// and one in the shadow of such a guest's tables: four times 1/512. The kernel counts all of it here.
const PART_FOR_TABLES: u64 = 128;
/// Tasks besides those that the description tells of: the minder, the main thread, the lanes of the image's disk and of
/// devices that have one (entropy, console, balloon, socket), KVM's own (`kvm-nx-lpage-recovery`), which since Linux
/// 6.13 is a thread of the VMM as vhost's workers are since 6.4: a dozen. The rest is room.
const THREADS: u64 = 64;

/// Makes the guest's cgroup, or sets the limits of the one that is there, for `memory` bytes of the guest's and the
/// `threads` of its vCPUs and lanes; `None` on a host without the hierarchy. What a host cannot limit it does without,
/// and says so once.
///
/// # Errors
/// The kernel refuses a limit.
pub fn make(guest: &str, memory: u64, threads: u64) -> io::Result<Option<PathBuf>> {
    let made = make_in(Path::new(HIERARCHY), guest, memory, threads)?;
    if !made.lacking.is_empty() {
        static TOLD: Once = Once::new();
        let lacking = made.lacking.join(" and ");
        TOLD.call_once(|| say::note(&format!("this host's kernel has no cgroups for {lacking}: guests go without")));
    }
    Ok(made.place)
}

/// What came of the wish for a cgroup.
#[derive(Debug, PartialEq, Eq)]
struct Made {
    place: Option<PathBuf>,
    /// Controllers that the host lacks.
    lacking: Vec<&'static str>,
}

fn make_in(hierarchy: &Path, guest: &str, memory: u64, threads: u64) -> io::Result<Made> {
    let offered = match fs::read_to_string(hierarchy.join("cgroup.controllers")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Made { place: None, lacking: CONTROLLERS.to_vec() });
        }
        offered => offered?,
    };
    let offers = |controller: &&str| offered.split_whitespace().any(|offered| offered == *controller);
    let (used, lacking): (Vec<&str>, Vec<&str>) = CONTROLLERS.into_iter().partition(offers);
    let ours = hierarchy.join(OURS);
    let place = ours.join(guest);
    fs::create_dir_all(&place)?;
    let enabled: Vec<String> = used.iter().map(|controller| format!("+{controller}")).collect();
    for parent in [hierarchy, &ours] {
        // Without a word in it the kernel would refuse.
        if !enabled.is_empty() {
            fs::write(parent.join("cgroup.subtree_control"), enabled.join(" "))?;
        }
    }
    if used.contains(&"memory") {
        let most = memory.saturating_add(OVERHEAD + memory / PART_FOR_TABLES);
        fs::write(place.join("memory.max"), most.to_string())?;
        forbid_swap(&place)?;
    }
    if used.contains(&"pids") {
        fs::write(place.join("pids.max"), (THREADS + threads).to_string())?;
    }
    Ok(Made { place: Some(place), lacking })
}

/// What goes beyond its memory would else go to the host's swap. A kernel without swap has no such limit.
fn forbid_swap(place: &Path) -> io::Result<()> {
    match File::options().write(true).truncate(true).open(place.join("memory.swap.max")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        file => file?.write_all(b"0"),
    }
}

/// The guest's cgroup, whether it is there or not.
pub fn place(guest: &str) -> PathBuf {
    Path::new(HIERARCHY).join(OURS).join(guest)
}

/// Kills whatever is in the guest's cgroup: its VMM and that one's minder (Linux 5.14). Without one there is nothing to
/// be done.
pub fn kill(guest: &str) {
    kill_in(Path::new(HIERARCHY), guest);
}

fn kill_in(hierarchy: &Path, guest: &str) {
    let file = File::options().write(true).open(hierarchy.join(OURS).join(guest).join("cgroup.kill"));
    let _ = file.and_then(|mut file| file.write_all(b"1"));
}

/// How often, and how long apart, it is tried to remove a cgroup. A VMM whose minder is gone is still there for as long
/// as the kernel needs to forget its virtual machine, some tens of milliseconds.
const REMOVALS: u32 = 40;
const BETWEEN_REMOVALS: Duration = Duration::from_millis(50);

/// Removes the guest's cgroup once its last process is gone. One that isn't there, or where a process stays, is no error:
/// the next start uses it.
pub async fn remove(guest: &str) {
    remove_place(&place(guest)).await;
}

async fn remove_place(place: &Path) {
    for _ in 0..REMOVALS {
        match fs::remove_dir(place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => sleep(BETWEEN_REMOVALS).await,
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use thimble_spec::units::GIB;

    /// A hierarchy whose kernel has these controllers.
    fn hierarchy(controllers: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("cgroup.controllers"), controllers).unwrap();
        directory
    }

    #[test]
    fn a_host_without_the_hierarchy_has_none() {
        let directory = tempfile::tempdir().unwrap();
        let made = make_in(directory.path(), "web1", 128 * MIB, 1).unwrap();
        assert_eq!(made, Made { place: None, lacking: vec!["memory", "pids"] });
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn limits_are_the_guests_and_a_rest_that_grows_with_it() {
        for (memory, most) in [(128 * MIB, 193 * MIB), (128 * GIB, 129 * GIB + 64 * MIB)] {
            let hierarchy = hierarchy("cpuset cpu io memory pids\n");
            for _ in 0..2 {
                let made = make_in(hierarchy.path(), "web1", memory, 2).unwrap();
                let place = hierarchy.path().join("thimble/web1");
                assert_eq!(made, Made { place: Some(place.clone()), lacking: vec![] });
                assert_eq!(fs::read_to_string(place.join("memory.max")).unwrap(), most.to_string());
                assert_eq!(fs::read_to_string(place.join("pids.max")).unwrap(), "66");
                assert!(!place.join("memory.swap.max").exists(), "a kernel without swap has no such file");
                for parent in [hierarchy.path(), &hierarchy.path().join("thimble")] {
                    assert_eq!(fs::read_to_string(parent.join("cgroup.subtree_control")).unwrap(), "+memory +pids");
                }
            }
        }
    }

    #[tokio::test]
    async fn a_cgroup_is_removed_when_its_last_process_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let (place, process) = (directory.path().join("web1"), directory.path().join("web1/process"));
        fs::create_dir_all(&process).unwrap();
        let end = async {
            sleep(2 * BETWEEN_REMOVALS).await;
            assert!(place.exists());
            fs::remove_dir(&process).unwrap();
        };
        tokio::join!(remove_place(&place), end);
        assert!(!place.exists());
        remove_place(&place).await;
    }

    #[test]
    fn a_guest_has_no_swap_where_there_is_some() {
        let hierarchy = hierarchy("memory pids");
        let place = hierarchy.path().join("thimble/web1");
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join("memory.swap.max"), "max").unwrap();
        make_in(hierarchy.path(), "web1", 128 * MIB, 2).unwrap();
        assert_eq!(fs::read_to_string(place.join("memory.swap.max")).unwrap(), "0");
    }

    #[test]
    fn only_the_guests_own_cgroup_is_killed() {
        let hierarchy = hierarchy("memory pids");
        for guest in ["web1", "web2"] {
            let place = make_in(hierarchy.path(), guest, 128 * MIB, 2).unwrap().place.unwrap();
            fs::write(place.join("cgroup.kill"), "").unwrap();
        }
        kill_in(hierarchy.path(), "web2");
        kill_in(hierarchy.path(), "web3");
        let killed = |guest| fs::read_to_string(hierarchy.path().join("thimble").join(guest).join("cgroup.kill"));
        assert_eq!((killed("web1").unwrap().as_str(), killed("web2").unwrap().as_str()), ("", "1"));
        assert!(killed("web3").is_err());
    }

    #[test]
    fn a_controller_that_a_host_lacks_is_not_asked_for() {
        let lacks_memory = hierarchy("cpu pids");
        let made = make_in(lacks_memory.path(), "web1", 128 * MIB, 2).unwrap();
        let place = made.place.unwrap();
        assert_eq!(made.lacking, ["memory"]);
        assert_eq!(fs::read_to_string(lacks_memory.path().join("cgroup.subtree_control")).unwrap(), "+pids");
        assert!(!place.join("memory.max").exists() && place.join("pids.max").exists());

        let lacks_all = hierarchy("\n");
        let made = make_in(lacks_all.path(), "web1", 128 * MIB, 2).unwrap();
        assert_eq!(made.lacking, ["memory", "pids"]);
        assert_eq!(fs::read_dir(made.place.unwrap()).unwrap().count(), 0);
        assert!(!lacks_all.path().join("cgroup.subtree_control").exists());
    }
}
