//! What uses a disk: mounts, swap, and what is built on top of its partitions.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::disk::device_path;
use super::system::System;

/// How deep devices are followed that are built upon each other.
const DEPTH: usize = 16;
/// Who uses a disk that has one of these mounted: this system itself.
const SYSTEM: [&str; 6] = ["/", "/usr", "/boot", "/boot/efi", "/efi", "/nix/store"];

/// A use of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// In words, beginning with the device: `/dev/sdb1 is mounted at /media/stick`.
    pub sentence: String,
    /// Whether the running system lives from it.
    pub system: bool,
}

/// All that the kernel says is in use of a disk, its partitions and what is built upon them.
pub fn of(system: &System, disk: &str) -> Vec<Use> {
    let mounts = mounts(&system.proc_text("self/mountinfo"));
    let swaps = swaps(&system.proc_text("swaps"));
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let mut todo: Vec<(String, usize)> = vec![(disk.to_owned(), 0)];
    todo.extend(system.partitions(disk).into_iter().map(|partition| (partition, 0)));
    while let Some((name, depth)) = todo.pop() {
        if !seen.insert(name.clone()) || depth > DEPTH {
            continue;
        }
        let numbers = system.attribute(&name, "dev").unwrap_or_default();
        let device = device_path(&name);
        for mount in mounts.iter().filter(|mount| mount.numbers == numbers || is(&mount.source, &name, &numbers)) {
            let sentence = format!("{device} is mounted at {}", mount.at);
            found.push(Use { sentence, system: SYSTEM.contains(&mount.at.as_str()) });
        }
        for _ in swaps.iter().filter(|path| is(path, &name, &numbers)) {
            found.push(Use { sentence: format!("{device} is swapped to"), system: true });
        }
        for holder in system.related(&name, "holders") {
            let named = system.attribute(&holder, "dm/name").map(|name| format!(" ({name})")).unwrap_or_default();
            found.push(Use { sentence: format!("{device} is part of {}{named}", device_path(&holder)), system: false });
            // An array may have partitions of its own.
            todo.extend(system.partitions(&holder).into_iter().map(|partition| (partition, depth + 1)));
            todo.push((holder, depth + 1));
        }
    }
    found.sort_by(|a, b| b.system.cmp(&a.system).then_with(|| a.sentence.cmp(&b.sentence)));
    found.dedup();
    found
}

/// Whether a path stands for the block device of this name and these numbers.
fn is(path: &str, name: &str, numbers: &str) -> bool {
    if path == device_path(name) {
        return true;
    }
    // Paths such as /dev/mapper/x; and btrfs, whose mounts have numbers of no device.
    path.starts_with("/dev/")
        && std::fs::metadata(Path::new(path)).is_ok_and(|data| {
            let device = data.rdev();
            device != 0 && numbers == super::numbers(device)
        })
}

#[derive(Debug, PartialEq, Eq)]
struct Mount {
    numbers: String,
    at: String,
    source: String,
}

/// Reads `/proc/self/mountinfo` (proc(5)): `ID PARENT MAJOR:MINOR ROOT AT OPTIONS [FIELD...] - TYPE SOURCE SUPEROPTIONS`.
fn mounts(text: &str) -> Vec<Mount> {
    let line = |line: &str| {
        let (before, behind) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(2);
        let (numbers, at) = (before.next()?.to_owned(), unescape(before.nth(1)?));
        Some(Mount { numbers, at, source: unescape(behind.split(' ').nth(1)?) })
    };
    text.lines().filter_map(line).collect()
}

/// Paths in `/proc/swaps`, behind its headline.
fn swaps(text: &str) -> Vec<String> {
    text.lines().skip(1).filter_map(|line| Some(unescape(line.split_whitespace().next()?))).collect()
}

/// The kernel writes space, tab, newline and backslash as a backslash and three octal digits.
fn unescape(text: &str) -> String {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let octal = behind.get(..3).filter(|digits| *first == b'\\' && digits.iter().all(|d| (b'0'..b'8').contains(d)));
        let value = octal.map(|digits| digits.iter().fold(0_u32, |value, digit| value * 8 + u32::from(digit - b'0')));
        match value.and_then(|value| u8::try_from(value).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = &behind[3..];
            }
            None => {
                plain.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::system::tests::machine;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_mounted_through_a_volume_is_found_on_its_disk() {
        let (_dir, system) = machine();
        let uses = of(&system, "sda");
        let sentences: Vec<&str> = uses.iter().map(|one| one.sentence.as_str()).collect();
        assert_eq!(
            sentences,
            [
                "/dev/dm-0 is mounted at /",
                "/dev/sda1 is mounted at /boot/efi",
                "/dev/sda2 is part of /dev/dm-0 (vg-root)"
            ]
        );
        assert!(uses[0].system && uses[1].system && !uses[2].system);
        assert_eq!(of(&system, "sdb"), []);
    }

    #[test]
    fn mounts_with_spaces_and_swap_are_found() {
        let (dir, system) = machine();
        let line = "90 27 8:17 / /media/my\\040stick rw - vfat /dev/sdb1 rw\nnonsense\n91 27 8:17\n";
        std::fs::write(dir.path().join("proc/self/mountinfo"), line).unwrap();
        assert_eq!(of(&system, "sdb")[0].sentence, "/dev/sdb1 is mounted at /media/my stick");
        std::fs::write(dir.path().join("proc/swaps"), "Filename Type\n/dev/mmcblk0 partition 1 0 -2\n").unwrap();
        assert_eq!(of(&system, "mmcblk0")[0].sentence, "/dev/mmcblk0 is swapped to");
    }

    #[test]
    fn a_file_system_with_numbers_of_no_device_is_found_by_its_source() {
        let (dir, system) = machine();
        let line = "90 27 0:55 /@ /mnt rw - btrfs /dev/sdb1 rw\n";
        std::fs::write(dir.path().join("proc/self/mountinfo"), line).unwrap();
        assert_eq!(of(&system, "sdb")[0].sentence, "/dev/sdb1 is mounted at /mnt");
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC*", escaped in "[\\\\0-9 a-]{0,40}") {
            let _ = (mounts(&text), swaps(&text), unescape(&escaped), mounts(&escaped));
        }
    }
}
