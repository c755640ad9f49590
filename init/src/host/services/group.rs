//! A control group for each service (Linux `Documentation/admin-guide/cgroup-v2.rst`): its limits, its memory, and a way to
//! end all that it started.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use thimble_spec::service::Limits;
use thimble_spec::units::MIB;

use crate::error::{Doing, Result};

/// Where the unified hierarchy is mounted.
pub const HIERARCHY: &str = "/sys/fs/cgroup";
/// Our part of it; the guests have another.
const OURS: &str = "services";
/// The period that a part of a processor is counted by, in microseconds (the kernel's own default).
const PERIOD_US: u64 = 100_000;
/// What the limits need.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// Makes the group of a service with these limits and opens the file by which a process joins it; none on a kernel
/// without control groups.
///
/// # Errors
/// A limit is asked for that the kernel cannot set.
pub fn make(hierarchy: &Path, name: &str, limits: &Limits) -> Result<Option<File>> {
    let controllers = hierarchy.join("cgroup.controllers");
    let offered = match fs::read_to_string(&controllers) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        offered => offered.doing(|| format!("read {}", controllers.display()))?,
    };
    let place = place(hierarchy, name);
    fs::create_dir_all(&place).doing(|| format!("make {}", place.display()))?;
    let used = CONTROLLERS.iter().filter(|controller| offered.split_whitespace().any(|word| word == **controller));
    let enabled: Vec<String> = used.map(|controller| format!("+{controller}")).collect();
    if !enabled.is_empty() {
        for parent in [hierarchy.to_owned(), hierarchy.join(OURS)] {
            write(&parent.join("cgroup.subtree_control"), &enabled.join(" "))?;
        }
    }
    for (file, value) in values(limits) {
        write(&place.join(file), &value)?;
    }
    let procs = place.join("cgroup.procs");
    OpenOptions::new().write(true).open(&procs).doing(|| format!("open {}", procs.display())).map(Some)
}

/// The files of the limits that are set, and what they hold.
fn values(limits: &Limits) -> Vec<(&'static str, String)> {
    let memory = limits.memory_mib.map(|mib| ("memory.max", mib.saturating_mul(MIB).to_string()));
    let cpu = limits
        .cpu_percent
        .map(|percent| ("cpu.max", format!("{} {PERIOD_US}", u64::from(percent).saturating_mul(PERIOD_US / 100))));
    let tasks = limits.tasks.map(|tasks| ("pids.max", tasks.to_string()));
    [memory, cpu, tasks].into_iter().flatten().collect()
}

/// Ends everything in it (Linux 5.14).
pub fn kill(hierarchy: &Path, name: &str) {
    let file = OpenOptions::new().write(true).open(place(hierarchy, name).join("cgroup.kill"));
    // Without one there is nothing to end.
    let _ = file.and_then(|mut file| file.write_all(b"1"));
}

/// What it holds of memory, in bytes.
pub fn memory(hierarchy: &Path, name: &str) -> Option<u64> {
    fs::read_to_string(place(hierarchy, name).join("memory.current")).ok()?.trim().parse().ok()
}

fn place(hierarchy: &Path, name: &str) -> PathBuf {
    hierarchy.join(OURS).join(name)
}

/// No file is made: what the kernel does not offer is an error.
fn write(path: &Path, value: &str) -> Result<()> {
    let file = OpenOptions::new().write(true).truncate(true).open(path);
    file.and_then(|mut file| file.write_all(value.as_bytes())).doing(|| format!("write {value} to {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_become_what_the_kernel_reads() {
        assert_eq!(values(&Limits::default()), []);
        let limits = Limits { memory_mib: Some(16), cpu_percent: Some(150), tasks: Some(8) };
        let values = values(&limits);
        let wanted = [("memory.max", "16777216"), ("cpu.max", "150000 100000"), ("pids.max", "8")];
        assert!(values.iter().map(|(file, value)| (*file, value.as_str())).eq(wanted), "{values:?}");
    }

    #[test]
    fn a_kernel_without_control_groups_has_none_and_one_without_a_limit_says_so() {
        let place = tempfile::tempdir().unwrap();
        assert!(make(place.path(), "a", &Limits::default()).unwrap().is_none());
        // A hierarchy that offers nothing:
        fs::write(place.path().join("cgroup.controllers"), "\n").unwrap();
        fs::create_dir_all(place.path().join("services/a")).unwrap();
        fs::write(place.path().join("services/a/cgroup.procs"), "").unwrap();
        assert!(make(place.path(), "a", &Limits::default()).unwrap().is_some());
        let limits = Limits { tasks: Some(1), ..Limits::default() };
        assert!(make(place.path(), "a", &limits).unwrap_err().sentence().contains("pids.max"));
        assert_eq!(memory(place.path(), "a"), None);
        kill(place.path(), "a");
    }
}
