//! The host's storage: what is to be on which disk.
//!
//! A block device is named by its path on the host: a disk that the definition names is `/dev/thimble/DISK`, a partition
//! of it `/dev/thimble/DISK.PARTITION`, an array `/dev/md/NAME`, a volume `/dev/GROUP/NAME`, what is in a LUKS container
//! `/dev/luks/NAME`. Whoever obeys makes these names; all others are the kernel's.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::units::ByteSize;

/// Where the names of declared disks and partitions are.
pub const DISK_NAMES: &str = "/dev/thimble";
/// Where the names of arrays are.
pub const ARRAY_NAMES: &str = "/dev/md";
/// Where the names of what is in LUKS containers are.
pub const LUKS_NAMES: &str = "/dev/luks";
/// Where an iSCSI target listens (RFC 7143, 4.2.7.1).
pub const ISCSI_PORT: u16 = 3260;
/// What the names of Debian's initiators begin with.
const INITIATORS: &str = "iqn.1993-08.org.debian:01";

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storage {
    /// Disks by name.
    #[serde(default)]
    pub disks: BTreeMap<String, Disk>,
    /// Arrays.
    #[serde(default)]
    pub raids: Vec<Raid>,
    /// LUKS containers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub luks: Vec<Luks>,
    /// Volume groups.
    #[serde(default)]
    pub groups: Vec<VolumeGroup>,
    /// File systems.
    #[serde(default)]
    pub filesystems: Vec<Filesystem>,
    /// Block devices to swap to.
    #[serde(default)]
    pub swaps: Vec<String>,
    /// Swap in compressed memory, of this size.
    #[serde(default)]
    pub zram: Option<ByteSize>,
    /// Exports of NFS servers.
    #[serde(default)]
    pub nfs: Vec<NfsMount>,
    /// iSCSI targets, whose units are disks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub iscsi: Vec<Iscsi>,
    /// What the host is called by them; none is [`Storage::initiator`]'s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initiator: Option<String>,
}

impl Storage {
    /// Whether nothing is declared.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What of it must be there before a path can be used: the declared block device that it is, or the mount that it is
    /// below.
    pub fn under<'a>(&self, path: &'a str) -> Option<&'a str> {
        if self.devices().any(|device| device == path) {
            return Some(path);
        }
        let of = |mount: &str| {
            let rest = path.strip_prefix(mount)?;
            (rest.is_empty() || rest.starts_with('/')).then(|| &path[..mount.len()])
        };
        self.mounts().filter_map(of).max_by_key(|mount| mount.len())
    }

    /// Whether a path is on an NFS server.
    pub fn is_remote(&self, path: &str) -> bool {
        self.under(path).is_some_and(|under| self.nfs.iter().any(|nfs| nfs.mount == under))
    }

    /// Whether a path is a volume that takes from a pool what is written to it.
    pub fn is_thin(&self, path: &str) -> bool {
        self.groups
            .iter()
            .any(|group| group.volumes.iter().any(|volume| volume.kind.is_thin() && group.path(&volume.name) == path))
    }

    /// What iSCSI targets call the host: as Debian's initiators are called on a machine of this name, if nothing is declared.
    pub fn initiator(&self, host: &str) -> String {
        self.initiator.clone().unwrap_or_else(|| format!("{INITIATORS}:{host}"))
    }

    /// Where declared file systems and exports are mounted.
    pub fn mounts(&self) -> impl Iterator<Item = &str> {
        let filesystems = self.filesystems.iter().map(|it| it.mount.as_str());
        filesystems.chain(self.nfs.iter().map(|it| it.mount.as_str()))
    }

    /// Whether a path is a declared block device that nothing else of the storage stands on: one for a guest.
    pub fn is_free(&self, path: &str) -> bool {
        let partitioned = self.disks.iter().filter(|(_, disk)| !disk.partitions.is_empty());
        let raids = self.raids.iter().flat_map(|raid| raid.members.iter().chain(&raid.spares));
        let groups = self.groups.iter().flat_map(|group| &group.members);
        let filesystems = self.filesystems.iter().map(|it| &it.device);
        let luks = self.luks.iter().flat_map(|luks| [&luks.device, &luks.key.device]);
        let mut used = raids.chain(groups).chain(filesystems).chain(luks).chain(&self.swaps);
        self.devices().any(|device| device == path)
            && !partitioned.into_iter().any(|(name, _)| Self::disk_path(name) == path)
            && !used.any(|used| used == path)
    }

    /// The paths of all declared block devices.
    pub fn devices(&self) -> impl Iterator<Item = String> {
        let disks = self.disks.iter().flat_map(|(name, disk)| {
            let parts = disk.partitions.iter().map(move |part| Self::partition_path(name, &part.name));
            std::iter::once(Self::disk_path(name)).chain(parts)
        });
        let arrays = self.raids.iter().map(Raid::path);
        let volumes = self.groups.iter().flat_map(|group| {
            let devices = group.volumes.iter().filter(|volume| !matches!(volume.kind, VolumeKind::ThinPool(_)));
            devices.map(move |volume| group.path(&volume.name))
        });
        disks.chain(arrays).chain(volumes).chain(self.luks.iter().map(Luks::path))
    }

    /// The path of a declared disk.
    pub fn disk_path(disk: &str) -> String {
        format!("{DISK_NAMES}/{disk}")
    }

    /// The path of a declared disk's partition.
    pub fn partition_path(disk: &str, partition: &str) -> String {
        format!("{DISK_NAMES}/{disk}.{partition}")
    }
}

/// A disk that the definition knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Which one it is.
    pub identity: DiskMatch,
    /// Whatever is on it may be destroyed, as far as it is not what is declared.
    pub wipe: bool,
    /// Its partitions, in their order; without any, it is used as a whole.
    pub partitions: Vec<DiskPartition>,
}

/// How a disk is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskMatch {
    /// By its serial number.
    Serial(String),
    /// By its world wide name, as the kernel writes it.
    Wwn(String),
    /// By the kernel's name of it.
    Path(String),
    /// By its place behind an iSCSI target.
    Iscsi {
        /// What the target is called here.
        target: String,
        /// The number of the logical unit.
        lun: u16,
    },
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskPartition {
    /// Its name, which is in the partition table, too.
    pub name: String,
    /// Its size; the last one may have none, and takes the rest.
    pub size: Option<ByteSize>,
    /// What the table says that it is for.
    pub kind: PartitionKind,
}

/// What a partition is for: only a word in the table, for other systems.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PartitionKind {
    /// A Linux file system or anything else of Linux.
    #[default]
    Linux,
    /// A member of an array.
    Raid,
    /// A member of a volume group.
    Lvm,
    /// Swap.
    Swap,
}

/// A software RAID array, `/dev/md/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Raid {
    /// Its name, which is in its superblocks, too.
    pub name: String,
    /// 0, 1, 5, 6 or 10.
    pub level: u8,
    /// Block devices.
    pub members: Vec<String>,
    /// Block devices that take over when a member fails.
    pub spares: Vec<String>,
    /// Where a new array has its superblock.
    pub metadata: Metadata,
    /// How a new array is made consistent again after a crash; none where nothing could differ.
    pub consistency: Option<Consistency>,
    /// Bytes in a stripe's piece, of a new array; none is what mdadm takes.
    pub chunk: Option<ByteSize>,
}

impl Raid {
    /// Members that it can't do without (of RAID 10: it may survive more, never surely).
    pub fn needed(&self) -> usize {
        let members = self.members.len();
        match self.level {
            1 => 1,
            5 => members.saturating_sub(1),
            6 => members.saturating_sub(2),
            10 => members.div_ceil(2),
            _ => members,
        }
    }

    /// Its path.
    pub fn path(&self) -> String {
        format!("{ARRAY_NAMES}/{}", self.name)
    }
}

/// How an array whose members may differ after a crash is made consistent again (md(4), `consistency_policy` in the kernel's
/// Documentation/admin-guide/md.rst).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// All of it is compared.
    Resync,
    /// It notes where it writes: only that is compared, and a member that was away for a while is soon complete again.
    Bitmap,
    /// A partial parity log, of RAID 5: one that lacks a member survives a crash, too (Documentation/driver-api/md/raid5-ppl.rst).
    Ppl,
}

/// The place of an array's superblock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Metadata {
    /// At the end: what reads only the beginning finds the content.
    #[serde(rename = "1.0")]
    End,
    /// 4 KiB from the beginning.
    #[default]
    #[serde(rename = "1.2")]
    Start,
}

impl Metadata {
    /// As mdadm writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::End => "1.0",
            Self::Start => "1.2",
        }
    }
}

/// A LUKS container, what is in it being `/dev/luks/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Luks {
    /// Its name.
    pub name: String,
    /// The block device that it is on.
    pub device: String,
    /// What opens it.
    pub key: LuksKey,
}

impl Luks {
    /// The path of what is in it.
    pub fn path(&self) -> String {
        format!("{LUKS_NAMES}/{}", self.name)
    }
}

/// A key: bytes of a block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LuksKey {
    /// The block device.
    pub device: String,
    /// Where it begins there.
    pub offset: ByteSize,
    /// How many bytes it has.
    pub size: u16,
}

/// A volume group of LVM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeGroup {
    /// Its name.
    pub name: String,
    /// Block devices.
    pub members: Vec<String>,
    /// Its volumes, those that others need before them.
    pub volumes: Vec<Volume>,
}

impl VolumeGroup {
    /// The path of one of its volumes.
    pub fn path(&self, volume: &str) -> String {
        format!("/dev/{}/{volume}", self.name)
    }
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: VolumeKind,
}

/// What a volume is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeKind {
    /// A piece of the group.
    Linear(VolumeSize),
    /// Room for thin volumes; no block device by itself.
    ThinPool(VolumeSize),
    /// A volume that takes from a pool what is written to it.
    Thin {
        /// The pool.
        pool: String,
        /// As large as it seems.
        size: ByteSize,
    },
    /// A thin volume that begins as what another one is when this is made.
    Snapshot {
        /// The other one.
        of: String,
    },
}

impl VolumeKind {
    /// Whether it takes from a pool what is written to it.
    pub fn is_thin(&self) -> bool {
        matches!(self, Self::Thin { .. } | Self::Snapshot { .. })
    }
}

/// How large a volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeSize {
    /// So large.
    Bytes(ByteSize),
    /// A part of the group, in percent.
    Percent(u8),
}

/// A file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filesystem {
    /// The block device.
    pub device: String,
    /// What is made on it.
    pub kind: FilesystemKind,
    /// Where it is mounted: below `/data`.
    pub mount: String,
    /// Options of mount(2) and of the file system.
    pub options: Vec<String>,
    /// Its label.
    pub label: Option<String>,
}

/// Kinds of file systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FilesystemKind {
    /// ext4.
    Ext4,
    /// XFS.
    Xfs,
}

impl FilesystemKind {
    /// As the kernel calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }
}

/// An export of an NFS server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NfsMount {
    /// What a guest's `nfs:NAME/PATH` begins with.
    pub name: String,
    /// The server's address.
    pub server: std::net::Ipv4Addr,
    /// The export.
    pub export: String,
    /// Where it is mounted: below `/data`.
    pub mount: String,
    /// Version of the protocol.
    pub version: NfsVersion,
    /// More options of nfs(5), as the kernel takes them.
    pub options: Vec<String>,
}

/// An iSCSI target (RFC 7143) that the host logs in to.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Iscsi {
    /// What disks call it.
    pub name: String,
    /// Where it is reached.
    pub portal: SocketAddr,
    /// Its own name.
    pub target: String,
    /// What the host tells it by CHAP.
    pub chap: Option<Chap>,
    /// Seconds after which what is read and written fails when it is away; none waits for it for ever.
    pub give_up: Option<u32>,
}

// Not its password.
impl std::fmt::Debug for Iscsi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {}", self.target, self.portal)
    }
}

/// Name and password of RFC 1994.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chap {
    /// The name.
    pub user: String,
    /// The password.
    pub password: String,
}

/// Versions of NFS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NfsVersion {
    /// RFC 1813, without locks.
    #[serde(rename = "3")]
    V3,
    /// RFC 8881.
    #[default]
    #[serde(rename = "4.1")]
    V41,
    /// RFC 7862.
    #[serde(rename = "4.2")]
    V42,
}

impl NfsVersion {
    /// As the option `vers` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::V3 => "3",
            Self::V41 => "4.1",
            Self::V42 => "4.2",
        }
    }
}
