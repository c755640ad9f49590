//! What speaks against writing to a disk.

use super::disk::{Bus, Disk, Kind, device_path, kind, size};
use super::system::System;
use super::usage;
use crate::flash::layout::SECTOR;

/// Something that speaks against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    /// What, and what to do about it.
    pub sentence: String,
    /// Whether `--force` overrules it.
    pub yields: bool,
}

impl Objection {
    fn firm(sentence: String) -> Self {
        Self { sentence, yields: false }
    }
}

/// The disk behind a block device's kernel name, or why it is none.
///
/// # Errors
/// It is a part of a disk, or no disk at all; `--force` does not help.
pub fn whole_disk(system: &System, name: &str) -> Result<Disk, Objection> {
    let device = device_path(name);
    match kind(system, name) {
        Kind::Disk => Ok(Disk::read(system, name)),
        Kind::PartitionOf(disk) => {
            let whole = device_path(&disk);
            Err(Objection::firm(format!("{device} is a partition: name the whole disk, {whole}")))
        }
        Kind::Other(what) => Err(Objection::firm(format!("{device} is {what}: name a disk"))),
    }
}

/// Everything that speaks against writing `bytes` to it (0 where nothing is to be written yet).
pub fn objections(system: &System, disk: &Disk, bytes: u64) -> Vec<Objection> {
    let device = disk.path();
    let uses = usage::of(system, &disk.name);
    let mut found: Vec<Objection> = Vec::new();
    if let Some(own) = uses.iter().find(|one| one.system) {
        let sentence =
            format!("{device} is the disk that this system runs from ({}): nothing overrules this", own.sentence);
        found.push(Objection::firm(sentence));
    } else {
        let busy = uses.into_iter().map(|one| format!("{}: unmount it or take it apart first", one.sentence));
        found.extend(busy.map(Objection::firm));
    }
    if disk.bytes == 0 {
        found.push(Objection::firm(format!("{device} has no medium: put one in")));
    } else if disk.bytes < bytes {
        let (has, needs) = (size(disk.bytes), size(bytes));
        found.push(Objection::firm(format!(
            "{device} is too small: it has {has} ({} bytes), the image {needs} ({bytes} bytes)",
            disk.bytes
        )));
    }
    if disk.sector != SECTOR {
        found.push(Objection::firm(format!(
            "{device} has sectors of {} bytes, and the image's partition table is for sectors of {SECTOR}: no firmware \
             would find it there",
            disk.sector
        )));
    }
    if disk.read_only {
        found.push(Objection::firm(format!("{device} is read-only: look for the switch on its side")));
    }
    if !disk.removable {
        let what = if disk.bus == Bus::Loop { "a loop device" } else { "not removable" };
        found.push(Objection {
            sentence: format!("{device} is {what}: if it is the right one, say --force"),
            yields: true,
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::system::tests::machine;
    use super::*;

    fn against(system: &System, name: &str, bytes: u64) -> Vec<(String, bool)> {
        let disk = whole_disk(system, name).unwrap();
        objections(system, &disk, bytes).into_iter().map(|one| (one.sentence, one.yields)).collect()
    }

    #[test]
    fn a_stick_may_be_written_and_an_internal_disk_by_force() {
        let (_dir, system) = machine();
        assert_eq!(against(&system, "sdb", 64 << 20), []);
        assert_eq!(against(&system, "mmcblk0", 64 << 20), []);
        let inside = against(&system, "loop0", 64 << 20);
        assert_eq!(inside, [("/dev/loop0 is a loop device: if it is the right one, say --force".to_owned(), true)]);
    }

    #[test]
    fn the_running_systems_disk_is_refused_even_by_force() {
        let (_dir, system) = machine();
        let told = against(&system, "sda", 64 << 20);
        assert!(told[0].0.starts_with("/dev/sda is the disk that this system runs from (/dev/dm-0 is mounted at /)"));
        assert!(!told[0].1);
    }

    #[test]
    fn what_is_no_whole_disk_is_refused() {
        let (_dir, system) = machine();
        let told = |name: &str| whole_disk(&system, name).unwrap_err().sentence;
        assert_eq!(told("sdb1"), "/dev/sdb1 is a partition: name the whole disk, /dev/sdb");
        assert!(told("dm-0").contains("device mapper"));
    }

    #[test]
    fn mounted_small_read_only_and_empty_disks_are_refused() {
        let (dir, system) = machine();
        let put = |path: &str, text: &str| std::fs::write(dir.path().join(path), text).unwrap();
        put("proc/self/mountinfo", "90 27 8:17 / /media/stick rw - vfat /dev/sdb1 rw\n");
        put("sys/class/block/sdb/ro", "1\n");
        put("sys/class/block/sdb/queue/logical_block_size", "4096\n");
        let told = against(&system, "sdb", 5_000_000_000);
        assert!(told.iter().all(|(_, yields)| !yields));
        let told: Vec<&str> = told.iter().map(|(sentence, _)| sentence.as_str()).collect();
        assert_eq!(told.len(), 4, "{told:#?}");
        assert_eq!(told[0], "/dev/sdb1 is mounted at /media/stick: unmount it or take it apart first");
        assert!(told[1].contains("too small: it has 4.0 GB (4000000000 bytes), the image 5.0 GB"));
        assert!(told[2].contains("sectors of 4096"));
        assert!(told[3].contains("read-only"));
        put("sys/class/block/sdb/size", "0\n");
        assert!(against(&system, "sdb", 1).iter().any(|(sentence, _)| sentence.contains("no medium")));
    }
}
