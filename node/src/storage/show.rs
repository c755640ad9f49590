//! What people are told of the storage.

use std::fmt::Write as _;

use thimble_storage::iscsi::Link;
use thimble_storage::plan::Plan;
use thimble_storage::status::{ArrayStatus, Status};

/// A line for each thing.
pub fn status(status: &Status) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    for target in &status.targets {
        let link = match target.link {
            Some(Link::Up) => "logged in",
            Some(Link::Away) => "away, tried again",
            None => "not logged in",
        };
        let _ = writeln!(text, "iSCSI target {}: {} at {}, {link}", target.name, target.target, target.portal);
    }
    for disk in &status.disks {
        let _ = match (&disk.device, disk.size, &disk.content) {
            (Some(device), Some(size), Some(content)) => {
                writeln!(text, "disk {}: {device}, {}, {content}", disk.name, mib(size))
            }
            _ => writeln!(text, "disk {}: not there", disk.name),
        };
    }
    for array in &status.arrays {
        let _ = writeln!(text, "array {}: RAID {}, {}", array.name, array.level, array_line(array));
    }
    for container in &status.containers {
        let _ = match (&container.device, &container.on) {
            (Some(device), Some(on)) => writeln!(text, "LUKS container {}: {device} on {on}", container.name),
            _ => writeln!(text, "LUKS container {}: not open", container.name),
        };
    }
    for volume in &status.volumes {
        let _ = write!(text, "volume {}: {}", volume.name, mib(volume.size));
        for (percent, what) in [(volume.used_percent, "used"), (volume.notes_percent, "of its notes used")] {
            let _ = percent.map_or(Ok(()), |percent| write!(text, ", {percent:.1} % {what}"));
        }
        text.push('\n');
    }
    for filesystem in &status.filesystems {
        let _ = match (filesystem.mounted, filesystem.size, filesystem.free) {
            (true, Some(size), Some(free)) => {
                writeln!(text, "file system {}: {}, {} free", filesystem.mount, mib(size), mib(free))
            }
            (true, ..) => writeln!(text, "file system {}: mounted", filesystem.mount),
            _ => writeln!(text, "file system {}: not mounted", filesystem.mount),
        };
    }
    rest(&mut text, &status.steps, &status.problems, &status.waiting, &status.held);
    text
}

/// What would be done, and what keeps the rest.
pub fn plan(plan: &Plan) -> String {
    let mut text = String::new();
    let steps: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
    rest(&mut text, &steps, &plan.problems, &plan.waiting, &plan.held);
    if text.is_empty() {
        text.push_str("nothing to do\n");
    }
    text
}

fn rest(text: &mut String, steps: &[String], problems: &[String], waiting: &[String], held: &[String]) {
    for (what, sentences) in [("to do", steps), ("problem", problems), ("missing", waiting), ("waits", held)] {
        for sentence in sentences {
            let _ = writeln!(text, "{what}: {sentence}");
        }
    }
}

fn array_line(array: &ArrayStatus) -> String {
    let Some(device) = &array.device else { return "not started".to_owned() };
    let health = match array.degraded {
        0 => "whole".to_owned(),
        lost => format!("degraded, without {lost} of its members"),
    };
    let done = array.done_per_mille.map_or(String::new(), |done| format!(" {}.{} %", done / 10, done % 10));
    let failed = match array.failed.join(" ") {
        none if none.is_empty() => none,
        failed => format!(", {failed} to be pulled"),
    };
    let differs = match array.mismatches {
        0 => String::new(),
        sectors => format!(", members differ in {sectors} sectors"),
    };
    format!("{device} of {}{failed}, {health}{differs}, {}{done}", array.members.join(" "), array.action)
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_storage::status::{ContainerStatus, DiskStatus, FilesystemStatus, TargetStatus, VolumeStatus};

    #[test]
    fn each_thing_has_its_line() {
        let array = ArrayStatus {
            name: "data".to_owned(),
            device: Some("md127".to_owned()),
            level: 1,
            degraded: 1,
            members: vec!["vdb".to_owned()],
            failed: vec!["vdc".to_owned()],
            action: "recover".to_owned(),
            done_per_mille: Some(123),
            mismatches: 8,
        };
        let shown = status(&Status {
            targets: vec![TargetStatus {
                name: "store".to_owned(),
                target: "iqn.2026-01.org.example:store".to_owned(),
                portal: ([10, 1, 1, 8], 3260).into(),
                link: Some(Link::Away),
            }],
            disks: vec![DiskStatus { name: "a".to_owned(), device: None, size: None, content: None }],
            arrays: vec![array],
            containers: vec![ContainerStatus {
                name: "vault".to_owned(),
                device: Some("dm-0".to_owned()),
                on: Some("vdd".to_owned()),
            }],
            volumes: vec![VolumeStatus {
                name: "vg/pool".to_owned(),
                size: 64 << 20,
                used_percent: Some(12.5),
                notes_percent: Some(3.0),
            }],
            filesystems: vec![FilesystemStatus {
                mount: "/data/a".to_owned(),
                mounted: true,
                size: Some(100 << 20),
                free: Some(90 << 20),
            }],
            waiting: vec!["disk a is not there".to_owned()],
            ..Status::default()
        });
        assert_eq!(
            shown,
            "iSCSI target store: iqn.2026-01.org.example:store at 10.1.1.8:3260, away, tried again\n\
             disk a: not there\n\
             array data: RAID 1, md127 of vdb, vdc to be pulled, degraded, without 1 of its members, members differ in 8 sectors, recover 12.3 %\n\
             LUKS container vault: dm-0 on vdd\n\
             volume vg/pool: 64 MiB, 12.5 % used, 3.0 % of its notes used\n\
             file system /data/a: 100 MiB, 90 MiB free\n\
             missing: disk a is not there\n"
        );
        assert_eq!(plan(&Plan::default()), "nothing to do\n");
    }
}
