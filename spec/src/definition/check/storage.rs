//! Disks, arrays, volume groups, file systems: each block device exists, has one user, and stands on no user of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use toml::Spanned;

use super::{Checker, Once, inner, source};
use crate::appliance::{
    ARRAY_NAMES, Consistency, DISK_NAMES, Disk, DiskMatch, DiskPartition, Filesystem, LUKS_NAMES, Luks, LuksKey,
    NfsMount, Raid, Storage, Volume, VolumeGroup, VolumeKind, VolumeSize,
};
use crate::names::check_name;
use crate::paths::DATA_DIR;
use crate::units::{ByteSize, MIB};

/// What a volume's size is a multiple of: an extent, unless somebody asks LVM for another one.
const EXTENT: u64 = 4 * MIB;
/// Names below `/dev` that are the kernel's or ours.
const RESERVED: [&str; 11] = ["block", "bus", "char", "disk", "input", "luks", "mapper", "md", "net", "pts", "thimble"];
/// Bytes of a key, and of one that nothing is said of: what is guessed is not one.
const KEY_SIZES: std::ops::RangeInclusive<u16> = 32..=4096;
/// See [`KEY_SIZES`].
const KEY_SIZE: u16 = 64;
/// The longest label: XFS has 12 bytes for it, ext4 16.
const LABEL_MAX: usize = 12;

/// What the definition says of block devices before anybody uses one.
pub(super) struct Devices {
    taken: Once<String>,
    /// Paths that declared things have.
    declared: BTreeSet<String>,
    /// Names of volume groups.
    groups: BTreeSet<String>,
    /// Where the exports of NFS servers are mounted.
    exports: BTreeMap<String, String>,
    /// Names of iSCSI targets.
    targets: BTreeSet<String>,
    /// The users of block devices that are block devices themselves: path, what it stands on, and its place.
    layers: Vec<(String, Vec<String>, Range<usize>, String)>,
}

impl Devices {
    pub(super) fn new(storage: &source::Storage) -> Self {
        let mut declared = BTreeSet::new();
        for (name, disk) in &storage.disks {
            if disk.partitions.is_empty() {
                declared.insert(Storage::disk_path(name.get_ref()));
            }
            for partition in &disk.partitions {
                declared.insert(Storage::partition_path(name.get_ref(), partition.name.get_ref()));
            }
        }
        declared.extend(storage.raid.iter().map(|raid| format!("{ARRAY_NAMES}/{}", raid.name.get_ref())));
        declared.extend(storage.luks.iter().map(|luks| format!("{LUKS_NAMES}/{}", luks.name.get_ref())));
        for group in &storage.volume_group {
            let blocks = group.volumes.iter().map(Spanned::get_ref).filter(|volume| !volume.thin_pool);
            declared.extend(blocks.map(|volume| format!("/dev/{}/{}", group.name.get_ref(), volume.name.get_ref())));
        }
        let exports = storage.nfs.iter().map(|nfs| (nfs.name.get_ref().clone(), nfs.mount.get_ref().clone()));
        Self {
            taken: Once::new(),
            declared,
            groups: storage.volume_group.iter().map(|group| group.name.get_ref().clone()).collect(),
            exports: exports.collect(),
            targets: storage.iscsi.iter().map(|iscsi| iscsi.name.get_ref().clone()).collect(),
            layers: Vec::new(),
        }
    }

    /// The path of a block device that somebody uses, or shares with others that only read.
    pub(super) fn take(
        &mut self,
        checker: &mut Checker<'_>,
        name: &Spanned<String>,
        key: &str,
        shares: bool,
    ) -> String {
        let path = self.path(checker, name, key);
        self.taken.take_or_share(checker, shares, &path, name.span(), key, "block device");
        path
    }

    /// The same of a file.
    pub(super) fn take_file(&mut self, checker: &mut Checker<'_>, file: &Spanned<String>, key: &str, shares: bool) {
        self.taken.take_or_share(checker, shares, file.get_ref(), file.span(), key, "file");
    }

    /// Where an export is mounted.
    pub(super) fn export(&self, name: &str) -> Option<&str> {
        self.exports.get(name).map(String::as_str)
    }

    /// Whether an iSCSI target is called so.
    pub(super) fn has_target(&self, name: &str) -> bool {
        self.targets.contains(name)
    }

    /// A path below `/dev`, or the name of a declared disk or of its partition.
    fn path(&self, checker: &mut Checker<'_>, name: &Spanned<String>, key: &str) -> String {
        let text = name.get_ref();
        if !text.starts_with('/') {
            let path = Storage::disk_path(text);
            if !self.declared.contains(&path) {
                let partitioned = self.declared.range(format!("{path}.")..).next();
                let message = match partitioned.filter(|known| known.starts_with(&format!("{path}."))) {
                    Some(known) => {
                        let known = known.trim_start_matches(DISK_NAMES).trim_start_matches('/');
                        format!("disk {text} has partitions: name one of them, such as `{known}`")
                    }
                    None => format!(
                        "`{text}` is not a block device: write its path below /dev, or declare [storage.disks.{text}]"
                    ),
                };
                checker.wrong(name.span(), key, message);
            }
            return path;
        }
        let mut parts = text.split('/').skip(1);
        let first = (parts.next(), parts.next());
        if !text.starts_with("/dev/") || text.split('/').skip(1).any(|part| matches!(part, "" | "." | "..")) {
            let message = format!("`{text}` is not a block device: write its path below /dev");
            checker.wrong(name.span(), key, message);
        } else if let (_, Some(directory)) = first {
            let ours = matches!(directory, "luks" | "md" | "thimble") || self.groups.contains(directory);
            if ours && !self.declared.contains(text) {
                let message = format!("`{text}` is declared nowhere in [storage]");
                checker.wrong(name.span(), key, message);
            }
        }
        text.clone()
    }

    /// What stands on itself, directly or not.
    fn circles(&self, checker: &mut Checker<'_>) {
        let mut open: Vec<_> = self.layers.iter().collect();
        loop {
            let waiting: BTreeSet<&String> = open.iter().map(|(path, ..)| path).collect();
            let before = open.len();
            let stuck: Vec<_> =
                open.iter().copied().filter(|layer| layer.1.iter().any(|on| waiting.contains(on))).collect();
            open = stuck;
            if open.is_empty() {
                return;
            }
            if open.len() == before {
                break;
            }
        }
        if let Some((path, on, span, key)) = open.first() {
            let on = on.join(", ");
            checker.wrong(span.clone(), key, format!("{path} stands on {on}, and that in the end on {path}"));
        }
    }
}

impl Checker<'_> {
    pub(super) fn storage(&mut self, storage: source::Storage, devices: &mut Devices) -> Storage {
        let mut paths = Once::new();
        let disks = storage.disks.into_iter().map(|(name, disk)| self.storage_disk(name, disk, &mut paths, devices));
        let disks = disks.collect();
        let raids = self.raids(storage.raid, devices);
        let luks = self.containers(storage.luks, devices);
        let groups = self.groups(storage.volume_group, devices);
        devices.circles(self);
        let mut mounts = Once::new();
        let filesystems = storage.filesystem.into_iter().enumerate().map(|(index, filesystem)| {
            let key = format!("storage.filesystem[{index}]");
            let device = devices.take(self, &filesystem.device, &format!("{key}.device"), false);
            self.mount_point(&filesystem.mount, &format!("{key}.mount"), &mut mounts);
            self.options(&filesystem.options, &key);
            if let Some(label) = &filesystem.label {
                self.label(label, &format!("{key}.label"));
            }
            Filesystem {
                device,
                kind: filesystem.kind,
                mount: filesystem.mount.into_inner(),
                options: inner(filesystem.options),
                label: filesystem.label.map(Spanned::into_inner),
            }
        });
        let filesystems = filesystems.collect();
        let swaps = storage.swap.iter().enumerate();
        let swaps = swaps
            .map(|(index, swap)| devices.take(self, &swap.device, &format!("storage.swap[{index}].device"), false))
            .collect();
        let zram = storage.zram.map(|zram| {
            if zram.size.get_ref().bytes() < MIB {
                self.wrong(zram.size.span(), "storage.zram.size", "use 1MiB or more");
            }
            zram.size.into_inner()
        });
        let nfs = self.nfs(storage.nfs, &mut mounts);
        let iscsi = self.iscsi(storage.iscsi);
        let initiator = storage.initiator.map(|initiator| {
            self.iscsi_name(&initiator, "storage.initiator");
            if iscsi.is_empty() {
                let message = "nobody asks for the host's name without [[storage.iscsi]]: leave this out";
                self.wrong(initiator.span(), "storage.initiator", message);
            }
            initiator.into_inner()
        });
        Storage { disks, raids, luks, groups, filesystems, swaps, zram, nfs, iscsi, initiator }
    }

    fn storage_disk(
        &mut self,
        name: Spanned<String>,
        disk: source::StorageDisk,
        paths: &mut Once<String>,
        devices: &mut Devices,
    ) -> (String, Disk) {
        let key = format!("storage.disks.{}", name.get_ref());
        self.expect(check_name(name.get_ref()), name.span(), &key);
        let span = disk.identity.span();
        let identity = disk.identity.into_inner();
        let place = format!("{key}.match");
        if let Some(lun) = identity.lun.as_ref().filter(|_| identity.iscsi.is_none()) {
            let message = "only an iSCSI target has units: name it by `iscsi`";
            self.wrong(lun.span(), format!("{place}.lun"), message);
        }
        let identity = match (identity.serial, identity.wwn, identity.path, identity.iscsi) {
            (Some(serial), None, None, None) => self.identity(serial, "serial", &place, paths, DiskMatch::Serial),
            (None, Some(wwn), None, None) => self.identity(wwn, "wwn", &place, paths, DiskMatch::Wwn),
            (None, None, None, Some(target)) => self.unit(target, identity.lun, &place, paths, devices),
            (None, None, Some(path), None) => {
                let device = path.get_ref().strip_prefix("/dev/");
                if !device.is_some_and(|device| !device.is_empty() && !device.contains('/')) {
                    let message = "write the kernel's name of the disk, such as /dev/sda, or better its serial number";
                    self.wrong(path.span(), format!("{place}.path"), message);
                }
                devices.taken.take(self, path.get_ref(), path.span(), &format!("{place}.path"), "block device");
                self.identity(path, "path", &place, paths, DiskMatch::Path)
            }
            _ => {
                let message = "a disk is known by one of `serial`, `wwn`, `path` and `iscsi`: give exactly one";
                self.wrong(span, place, message);
                DiskMatch::Path(String::new())
            }
        };
        let mut names = Once::new();
        let last = disk.partitions.len().saturating_sub(1);
        let partitions = disk.partitions.into_iter().enumerate().map(|(index, partition)| {
            let key = format!("{key}.partitions[{index}]");
            let name = partition.name;
            self.expect(check_name(name.get_ref()), name.span(), &format!("{key}.name"));
            names.take(self, name.get_ref(), name.span(), &format!("{key}.name"), "partition");
            match &partition.size {
                Some(size) => {
                    let bytes = size.get_ref().bytes();
                    if bytes == 0 || !bytes.is_multiple_of(MIB) {
                        self.wrong(size.span(), format!("{key}.size"), "use whole MiB");
                    }
                }
                None if index < last => {
                    self.wrong(name.span(), format!("{key}.size"), "only the last partition may take the rest");
                }
                None => {}
            }
            DiskPartition {
                name: name.into_inner(),
                size: partition.size.map(Spanned::into_inner),
                kind: partition.kind,
            }
        });
        let partitions = partitions.collect();
        (name.into_inner(), Disk { identity, wipe: disk.wipe, partitions })
    }

    fn identity(
        &mut self,
        value: Spanned<String>,
        what: &str,
        place: &str,
        taken: &mut Once<String>,
        make: impl Fn(String) -> DiskMatch,
    ) -> DiskMatch {
        let key = format!("{place}.{what}");
        if value.get_ref().trim().is_empty() {
            self.wrong(value.span(), &key, format!("an empty {what} says nothing: take the one of the disk"));
        }
        taken.take(self, &format!("{what} {}", value.get_ref()), value.span(), &key, "disk with");
        make(value.into_inner())
    }

    fn raids(&mut self, raids: Vec<source::Raid>, devices: &mut Devices) -> Vec<Raid> {
        let mut names = Once::new();
        let checked = raids.into_iter().enumerate().map(|(index, raid)| {
            let key = format!("storage.raid[{index}]");
            self.expect(check_name(raid.name.get_ref()), raid.name.span(), &format!("{key}.name"));
            names.take(self, raid.name.get_ref(), raid.name.span(), &format!("{key}.name"), "array");
            let level = *raid.level.get_ref();
            let least = match level {
                0 | 1 | 10 => 2,
                5 => 3,
                6 => 4,
                level => {
                    let message = format!("{level} is no RAID level: use 0, 1, 5, 6 or 10");
                    self.wrong(raid.level.span(), format!("{key}.level"), message);
                    0
                }
            };
            let count = raid.members.get_ref().len();
            if count < least {
                let message = format!("RAID {level} needs at least {least} members, here are {count}");
                self.wrong(raid.members.span(), format!("{key}.members"), message);
            }
            let members = self.members(raid.members.get_ref(), &format!("{key}.members"), devices);
            let spares = self.members(&raid.spares, &format!("{key}.spares"), devices);
            if let Some(spare) = raid.spares.first().filter(|_| level == 0) {
                self.wrong(spare.span(), format!("{key}.spares"), "RAID 0 has nothing that a spare could take over");
            }
            if let Some(consistency) = &raid.consistency {
                let wrong = match consistency.get_ref() {
                    _ if level == 0 => Some("RAID 0 has no copies that could differ: leave this out"),
                    Consistency::Ppl if level != 5 => {
                        Some("a partial parity log is for RAID 5: use `bitmap` or `resync`")
                    }
                    _ => None,
                };
                if let Some(message) = wrong {
                    self.wrong(consistency.span(), format!("{key}.consistency"), message);
                }
            }
            if let Some(chunk) = &raid.chunk {
                let bytes = chunk.get_ref().bytes();
                if level == 1 || bytes < 4096 || !bytes.is_power_of_two() {
                    let message = "use a power of two, 4KiB or more; RAID 1 has none";
                    self.wrong(chunk.span(), format!("{key}.chunk"), message);
                }
            }
            let path = format!("{ARRAY_NAMES}/{}", raid.name.get_ref());
            let under = members.iter().chain(&spares).cloned().collect();
            devices.layers.push((path, under, raid.members.span(), format!("{key}.members")));
            Raid {
                name: raid.name.into_inner(),
                level,
                members,
                spares,
                metadata: raid.metadata,
                consistency: raid.consistency.map(Spanned::into_inner).or(match level {
                    0 => None,
                    5 => Some(Consistency::Ppl),
                    _ => Some(Consistency::Bitmap),
                }),
                chunk: raid.chunk.map(Spanned::into_inner),
            }
        });
        checked.collect()
    }

    fn members(&mut self, members: &[Spanned<String>], key: &str, devices: &mut Devices) -> Vec<String> {
        let taken = members.iter().enumerate();
        taken.map(|(index, member)| devices.take(self, member, &format!("{key}[{index}]"), false)).collect()
    }

    fn containers(&mut self, containers: Vec<source::Luks>, devices: &mut Devices) -> Vec<Luks> {
        let mut names = Once::new();
        let checked = containers.into_iter().enumerate().map(|(index, luks)| {
            let key = format!("storage.luks[{index}]");
            self.expect(check_name(luks.name.get_ref()), luks.name.span(), &format!("{key}.name"));
            names.take(self, luks.name.get_ref(), luks.name.span(), &format!("{key}.name"), "LUKS container");
            let device = devices.take(self, &luks.device, &format!("{key}.device"), false);
            // A key may open several.
            let key_device = devices.take(self, &luks.key.device, &format!("{key}.key.device"), true);
            if let Some(size) = luks.key.size.as_ref().filter(|size| !KEY_SIZES.contains(size.get_ref())) {
                let message = format!("use {} to {} bytes", KEY_SIZES.start(), KEY_SIZES.end());
                self.wrong(size.span(), format!("{key}.key.size"), message);
            }
            let on = vec![device.clone(), key_device.clone()];
            let path = format!("{LUKS_NAMES}/{}", luks.name.get_ref());
            devices.layers.push((path, on, luks.device.span(), format!("{key}.device")));
            Luks {
                name: luks.name.into_inner(),
                device,
                key: LuksKey {
                    device: key_device,
                    offset: luks.key.offset.map_or(ByteSize(0), Spanned::into_inner),
                    size: luks.key.size.map_or(KEY_SIZE, Spanned::into_inner),
                },
            }
        });
        checked.collect()
    }

    fn groups(&mut self, groups: Vec<source::VolumeGroup>, devices: &mut Devices) -> Vec<VolumeGroup> {
        let mut names = Once::new();
        let checked = groups.into_iter().enumerate().map(|(index, group)| {
            let key = format!("storage.volume-group[{index}]");
            let name = group.name;
            self.expect(check_name(name.get_ref()), name.span(), &format!("{key}.name"));
            names.take(self, name.get_ref(), name.span(), &format!("{key}.name"), "volume group");
            if RESERVED.contains(&name.get_ref().as_str()) {
                let message = format!("/dev/{} is not for volumes: use another name", name.get_ref());
                self.wrong(name.span(), format!("{key}.name"), message);
            }
            if group.members.get_ref().is_empty() {
                self.wrong(group.members.span(), format!("{key}.members"), "a volume group needs at least one member");
            }
            let members = self.members(group.members.get_ref(), &format!("{key}.members"), devices);
            let volumes = self.volumes(group.volumes, &key);
            for volume in &volumes {
                let path = format!("/dev/{}/{}", name.get_ref(), volume.name);
                devices.layers.push((path, members.clone(), group.members.span(), format!("{key}.members")));
            }
            VolumeGroup { name: name.into_inner(), members, volumes }
        });
        checked.collect()
    }

    fn volumes(&mut self, volumes: Vec<Spanned<source::Volume>>, group: &str) -> Vec<Volume> {
        let mut names = Once::new();
        let mut percent = 0_u32;
        let mut checked: Vec<Volume> = Vec::new();
        for (index, volume) in volumes.into_iter().enumerate() {
            let key = format!("{group}.volumes[{index}]");
            let span = volume.span();
            let volume = volume.into_inner();
            let name = volume.name;
            self.expect(check_name(name.get_ref()), name.span(), &format!("{key}.name"));
            names.take(self, name.get_ref(), name.span(), &format!("{key}.name"), "volume");
            if ["snapshot", "pvmove"].iter().any(|word| name.get_ref().starts_with(word)) {
                self.wrong(name.span(), format!("{key}.name"), "LVM keeps names that begin so for itself");
            }
            if let Some(size) = &volume.size
                && (size.get_ref().bytes() == 0 || !size.get_ref().bytes().is_multiple_of(EXTENT))
            {
                let message = format!("use a multiple of {}", ByteSize(EXTENT));
                self.wrong(size.span(), format!("{key}.size"), message);
            }
            if let Some(part) = &volume.percent {
                percent += u32::from(*part.get_ref());
                if *part.get_ref() == 0 || percent > 100 {
                    let message = "use 1 to 100 percent of the group, for all volumes together";
                    self.wrong(part.span(), format!("{key}.percent"), message);
                }
            }
            let of_group = match (&volume.size, &volume.percent) {
                (Some(size), None) => Some(VolumeSize::Bytes(*size.get_ref())),
                (None, Some(part)) => Some(VolumeSize::Percent(*part.get_ref())),
                _ => None,
            };
            let before = |wanted: &str, pools: bool| {
                let fits = |kind: &VolumeKind| match kind {
                    VolumeKind::ThinPool(_) => pools,
                    VolumeKind::Thin { .. } | VolumeKind::Snapshot { .. } => !pools,
                    VolumeKind::Linear(_) => false,
                };
                checked.iter().any(|known| known.name == wanted && fits(&known.kind))
            };
            let kind = match (of_group, volume.pool, volume.snapshot_of) {
                (Some(size), None, None) if volume.thin_pool => Some(VolumeKind::ThinPool(size)),
                (Some(size), None, None) => Some(VolumeKind::Linear(size)),
                (Some(VolumeSize::Bytes(size)), Some(pool), None) if !volume.thin_pool => {
                    if !before(pool.get_ref(), true) {
                        let message = format!("there is no thin pool {} before it in this group", pool.get_ref());
                        self.wrong(pool.span(), format!("{key}.pool"), message);
                    }
                    Some(VolumeKind::Thin { pool: pool.into_inner(), size })
                }
                (None, None, Some(of)) if !volume.thin_pool && volume.size.is_none() && volume.percent.is_none() => {
                    if !before(of.get_ref(), false) {
                        let message = format!("there is no thin volume {} before it in this group", of.get_ref());
                        self.wrong(of.span(), format!("{key}.snapshot-of"), message);
                    }
                    Some(VolumeKind::Snapshot { of: of.into_inner() })
                }
                _ => {
                    let message = "a volume has `size` or `percent`, with `thin-pool = true` if others take from it; a \
                                   thin one `size` and `pool`; a snapshot only `snapshot-of`";
                    self.wrong(span, &key, message);
                    None
                }
            };
            checked.extend(kind.map(|kind| Volume { name: name.into_inner(), kind }));
        }
        checked
    }

    fn mount_point(&mut self, mount: &Spanned<String>, key: &str, mounts: &mut Once<String>) {
        let text = mount.get_ref();
        let below = text.strip_prefix(DATA_DIR).and_then(|rest| rest.strip_prefix('/'));
        let sound = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(char::is_whitespace);
        if !below.is_some_and(|below| below.split('/').all(sound)) {
            self.wrong(mount.span(), key, format!("`{text}` is not below {DATA_DIR}: use {DATA_DIR}/NAME"));
        }
        mounts.take(self, text, mount.span(), key, "mount point");
    }

    /// They are handed to mount(2) as one text, with commas between.
    fn options(&mut self, options: &[Spanned<String>], key: &str) {
        for (index, option) in options.iter().enumerate() {
            let text = option.get_ref();
            if text.is_empty() || text.contains(|c: char| c == ',' || c.is_whitespace() || c.is_control()) {
                self.wrong(option.span(), format!("{key}.options[{index}]"), "write one option, without a comma");
            }
        }
    }

    fn label(&mut self, label: &Spanned<String>, key: &str) {
        let text = label.get_ref();
        let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if text.is_empty() || text.len() > LABEL_MAX || !text.bytes().all(sound) || text.starts_with('-') {
            let message = format!("use 1 to {LABEL_MAX} letters, digits, `-`, `_` and `.`");
            self.wrong(label.span(), key, message);
        }
    }

    fn nfs(&mut self, exports: Vec<source::Nfs>, mounts: &mut Once<String>) -> Vec<NfsMount> {
        let mut names = Once::new();
        let checked = exports.into_iter().enumerate().map(|(index, nfs)| {
            let key = format!("storage.nfs[{index}]");
            self.expect(check_name(nfs.name.get_ref()), nfs.name.span(), &format!("{key}.name"));
            names.take(self, nfs.name.get_ref(), nfs.name.span(), &format!("{key}.name"), "NFS export");
            let export = nfs.export.get_ref();
            if !export.starts_with('/') || export.contains(|c: char| c == ',' || c.is_whitespace() || c.is_control()) {
                self.wrong(nfs.export.span(), format!("{key}.export"), "write the export's absolute path");
            }
            self.mount_point(&nfs.mount, &format!("{key}.mount"), mounts);
            self.options(&nfs.options, &key);
            NfsMount {
                name: nfs.name.into_inner(),
                server: nfs.server.into_inner(),
                export: nfs.export.into_inner(),
                mount: nfs.mount.into_inner(),
                version: nfs.version,
                options: inner(nfs.options),
            }
        });
        checked.collect()
    }
}
