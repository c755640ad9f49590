//! What administrators and programs are told of a host's storage.

use std::fs;
use std::net::SocketAddr;

use serde::Serialize;
use thimble_spec::appliance::{Iscsi, Luks, Raid, Storage};

use crate::iscsi::{Link, Session, sessions};
use crate::observe::{array_directory, rows, word};
use crate::observed::Observed;
use crate::plan::{Patience, plan};
use crate::{Result, tools};

/// All of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    /// iSCSI targets.
    pub targets: Vec<TargetStatus>,
    /// Declared disks.
    pub disks: Vec<DiskStatus>,
    /// Arrays.
    pub arrays: Vec<ArrayStatus>,
    /// LUKS containers.
    pub containers: Vec<ContainerStatus>,
    /// Volumes and pools of declared groups.
    pub volumes: Vec<VolumeStatus>,
    /// Declared file systems and exports.
    pub filesystems: Vec<FilesystemStatus>,
    /// What is left to do.
    pub steps: Vec<String>,
    /// What somebody has to look at.
    pub problems: Vec<String>,
    /// What is not there.
    pub waiting: Vec<String>,
    /// What waits for something else.
    pub held: Vec<String>,
}

/// An iSCSI target.
#[derive(Clone, Debug, Serialize)]
pub struct TargetStatus {
    /// What it is called here.
    pub name: String,
    /// Its own name.
    pub target: String,
    /// Where it is reached.
    pub portal: SocketAddr,
    /// How the connection is, if there is a session.
    pub link: Option<Link>,
}

/// A disk.
#[derive(Clone, Debug, Serialize)]
pub struct DiskStatus {
    /// Its name in the definition.
    pub name: String,
    /// The kernel's name of it, if it is there.
    pub device: Option<String>,
    /// Bytes.
    pub size: Option<u64>,
    /// What is on it.
    pub content: Option<String>,
}

/// An array.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ArrayStatus {
    /// Its name.
    pub name: String,
    /// The kernel's name of it, if it runs.
    pub device: Option<String>,
    /// RAID level.
    pub level: u8,
    /// Members that it lacks.
    pub degraded: u64,
    /// The kernel's names of its members.
    pub members: Vec<String>,
    /// The names of those that failed or were replaced, and are still there.
    pub failed: Vec<String>,
    /// What the kernel does with it: `idle`, `resync`, `recover`, `check`, `repair`.
    pub action: String,
    /// How far that is, in thousandths.
    pub done_per_mille: Option<u64>,
    /// Sectors in which the last check found a difference.
    pub mismatches: u64,
}

/// A LUKS container.
#[derive(Clone, Debug, Serialize)]
pub struct ContainerStatus {
    /// Its name.
    pub name: String,
    /// The kernel's name of what is in it, if it is open.
    pub device: Option<String>,
    /// The kernel's name of what it is on, then.
    pub on: Option<String>,
}

/// A volume or a thin pool.
#[derive(Clone, Debug, Serialize)]
pub struct VolumeStatus {
    /// Group and name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Of a pool and of what takes from one: how much of it is in use, in percent.
    pub used_percent: Option<f64>,
    /// Of a pool: how much of the room for its own notes is in use, in percent.
    pub notes_percent: Option<f64>,
}

/// A file system.
#[derive(Clone, Debug, Serialize)]
pub struct FilesystemStatus {
    /// Where it is mounted.
    pub mount: String,
    /// Whether it is.
    pub mounted: bool,
    /// Bytes.
    pub size: Option<u64>,
    /// Bytes that are free.
    pub free: Option<u64>,
}

/// Puts it together.
///
/// # Errors
/// LVM gives no report.
pub fn status(storage: &Storage, observed: &Observed) -> Result<Status> {
    let plan = plan(storage, observed, Patience::Over);
    let disks = storage.disks.keys().map(|name| {
        let path = Storage::disk_path(name);
        let device = observed.names.get(&path).filter(|device| observed.blocks.contains_key(*device));
        let block = device.and_then(|device| observed.blocks.get(device));
        DiskStatus {
            name: name.clone(),
            device: device.cloned(),
            size: block.map(|block| block.size),
            content: block.map(|block| block.found.describe()),
        }
    });
    let nfs = storage.nfs.iter().map(|nfs| &nfs.mount);
    let mounts = storage.filesystems.iter().map(|filesystem| &filesystem.mount).chain(nfs);
    let sessions = sessions();
    Ok(Status {
        targets: storage.iscsi.iter().map(|iscsi| target(iscsi, &sessions)).collect(),
        disks: disks.collect(),
        arrays: storage.raids.iter().map(|raid| array(raid, observed)).collect(),
        containers: storage.luks.iter().map(|luks| container(luks, observed)).collect(),
        volumes: if storage.groups.is_empty() { Vec::new() } else { volumes(storage)? },
        // A server that is away would make whoever asks wait for it: exports are told without their space.
        filesystems: mounts.map(|mount| filesystem(mount, observed.mounts.get(mount).map(String::as_str))).collect(),
        steps: plan.steps.iter().map(ToString::to_string).collect(),
        problems: plan.problems,
        waiting: plan.waiting,
        held: plan.held,
    })
}

fn target(iscsi: &Iscsi, sessions: &[Session]) -> TargetStatus {
    let session = sessions.iter().find(|session| session.target == iscsi.target);
    let link = session.map(|session| session.link);
    TargetStatus { name: iscsi.name.clone(), target: iscsi.target.clone(), portal: iscsi.portal, link }
}

fn container(luks: &Luks, observed: &Observed) -> ContainerStatus {
    let open = observed.containers.get(&luks.name);
    let (device, on) = (open.map(|it| it.block.clone()), open.map(|it| it.on.clone()));
    ContainerStatus { name: luks.name.clone(), device, on }
}

fn filesystem(mount: &str, device: Option<&str>) -> FilesystemStatus {
    let local = device.is_some_and(|device| device.starts_with("/dev/"));
    let space = local.then(|| nix::sys::statvfs::statvfs(mount).ok()).flatten();
    FilesystemStatus {
        mount: mount.to_owned(),
        mounted: device.is_some(),
        size: space.map(|space| space.blocks().saturating_mul(space.fragment_size())),
        free: space.map(|space| space.blocks_available().saturating_mul(space.fragment_size())),
    }
}

/// What the kernel says of an array.
pub fn array(raid: &Raid, observed: &Observed) -> ArrayStatus {
    let mut status = ArrayStatus { name: raid.name.clone(), level: raid.level, ..ArrayStatus::default() };
    let Some(array) = observed.arrays.iter().find(|array| array.name == raid.name && array.active) else {
        return status;
    };
    let health = health(&array.block);
    status.device = Some(array.block.clone());
    (status.members, status.failed) = (array.members.clone(), array.failed.clone());
    (status.degraded, status.action) = (health.degraded, health.action);
    (status.done_per_mille, status.mismatches) = (health.done_per_mille, health.mismatches);
    status
}

/// What the kernel says of an array that may change at any time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Members that it lacks.
    pub degraded: u64,
    /// What it does.
    pub action: String,
    /// How far that is, in thousandths.
    pub done_per_mille: Option<u64>,
    /// Sectors in which the last check found a difference.
    pub mismatches: u64,
}

/// Asks the kernel (Documentation/admin-guide/md.rst).
pub fn health(block: &str) -> Health {
    let directory = array_directory(block);
    let read = |file: &str| fs::read_to_string(directory.join(file)).unwrap_or_default().trim().to_owned();
    Health {
        degraded: read("degraded").parse().unwrap_or(0),
        action: Some(read("sync_action")).filter(|action| !action.is_empty()).unwrap_or_else(|| "idle".to_owned()),
        done_per_mille: per_mille(&read("sync_completed")),
        mismatches: read("mismatch_cnt").parse().unwrap_or(0),
    }
}

/// `1024 / 4096`, or `none`.
fn per_mille(text: &str) -> Option<u64> {
    let (done, all) = text.split_once(" / ")?;
    let (done, all): (u64, u64) = (done.parse().ok()?, all.parse().ok()?);
    done.checked_mul(1000)?.checked_div(all)
}

fn volumes(storage: &Storage) -> Result<Vec<VolumeStatus>> {
    let fields = "vg_name,lv_name,lv_size,data_percent,metadata_percent";
    let report = tools::lvm(&["lvs", "--reportformat", "json", "--units", "b", "--nosuffix", "-o", fields])?;
    let ours = |row: &serde_json::Value| storage.groups.iter().any(|group| group.name == word(row, "vg_name"));
    let volume = |row: &serde_json::Value| VolumeStatus {
        name: format!("{}/{}", word(row, "vg_name"), word(row, "lv_name")),
        size: word(row, "lv_size").parse().unwrap_or(0),
        used_percent: word(row, "data_percent").parse().ok(),
        notes_percent: word(row, "metadata_percent").parse().ok(),
    };
    Ok(rows(&report, "lv").iter().filter(|row| ours(row)).map(volume).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read() {
        assert_eq!(per_mille("1024 / 4096"), Some(250));
        assert_eq!((per_mille("none"), per_mille("0 / 0"), per_mille("x / 1")), (None, None, None));
    }
}
