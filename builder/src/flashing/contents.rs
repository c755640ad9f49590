//! What will be lost: the partitions of a disk, their labels and file systems.
//!
//! util-linux's `blkid` looks at the devices themselves. It only informs: without it, or where it knows nothing, sizes
//! alone are shown, and nothing that guards a disk depends on it.

use std::process::{Command, Stdio};

use serde::Serialize;

use super::disk::{Disk, device_path, size};
use super::system::System;

/// A part of a disk, or the disk itself where a file system lies on it without a partition table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Content {
    /// Its device.
    pub device: String,
    /// Size in bytes.
    pub bytes: u64,
    /// What it is formatted as; empty if unknown.
    pub file_system: String,
    /// The file system's label, else the partition's name; empty if unknown.
    pub label: String,
}

/// What is on a disk.
pub fn of(system: &System, disk: &Disk) -> Vec<Content> {
    found(system, disk, blkid)
}

/// What `blkid` says of a device, looking at the device itself; nothing where it cannot.
fn blkid(device: &str) -> String {
    // A user's path often lacks the directory that it is in.
    let programs = ["blkid", "/usr/sbin/blkid", "/sbin/blkid"];
    let outputs = programs.iter().filter_map(|program| {
        let mut command = Command::new(program);
        command.args(["--probe", "--output", "export", device]);
        command.env("LC_ALL", "C.UTF-8").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()
    });
    outputs.take(1).map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).collect()
}

fn found(system: &System, disk: &Disk, probe: impl Fn(&str) -> String) -> Vec<Content> {
    let content = |name: &str, bytes: u64| {
        let device = device_path(name);
        let said = probe(&device);
        let value = |key: &str| said.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(plain);
        let label = value("LABEL").or_else(|| value("PART_ENTRY_NAME")).unwrap_or_default();
        Content { device, bytes, file_system: value("TYPE").unwrap_or_default(), label }
    };
    let mut found: Vec<Content> =
        disk.partitions.iter().map(|name| content(name, Disk::read(system, name).bytes)).collect();
    if found.is_empty() {
        found.push(content(&disk.name, disk.bytes));
        found.retain(|content| !content.file_system.is_empty());
    }
    found
}

/// `blkid` writes a backslash before what a shell would take for its own.
fn plain(value: &str) -> String {
    let mut escaped = false;
    value
        .chars()
        .filter(|c| {
            escaped = *c == '\\' && !escaped;
            !escaped
        })
        .collect()
}

/// A line each; one that says so if there is nothing.
pub fn table(contents: &[Content]) -> String {
    if contents.is_empty() {
        return "  no partition and no file system that is known here\n".to_owned();
    }
    let line = |content: &Content| {
        let Content { device, bytes, file_system, label } = content;
        let file_system = if file_system.is_empty() { "unknown" } else { file_system };
        let label = if label.is_empty() { String::new() } else { format!("  \"{}\"", printable(label)) };
        format!("  {device:<16} {:>10}  {file_system}{label}\n", size(*bytes))
    };
    contents.iter().map(line).collect()
}

/// A label comes from a foreign disk, and may hold what a terminal would obey.
fn printable(label: &str) -> String {
    label.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::system::tests::machine;
    use super::*;

    #[test]
    fn partitions_are_told_with_their_labels() {
        let (_dir, system) = machine();
        let disk = Disk::read(&system, "sdb");
        let probe = |device: &str| {
            assert_eq!(device, "/dev/sdb1");
            "DEVNAME=/dev/sdb1\nLABEL=MY\\ HOLIDAY\u{1b}[2J\nTYPE=vfat\nPART_ENTRY_NAME=x\n".to_owned()
        };
        assert_eq!(table(&found(&system, &disk, probe)), "  /dev/sdb1            3.9 GB  vfat  \"MY HOLIDAY?[2J\"\n");
        // Without blkid, what the kernel knows.
        let nothing = found(&system, &disk, |_| String::new());
        assert_eq!(table(&nothing), "  /dev/sdb1            3.9 GB  unknown\n");
        let named = found(&system, &disk, |_| "PART_ENTRY_NAME=thimble-data\n".to_owned());
        assert_eq!(named[0].label, "thimble-data");
    }

    #[test]
    fn a_file_system_without_a_table_is_told() {
        let (_dir, system) = machine();
        let disk = Disk::read(&system, "mmcblk0");
        let contents = found(&system, &disk, |_| "TYPE=ext4\nLABEL=photos\n".to_owned());
        assert_eq!(table(&contents), "  /dev/mmcblk0         8.0 GB  ext4  \"photos\"\n");
        assert!(table(&found(&system, &disk, |_| "PTTYPE=gpt\n".to_owned())).contains("no partition"));
    }

    #[test]
    fn backslashes_of_a_shell_go() {
        assert_eq!(plain(r"my\ stick\\x"), r"my stick\x");
    }
}
