//! Reads what there is: sysfs, both ends of each block device, LVM's own report.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::stat::{major, minor};
use serde_json::Value;
use thimble_spec::appliance::{ARRAY_NAMES, DISK_NAMES, LUKS_NAMES, Storage};

use crate::execute::{FRESH, PV_PREFIX};
use crate::iscsi;
use crate::luks;
use crate::observed::{Array, Block, Group, Observed, VolumeState};
use crate::signature::{Found, SPAN, recognize};
use crate::{Result, doing, tools};

const SYS: &str = "/sys/class/block";
/// Kinds of block devices that hold nobody's data, or are not for storage.
const IGNORED: [&str; 6] = ["loop", "ram", "zram", "sr", "fd", "nbd"];
/// How long a disk of an iSCSI target is waited for: longer than it takes until it is known to be away.
const UNIT_LIMIT: Duration = Duration::from_secs(15);
/// What direct reads are a multiple of: the largest logical sector that there is.
const ALIGNMENT: usize = 4096;

/// Looks at everything.
///
/// # Errors
/// There is no sysfs.
pub fn observe(storage: &Storage) -> Result<Observed> {
    let mut observed = Observed::default();
    let entries = doing(fs::read_dir(SYS), || format!("read {SYS}"))?;
    let names: Vec<String> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let mounts = mounts();
    for name in names.iter().filter(|name| !IGNORED.iter().any(|kind| is_kind(name, kind))) {
        if let Some(mut block) = block(name) {
            let number = text(&Path::new(SYS).join(name), "dev").unwrap_or_default();
            if let Some((_, point)) = mounts.iter().find(|(known, _)| *known == number) {
                block.used_by = Some(format!("the mount {point}"));
                observed.mounts.insert(point.clone(), format!("/dev/{name}"));
            }
            observed.blocks.insert(name.clone(), block);
        }
    }
    // Mounts of what is no block device: NFS.
    for (number, point) in &mounts {
        if number.starts_with("0:") {
            observed.mounts.insert(point.clone(), "none".to_owned());
        }
    }
    for swap in swaps() {
        observed.zram |= is_kind(&swap, "zram");
        if let Some(block) = observed.blocks.get_mut(&swap) {
            block.used_by = Some("swap".to_owned());
        }
        observed.swaps.push(swap);
    }
    let arrays: Vec<Array> = names.iter().filter_map(|name| array(name, &observed.blocks)).collect();
    observed.arrays = arrays;
    observed.containers = luks::containers();
    if !storage.groups.is_empty() {
        groups(&mut observed)?;
    }
    let directories = storage.groups.iter().map(|group| format!("/dev/{}", group.name));
    for directory in [DISK_NAMES, ARRAY_NAMES, LUKS_NAMES].map(str::to_owned).into_iter().chain(directories) {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if let Some(name) = device_name(&entry.path()) {
                observed.names.insert(entry.path().display().to_string(), name);
            }
        }
    }
    Ok(observed)
}

/// `loop0` is of the kind `loop`; a name that only begins alike is not.
fn is_kind(name: &str, kind: &str) -> bool {
    name.strip_prefix(kind).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// The kernel's name of the block device that a path leads to, by its number: without udev, LVM's names below `/dev` are links to
/// devices that the device mapper's library has made beside the kernel's.
fn device_name(path: &Path) -> Option<String> {
    let number = fs::metadata(path).ok().filter(|data| data.file_type().is_block_device())?.rdev();
    let known = Path::new("/sys/dev/block").join(format!("{}:{}", major(number), minor(number))).canonicalize().ok()?;
    Some(known.file_name()?.to_string_lossy().into_owned())
}

fn text(directory: &Path, file: &str) -> Option<String> {
    let text = fs::read_to_string(directory.join(file)).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn number(directory: &Path, file: &str) -> Option<u64> {
    text(directory, file)?.parse().ok()
}

/// A block device; none if it has no size, as a card reader without a card.
fn block(name: &str) -> Option<Block> {
    let sys = Path::new(SYS).join(name);
    let size = number(&sys, "size").filter(|size| *size > 0)?.checked_mul(512)?;
    let real = sys.canonicalize().ok()?;
    let part_of = sys.join("partition").exists().then(|| {
        let disk = real.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
        let uevent = fs::read_to_string(sys.join("uevent")).unwrap_or_default();
        let label = uevent.lines().find_map(|line| line.strip_prefix("PARTNAME=")).map(str::to_owned);
        (disk, label)
    });
    let disk = if part_of.is_some() { real.parent().map(Path::to_owned)? } else { sys.clone() };
    let unit = iscsi::unit(&disk);
    let path = Path::new("/dev").join(name);
    let looked = match &unit {
        None => look(&path, size).map_err(|error| format!("cannot be read ({error})")),
        Some(_) if waits(&disk) => Err("waits for its iSCSI target".to_owned()),
        Some(_) => look_for(UNIT_LIMIT, path, size),
    };
    let (found, broken) = match looked {
        Ok(found) => (found, None),
        Err(broken) => (Found::default(), Some(broken)),
    };
    let read_only = number(&sys, "ro") == Some(1);
    let holders = fs::read_dir(sys.join("holders")).into_iter().flatten().flatten();
    Some(Block {
        size,
        sector: number(&disk.join("queue"), "logical_block_size").unwrap_or(512),
        serial: part_of.is_none().then(|| serial(&sys)).flatten(),
        wwn: part_of.is_none().then(|| text(&sys, "wwid").or_else(|| text(&sys.join("device"), "wwid"))).flatten(),
        unit: unit.filter(|_| part_of.is_none()),
        part_of,
        found,
        used_by: holders.map(|holder| holder.file_name().to_string_lossy().into_owned()).min(),
        broken: broken.or_else(|| read_only.then(|| "cannot be written to".to_owned())),
    })
}

/// Of virtio, of NVMe, of SCSI and SATA (the page of vital product data with the number, behind its header of 4 bytes).
fn serial(sys: &Path) -> Option<String> {
    let page = || {
        let page = fs::read(sys.join("device/vpd_pg80")).ok()?;
        let text: String = String::from_utf8_lossy(page.get(4..)?).chars().filter(|c| !c.is_control()).collect();
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    };
    text(sys, "serial").or_else(|| text(&sys.join("device"), "serial")).or_else(page)
}

/// The kernel's names of disks that let whoever reads wait.
pub(crate) fn waiting() -> Vec<String> {
    let names = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let waiting = names.filter(|entry| waits(&entry.path()) && iscsi::unit(&entry.path()).is_some());
    waiting.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Whether what is read from a disk would wait until its target is there again (drivers/scsi/scsi_sysfs.c).
fn waits(sys: &Path) -> bool {
    text(&sys.join("device"), "state").is_some_and(|state| state != "running")
}

/// The same as [`look`], which a disk that is far away may keep for ever: a process that does not wait for it goes on without.
fn look_for(limit: Duration, path: PathBuf, size: u64) -> std::result::Result<Found, String> {
    let (sender, receiver) = mpsc::channel();
    // It ends when the disk answers.
    std::thread::spawn(move || sender.send(look(&path, size)));
    match receiver.recv_timeout(limit) {
        Ok(looked) => looked.map_err(|error| format!("cannot be read ({error})")),
        Err(_) => Err(format!("did not answer within {} s", limit.as_secs())),
    }
}

/// What is on a device. It is read around the page cache: what the kernel's arrays write there does not go through it.
fn look(path: &Path, size: u64) -> io::Result<Found> {
    let direct = File::options().read(true).custom_flags(libc::O_DIRECT | libc::O_NONBLOCK).open(path);
    let file = direct.or_else(|_| File::open(path))?;
    let span = usize::try_from(size).unwrap_or(usize::MAX).min(SPAN);
    let mut buffer = vec![0; 2 * SPAN + ALIGNMENT];
    let skip = buffer.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
    let (head, rest) = buffer[skip..].split_at_mut(SPAN);
    let (head, tail) = (&mut head[..span], &mut rest[..span]);
    file.read_exact_at(head, 0)?;
    file.read_exact_at(tail, size - span as u64)?;
    Ok(recognize(head, tail, size))
}

/// Device numbers and mount points (proc(5), mountinfo), the uppermost of each place.
pub(crate) fn mounts() -> Vec<(String, String)> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    parse_mounts(&text)
}

fn parse_mounts(text: &str) -> Vec<(String, String)> {
    let fields = text.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some((words.nth(2)?.to_owned(), words.nth(1)?.replace("\\040", " ")))
    });
    let mut mounts: Vec<(String, String)> = Vec::new();
    for (number, point) in fields {
        mounts.retain(|(_, known)| *known != point);
        mounts.push((number, point));
    }
    mounts
}

pub(crate) fn swaps() -> Vec<String> {
    let text = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let paths = text.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    paths.filter_map(|path| device_name(Path::new(path))).collect()
}

/// An array that the kernel has; none if it has no member that says what it is.
fn array(name: &str, blocks: &BTreeMap<String, Block>) -> Option<Array> {
    let md = Path::new("/sys/block").join(name).join("md");
    let state = text(&md, "array_state")?;
    let (mut members, mut failed) = (Vec::new(), Vec::new());
    let mut gone = 0;
    for entry in fs::read_dir(&md).ok()?.flatten() {
        let file_name = entry.file_name().to_string_lossy().into_owned();
        let Some(member) = file_name.strip_prefix("dev-") else { continue };
        let faulty = text(&entry.path(), "state").is_none_or(|state| state.split(',').any(|word| word == "faulty"));
        match fs::canonicalize(entry.path().join("block")) {
            Ok(real) => {
                let name = real.file_name().map_or(member.to_owned(), |name| name.to_string_lossy().into_owned());
                if faulty { &mut failed } else { &mut members }.push(name);
            }
            Err(_) => gone += 1,
        }
    }
    let md_of = members.iter().chain(&failed).find_map(|member| blocks.get(member)?.found.md());
    let (name_of, uuid) = md_of.map(|md| (md.name.clone(), md.uuid))?;
    Some(Array {
        block: name.to_owned(),
        name: name_of,
        uuid,
        active: !matches!(state.as_str(), "clear" | "inactive"),
        degraded: number(&md, "degraded").and_then(|count| u32::try_from(count).ok()).unwrap_or(0),
        members,
        failed,
        gone,
    })
}

/// What LVM reports.
fn groups(observed: &mut Observed) -> Result<()> {
    let volumes = tools::lvm(&["pvs", "--reportformat", "json", "-o", "pv_name,pv_uuid,vg_name"])?;
    for pv in rows(&volumes, "pv") {
        let (path, group) = (word(&pv, "pv_name"), word(&pv, "vg_name"));
        let name = device_name(Path::new(path)).filter(|name| observed.blocks.contains_key(name));
        if group.is_empty() {
            observed.orphans.extend(name.filter(|_| word(&pv, "pv_uuid").starts_with(PV_PREFIX)));
            continue;
        }
        let index = observed.groups.iter().position(|known| known.name == group).unwrap_or_else(|| {
            observed.groups.push(Group { name: group.to_owned(), members: vec![], missing: 0, volumes: vec![] });
            observed.groups.len() - 1
        });
        match name {
            Some(name) => observed.groups[index].members.push(name),
            None => observed.groups[index].missing += 1,
        }
    }
    let fields = "vg_name,lv_name,lv_attr,lv_tags,lv_kernel_minor";
    let volumes = tools::lvm(&["lvs", "--reportformat", "json", "-o", fields])?;
    for lv in rows(&volumes, "lv") {
        let attributes = word(&lv, "lv_attr").as_bytes();
        let is = |place: usize, wanted: u8| attributes.get(place) == Some(&wanted);
        let active = is(4, b'a');
        let minor = word(&lv, "lv_kernel_minor").parse::<u32>().ok();
        // lvs(8): the first letter of a thin pool is `t`, and it is no block device for anybody.
        let block = minor.filter(|_| active && !is(0, b't')).map(|minor| format!("dm-{minor}"));
        let state = VolumeState {
            name: word(&lv, "lv_name").to_owned(),
            block,
            active,
            partial: is(8, b'p'),
            fresh: word(&lv, "lv_tags").split(',').any(|tag| tag == FRESH),
        };
        if let Some(group) = observed.groups.iter_mut().find(|group| group.name == word(&lv, "vg_name")) {
            group.volumes.push(state);
        }
    }
    Ok(())
}

/// The rows of one of LVM's reports (lvmreport(7)).
pub(crate) fn rows(json: &str, kind: &str) -> Vec<Value> {
    let report: Value = serde_json::from_str(json).unwrap_or_default();
    let tables = report["report"].as_array().cloned().unwrap_or_default();
    tables.iter().flat_map(|table| table[kind].as_array().cloned().unwrap_or_default()).collect()
}

pub(crate) fn word<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key].as_str().unwrap_or_default()
}

/// Where the kernel tells of an array: `/sys/block/mdX/md`.
pub(crate) fn array_directory(block: &str) -> PathBuf {
    Path::new("/sys/block").join(block).join("md")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_their_number() {
        assert!(is_kind("loop0", "loop") && is_kind("sr12", "sr"));
        assert!(!is_kind("loopy", "loop") && !is_kind("srx", "sr") && !is_kind("ram", "ram"));
    }

    #[test]
    fn the_uppermost_mount_counts() {
        let text = "22 1 254:1 / /data rw - ext4 /dev/vda1 rw\n23 1 0:40 / /data rw - tmpfs none rw\n\
                    24 1 9:127 / /data/a\\040b rw - ext4 /dev/md127 rw\nnonsense\n";
        assert_eq!(
            parse_mounts(text),
            [("0:40".to_owned(), "/data".to_owned()), ("9:127".to_owned(), "/data/a b".to_owned())]
        );
    }

    #[test]
    fn lvm_reports_are_read_and_nonsense_is_nothing() {
        let json = r#"{"report":[{"lv":[{"lv_name":"a","lv_attr":"-wi-a-----"}]}]}"#;
        assert_eq!(word(&rows(json, "lv")[0], "lv_name"), "a");
        assert!(rows("{", "lv").is_empty() && rows(json, "pv").is_empty());
    }

    #[test]
    fn a_file_is_looked_at_whatever_its_size() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for size in [4096, 1 << 20, 3 << 20] {
            file.as_file().set_len(size).unwrap();
            assert!(look(file.path(), size).unwrap().blank);
        }
        file.as_file().write_all_at(b"x", (3 << 20) - 1).unwrap();
        assert!(!look(file.path(), 3 << 20).unwrap().blank);
        assert!(look(file.path(), 4 << 20).is_err());
    }
}
