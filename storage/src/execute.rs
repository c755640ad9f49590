//! Does a step. What a step makes is marked before the first byte ([`crate::mark`]), and the mark is taken off behind the
//! last one.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use thimble_spec::appliance::{
    Consistency, Filesystem, FilesystemKind, Metadata, NfsMount, NfsVersion, Raid, Storage, Volume, VolumeKind,
    VolumeSize,
};

use crate::mark::{self, Place};
use crate::observe::array_directory;
use crate::step::{Step, Target};
use crate::tools::{lvm, run};
use crate::{Error, Result, doing, luks, table};

/// What is zeroed at both ends of a device before anything is made on it: more than [`DATA_OFFSET`], so that an array
/// begins and ends with zeros, too.
const WIPED: u64 = 16 << 20;
/// Where the content of a new array of version 1.2 begins on its members: room for superblock, bitmap and a later reshape.
const DATA_OFFSET: &str = "8M";
/// The tag of a volume that was made and not cleared.
pub(crate) const FRESH: &str = "thimble-new";
/// How the identity of a physical volume begins that Thimble made.
pub(crate) const PV_PREFIX: &str = "thimbl-";
/// How long the kernel may take to make the partitions of a new table.
const PARTITIONS_LIMIT: Duration = Duration::from_secs(5);
/// How long an array may take to let a member go.
const RELEASE_LIMIT: Duration = Duration::from_secs(10);
/// Swap in memory is used before swap on disks (`SWAP_FLAG_PREFER` and a priority, linux/swap.h).
const ZRAM_PRIORITY: i32 = 0x8000 | 100;

/// Does it.
///
/// # Errors
/// A sentence that says what could not be done.
pub fn execute(storage: &Storage, step: &Step) -> Result<()> {
    match step {
        Step::Wipe { target, .. } => {
            clear(target)?;
            // The partitions of a table that is gone go, too; a device that had none does not know what this means.
            let _ = table::announce(&path_of(target));
            Ok(())
        }
        Step::Partition { target, disk } => partition(storage, target, disk),
        Step::Finish { target, place } => unmark(target, *place),
        Step::CreateArray { raid, members, spares } => create_array(raid, members, spares),
        Step::Assemble { name, members, missing, force } => assemble(name, &paths(members), *missing > 0, *force),
        Step::Stop { block } => mdadm("--stop", &[&format!("/dev/{block}")], &[]),
        Step::Release { array } => release(array),
        Step::AddMember { array, target, returns } => add_member(array, target, *returns),
        Step::MakeLuks { target, key, luks: it } => luks::make(target, key, it),
        Step::OpenLuks { target, key, luks: it } => luks::open(target, key, it),
        Step::CloseLuks { name } => luks::close(name),
        Step::CreateGroup { name, members } => {
            let paths = physical_volumes(members)?;
            lvm(&words(&["vgcreate", "-y", name], &paths)).map(drop)
        }
        Step::ExtendGroup { name, members } => {
            let paths = physical_volumes(members)?;
            lvm(&words(&["vgextend", "-y", name], &paths)).map(drop)
        }
        Step::ActivateGroup { name, volumes } => {
            let paths: Vec<String> = volumes.iter().map(|volume| format!("{name}/{volume}")).collect();
            // -K: snapshots of thin volumes, too.
            lvm(&words(&["lvchange", "-ay", "-K"], &paths)).map(drop)
        }
        Step::CreateVolume { group, volume } => create_volume(group, volume),
        Step::CopyVolume { group, of, to, active } => {
            let skip = if *active { "--setactivationskip=n" } else { "--setactivationskip=y" };
            // By its type, as a declared snapshot.
            let words = ["lvcreate", "-y", "--type=thin", skip, &format!("--name={to}"), &format!("{group}/{of}")];
            lvm(&words).map(drop)
        }
        Step::RenameVolume { group, from, to } => lvm(&["lvrename", group, from, to]).map(drop),
        Step::RemoveVolume { group, volume } => lvm(&["lvremove", "-y", &format!("{group}/{volume}")]).map(drop),
        Step::ClearVolume { group, target, volume } => {
            clear(target)?;
            lvm(&["lvchange", "-y", "--deltag", FRESH, &format!("{group}/{volume}")]).map(drop)
        }
        Step::MakeFilesystem { target, filesystem } => make_filesystem(target, filesystem),
        Step::Mount { target, filesystem } => {
            let path = path_of(target);
            mount_at(&path.display().to_string(), &filesystem.mount, filesystem.kind.name(), &filesystem.options)
        }
        Step::MakeSwap { target } => {
            make(target, Place::Last, |path, size| run("mkswap", &[path, &(size >> 10).to_string()]).map(drop))
        }
        Step::SwapOn { target } => swap_on(&path_of(target), 0),
        Step::Zram { bytes } => zram(*bytes),
        Step::Name { target } => give_name(target),
    }
}

pub(crate) fn path_of(target: &Target) -> PathBuf {
    Path::new("/dev").join(&target.block)
}

fn paths(targets: &[Target]) -> Vec<String> {
    targets.iter().map(|target| format!("/dev/{}", target.block)).collect()
}

fn words<'a>(first: &[&'a str], rest: &'a [String]) -> Vec<&'a str> {
    first.iter().copied().chain(rest.iter().map(String::as_str)).collect()
}

/// Opens a device that nobody else may use meanwhile (`O_EXCL` without `O_CREAT`, open(2)).
fn open(target: &Target) -> Result<(File, u64)> {
    let path = path_of(target);
    let what = || format!("write to {target}");
    let file = doing(File::options().read(true).write(true).custom_flags(libc::O_EXCL).open(&path), what)?;
    let size = doing(size_of(&file), what)?;
    Ok((file, size))
}

fn size_of(file: &File) -> std::io::Result<u64> {
    use std::io::{Seek, SeekFrom};
    (&*file).seek(SeekFrom::End(0))
}

/// Zeroes both ends.
pub(crate) fn clear(target: &Target) -> Result<()> {
    let (file, size) = open(target)?;
    let what = || format!("clear {target}");
    doing(zero(&file, 0, WIPED.min(size)), what)?;
    doing(zero(&file, size - WIPED.min(size), WIPED.min(size)), what)?;
    doing(file.sync_all(), what)
}

fn zero(file: &File, mut offset: u64, length: u64) -> std::io::Result<()> {
    let zeros = vec![0; 1 << 20];
    let end = offset + length;
    while offset < end {
        let piece = usize::try_from(end - offset).unwrap_or(usize::MAX).min(zeros.len());
        file.write_all_at(&zeros[..piece], offset)?;
        offset += piece as u64;
    }
    Ok(())
}

pub(crate) fn mark(target: &Target, place: Place) -> Result<()> {
    let (file, size) = open(target)?;
    let what = || format!("mark {target}");
    doing(file.write_all_at(&mark::bytes(), place.offset(size)), what)?;
    doing(file.sync_all(), what)
}

/// An array or a mount may use it already.
pub(crate) fn unmark(target: &Target, place: Place) -> Result<()> {
    let what = || format!("take the mark off {target}");
    let file = doing(File::options().read(true).write(true).open(path_of(target)), what)?;
    let offset = place.offset(doing(size_of(&file), what)?);
    let mut found = [0; mark::SIZE];
    doing(file.read_exact_at(&mut found, offset), what)?;
    if found == mark::bytes() {
        doing(file.write_all_at(&[0; mark::SIZE], offset), what)?;
        doing(file.sync_all(), what)?;
    }
    Ok(())
}

/// Makes something on a device, under a mark; `how` is told the path and how many bytes it may use.
fn make(target: &Target, place: Place, how: impl FnOnce(&str, u64) -> Result<()>) -> Result<()> {
    clear(target)?;
    mark(target, place)?;
    let (file, size) = open(target)?;
    drop(file);
    how(&path_of(target).display().to_string(), size.saturating_sub(mark::ROOM))?;
    // What the tool wrote is on the disk before the mark goes.
    let what = || format!("write {target} out");
    doing(File::open(path_of(target)).and_then(|file| file.sync_all()), what)?;
    unmark(target, place)
}

fn partition(storage: &Storage, target: &Target, disk: &str) -> Result<()> {
    let partitions = storage.disks.get(disk).map(|disk| &disk.partitions[..]).unwrap_or_default();
    let path = path_of(target);
    clear(target)?;
    mark(target, Place::Table)?;
    {
        // What was in the middle of the disk must not be the beginning of a new partition.
        let (file, size) = open(target)?;
        let what = || format!("clear the partitions of {target}");
        for extent in table::layout(partitions, size)? {
            let both = WIPED.min(extent.size);
            doing(zero(&file, extent.start, both), what)?;
            doing(zero(&file, extent.start + extent.size - both, both), what)?;
        }
        doing(file.sync_all(), what)?;
        let sys = Path::new("/sys/class/block").join(&target.block);
        let sector = fs::read_to_string(sys.join("queue/logical_block_size")).ok();
        let sector = sector.and_then(|text| text.trim().parse().ok()).unwrap_or(512);
        table::write(&path, partitions, size, sector)?;
    }
    table::announce(&path)?;
    let end = Instant::now() + PARTITIONS_LIMIT;
    let there = || {
        let sys = Path::new("/sys/class/block").join(&target.block);
        let parts = fs::read_dir(sys).into_iter().flatten().flatten();
        parts.filter(|entry| entry.path().join("partition").exists()).count() >= partitions.len()
    };
    while !there() {
        if Instant::now() >= end {
            return Err(Error(format!("the kernel does not see the new partitions of {target}")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    unmark(target, Place::Table)
}

fn mdadm(verb: &str, arguments: &[&str], devices: &[String]) -> Result<()> {
    let all = words(&[&[verb], arguments].concat(), devices).into_iter().map(str::to_owned).collect::<Vec<_>>();
    run("mdadm", &all.iter().map(String::as_str).collect::<Vec<_>>()).map(drop)
}

fn assemble(name: &str, members: &[String], degraded: bool, force: bool) -> Result<()> {
    let array = format!("/dev/md/{name}");
    if force {
        return mdadm("--assemble", &[&array, "--run", "--force"], members);
    }
    let started = mdadm("--assemble", &[&array, "--run"], members);
    let refused = |Error(error): Error| {
        Error(format!(
            "{error}; if it was written to when the power failed, its members may disagree: put the missing one back, or \
             have it started with what is there by thimble-node storage force {name}"
        ))
    };
    if degraded { started.map_err(refused) } else { started }
}

fn create_array(raid: &Raid, members: &[Target], spares: &[Target]) -> Result<()> {
    let place = match raid.metadata {
        Metadata::Start => Place::First,
        Metadata::End => Place::Last,
    };
    let all: Vec<&Target> = members.iter().chain(spares).collect();
    for target in &all {
        clear(target)?;
        mark(target, place)?;
    }
    let path = raid.path();
    let mut words = vec![path, "--run".to_owned(), format!("--name={}", raid.name), "--homehost=any".to_owned()];
    words.push(format!("--metadata={}", raid.metadata.name()));
    words.push(format!("--level={}", raid.level));
    words.push(format!("--raid-devices={}", members.len()));
    if !spares.is_empty() {
        words.push(format!("--spare-devices={}", spares.len()));
    }
    if let Some(consistency) = raid.consistency {
        let word = match consistency {
            Consistency::Resync => "--bitmap=none",
            Consistency::Bitmap => "--bitmap=internal",
            Consistency::Ppl => "--consistency-policy=ppl",
        };
        words.push(word.to_owned());
    }
    if let Some(chunk) = raid.chunk {
        words.push(format!("--chunk={}", chunk.bytes() >> 10));
    }
    if raid.metadata == Metadata::Start {
        words.push(format!("--data-offset={DATA_OFFSET}"));
    }
    if matches!(raid.level, 5 | 6) {
        // All members from the start, then a resync. mdadm would rather begin degraded and rebuild the last one: an array
        // that is cut off in that is degraded and not clean, and does not start again by itself.
        words.push("--force".to_owned());
    }
    let devices: Vec<String> = all.iter().map(|target| format!("/dev/{}", target.block)).collect();
    mdadm("--create", &words.iter().map(String::as_str).collect::<Vec<_>>(), &devices)?;
    all.iter().try_for_each(|target| unmark(target, place))
}

/// Members whose disk was pulled keep their places until somebody says that they are gone (Documentation/admin-guide/md.rst,
/// `dev-XXX/state`).
fn release(array: &Target) -> Result<()> {
    let directory = array_directory(&array.block);
    let what = || format!("take members out of {array}");
    for entry in doing(fs::read_dir(&directory), what)?.flatten() {
        let is_member = entry.file_name().to_string_lossy().starts_with("dev-");
        if !is_member || entry.path().join("block").exists() {
            continue;
        }
        let state = entry.path().join("state");
        // One that has failed already stays so; the last one of an array cannot fail.
        let _ = fs::write(&state, "faulty");
        let end = Instant::now() + RELEASE_LIMIT;
        // The array is done with it when all that it had begun has ended.
        while let Err(error) = fs::write(&state, "remove") {
            if error.kind() == std::io::ErrorKind::NotFound {
                break;
            }
            if Instant::now() >= end {
                return Err(Error(format!("cannot {}: {error}", what())));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

fn add_member(array: &Target, target: &Target, returns: bool) -> Result<()> {
    let path = format!("/dev/{}", array.block);
    if !returns {
        clear(target)?;
    }
    // One that was a member before is taken back with what changed since only, as far as the bitmap tells.
    run("mdadm", &[&path, "--add", &format!("/dev/{}", target.block)]).map(drop)
}

/// Makes physical volumes of those that are none yet. Their identity says that they are ours until they are in a group.
fn physical_volumes(targets: &[Target]) -> Result<Vec<String>> {
    let paths = paths(targets);
    for (target, path) in targets.iter().zip(&paths) {
        let report = lvm(&["pvs", "--noheadings", "-o", "pv_uuid", path]);
        if report.is_ok_and(|uuid| uuid.trim().starts_with(PV_PREFIX)) {
            continue;
        }
        clear(target)?;
        let uuid =
            pv_uuid(&doing(fs::read_to_string("/proc/sys/kernel/random/uuid"), || "get a random number".into())?);
        lvm(&["pvcreate", "-ff", "-y", "--uuid", &uuid, "--norestorefile", path])?;
    }
    Ok(paths)
}

/// LVM's form of an identity: 32 letters and digits, in groups of 6, 4, 4, 4, 4, 4 and 6.
fn pv_uuid(random: &str) -> String {
    let digits: String =
        random.chars().filter(char::is_ascii_hexdigit).chain("0".repeat(26).chars()).take(26).collect();
    let mut uuid = PV_PREFIX.trim_end_matches('-').to_owned();
    for (index, digit) in digits.chars().enumerate() {
        if index % 4 == 0 && index < 24 {
            uuid.push('-');
        }
        uuid.push(digit);
    }
    uuid
}

fn create_volume(group: &str, volume: &Volume) -> Result<()> {
    let size = |size: &VolumeSize| match size {
        VolumeSize::Bytes(size) => format!("--size={}b", size.bytes()),
        // What LVM keeps of a pool for itself has to come from somewhere.
        VolumeSize::Percent(100) => "--extents=100%FREE".to_owned(),
        VolumeSize::Percent(part) => format!("--extents={part}%VG"),
    };
    let name = format!("--name={}", volume.name);
    let arguments = match &volume.kind {
        VolumeKind::Linear(bytes) => {
            let tag = format!("--addtag={FRESH}");
            vec![tag, "--wipesignatures=y".to_owned(), "--zero=y".to_owned(), name, size(bytes), group.to_owned()]
        }
        VolumeKind::ThinPool(bytes) => vec!["--type=thin-pool".to_owned(), name, size(bytes), group.to_owned()],
        VolumeKind::Thin { pool, size } => {
            let virtual_size = format!("--virtualsize={}b", size.bytes());
            vec!["--type=thin".to_owned(), name, virtual_size, format!("--thinpool={pool}"), group.to_owned()]
        }
        VolumeKind::Snapshot { of } => {
            // By its type: asked for as `--snapshot`, LVM wants the kernel's module of the other kind of snapshots.
            vec!["--type=thin".to_owned(), "--setactivationskip=n".to_owned(), name, format!("{group}/{of}")]
        }
    };
    lvm(&words(&["lvcreate", "-y"], &arguments)).map(drop)
}

fn make_filesystem(target: &Target, filesystem: &Filesystem) -> Result<()> {
    make(target, Place::Last, |path, size| {
        let program = match filesystem.kind {
            FilesystemKind::Ext4 => "mke2fs",
            FilesystemKind::Xfs => "mkfs.xfs",
        };
        let (kib, bytes) = (format!("{}k", size >> 10), format!("size={}", size / 4096 * 4096));
        let mut arguments: Vec<&str> = match filesystem.kind {
            FilesystemKind::Ext4 => vec!["-q", "-F", "-t", "ext4"],
            FilesystemKind::Xfs => vec!["-q", "-f", "-d", &bytes],
        };
        arguments.extend(filesystem.label.iter().flat_map(|label| ["-L", label]));
        arguments.push(path);
        if filesystem.kind == FilesystemKind::Ext4 {
            arguments.push(&kib);
        }
        run(program, &arguments).map(drop)
    })
}

/// Options that mount(2) takes as flags; all others are the file system's.
const FLAGS: [(&str, MsFlags); 7] = [
    ("ro", MsFlags::MS_RDONLY),
    ("noexec", MsFlags::MS_NOEXEC),
    ("sync", MsFlags::MS_SYNCHRONOUS),
    ("dirsync", MsFlags::MS_DIRSYNC),
    ("noatime", MsFlags::MS_NOATIME),
    ("nodiratime", MsFlags::MS_NODIRATIME),
    ("relatime", MsFlags::MS_RELATIME),
];

fn mount_at(source: &str, point: &str, kind: &str, options: &[String]) -> Result<()> {
    let what = || format!("mount {source} at {point}");
    doing(fs::create_dir_all(point), what)?;
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let mut others = Vec::new();
    for option in options {
        match FLAGS.iter().find(|(name, _)| name == option) {
            Some((_, flag)) => flags |= *flag,
            None => others.push(option.as_str()),
        }
    }
    let data = others.join(",");
    doing(mount(Some(source), point, Some(kind), flags, Some(data.as_str())), what)
}

/// Mounts an export, as mount.nfs(8) would have the kernel do it. It waits for the server.
///
/// # Errors
/// The kernel says no.
pub fn mount_nfs(nfs: &NfsMount) -> Result<()> {
    let mut options = vec![format!("vers={}", nfs.version.name()), format!("addr={}", nfs.server)];
    options.extend(["proto=tcp", "hard"].map(str::to_owned));
    if nfs.version == NfsVersion::V3 {
        options.extend([format!("mountaddr={}", nfs.server), "mountproto=tcp".to_owned(), "nolock".to_owned()]);
    }
    options.extend(nfs.options.iter().cloned());
    let kind = if nfs.version == NfsVersion::V3 { "nfs" } else { "nfs4" };
    mount_at(&format!("{}:{}", nfs.server, nfs.export), &nfs.mount, kind, &options)
}

fn swap_on(path: &Path, flags: i32) -> Result<()> {
    let what = || format!("swap to {}", path.display());
    let text = doing(std::ffi::CString::new(path.display().to_string()), what)?;
    // SAFETY: the path is a C string that lives until the call is over.
    let result = unsafe { libc::swapon(text.as_ptr(), flags) };
    doing(nix::errno::Errno::result(result), what).map(drop)
}

fn zram(bytes: u64) -> Result<()> {
    let what = || "make swap in compressed memory".to_owned();
    let file = doing(File::options().write(true).open("/sys/block/zram0/disksize"), what);
    doing(file?.write_all(bytes.to_string().as_bytes()), what)?;
    run("mkswap", &["/dev/zram0"])?;
    swap_on(Path::new("/dev/zram0"), ZRAM_PRIORITY)
}

/// A symbolic link, in one step.
fn give_name(target: &Target) -> Result<()> {
    let path = Path::new(&target.path);
    let what = || format!("name {} {}", target.block, target.path);
    let directory = path.parent().unwrap_or(Path::new("/dev"));
    doing(fs::create_dir_all(directory), what)?;
    let beside = directory.join(format!(".{}.new", target.block));
    let _ = fs::remove_file(&beside);
    doing(symlink(format!("/dev/{}", target.block), &beside), what)?;
    doing(fs::rename(&beside, path), what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_has_lvms_form() {
        let uuid = pv_uuid("0b0d8b06-5ac4-4a8c-9e5d-5e8a1e0c1d2f\n");
        assert_eq!(uuid.split('-').map(str::len).collect::<Vec<_>>(), [6, 4, 4, 4, 4, 4, 6]);
        assert!(uuid.starts_with(PV_PREFIX));
    }

    #[test]
    fn a_file_is_cleared_marked_and_unmarked_as_a_device_would_be() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let size = 40 << 20;
        file.as_file().set_len(size).unwrap();
        file.as_file().write_all_at(&vec![0xaa; size as usize], 0).unwrap();
        let target = Target { block: file.path().display().to_string(), path: "x".to_owned() };
        clear(&target).unwrap();
        let content = fs::read(file.path()).unwrap();
        assert!(content[..16 << 20].iter().chain(&content[24 << 20..]).all(|byte| *byte == 0));
        assert!(content[16 << 20..24 << 20].iter().all(|byte| *byte == 0xaa));
        for place in [Place::First, Place::Table, Place::Last] {
            mark(&target, place).unwrap();
            assert_eq!(fs::read(file.path()).unwrap()[place.offset(size) as usize..][..mark::SIZE], mark::bytes());
            unmark(&target, place).unwrap();
            assert_eq!(fs::read(file.path()).unwrap(), content);
        }
    }

    #[test]
    fn file_systems_leave_room_for_the_mark() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (kind, size) in [(FilesystemKind::Ext4, 64_u64 << 20), (FilesystemKind::Xfs, 512 << 20)] {
            file.as_file().set_len(0).unwrap();
            file.as_file().set_len(size).unwrap();
            let target = Target { block: file.path().display().to_string(), path: "x".to_owned() };
            let filesystem = Filesystem {
                device: String::new(),
                kind,
                mount: String::new(),
                options: Vec::new(),
                label: Some("x".to_owned()),
            };
            make_filesystem(&target, &filesystem).unwrap();
            let content = fs::read(file.path()).unwrap();
            let last = content.len() - (1 << 20);
            assert!(content[last..].iter().all(|byte| *byte == 0));
            let found = crate::signature::recognize(&content[..1 << 20], &content[last..], size);
            assert_eq!(found.signatures, [crate::signature::Signature::Filesystem(kind)]);
        }
    }
}
