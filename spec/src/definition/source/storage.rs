//! `[storage]`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::Deserialize;
use toml::Spanned;

use crate::appliance::{Consistency, FilesystemKind, Metadata, NfsVersion, PartitionKind};
use crate::units::ByteSize;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(in crate::definition) struct Storage {
    #[serde(default)]
    pub disks: BTreeMap<Spanned<String>, StorageDisk>,
    #[serde(default)]
    pub raid: Vec<Raid>,
    #[serde(default)]
    pub luks: Vec<Luks>,
    #[serde(default)]
    pub volume_group: Vec<VolumeGroup>,
    #[serde(default)]
    pub filesystem: Vec<Filesystem>,
    #[serde(default)]
    pub swap: Vec<Swap>,
    #[serde(default)]
    pub zram: Option<Zram>,
    #[serde(default)]
    pub nfs: Vec<Nfs>,
    #[serde(default)]
    pub iscsi: Vec<Iscsi>,
    #[serde(default)]
    pub initiator: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::definition) struct StorageDisk {
    #[serde(rename = "match")]
    pub identity: Spanned<DiskMatch>,
    #[serde(default)]
    pub wipe: bool,
    #[serde(default)]
    pub partitions: Vec<Partition>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::definition) struct DiskMatch {
    #[serde(default)]
    pub serial: Option<Spanned<String>>,
    #[serde(default)]
    pub wwn: Option<Spanned<String>>,
    #[serde(default)]
    pub path: Option<Spanned<String>>,
    #[serde(default)]
    pub iscsi: Option<Spanned<String>>,
    #[serde(default)]
    pub lun: Option<Spanned<u16>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::definition) struct Partition {
    pub name: Spanned<String>,
    #[serde(default)]
    pub size: Option<Spanned<ByteSize>>,
    #[serde(default, rename = "type")]
    pub kind: PartitionKind,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::definition) struct Raid {
    pub name: Spanned<String>,
    pub level: Spanned<u8>,
    pub members: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    pub spares: Vec<Spanned<String>>,
    #[serde(default)]
    pub metadata: Metadata,
    #[serde(default)]
    pub consistency: Option<Spanned<Consistency>>,
    #[serde(default)]
    pub chunk: Option<Spanned<ByteSize>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::definition) struct Luks {
    pub name: Spanned<String>,
    pub device: Spanned<String>,
    pub key: LuksKey,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::definition) struct LuksKey {
    pub device: Spanned<String>,
    #[serde(default)]
    pub offset: Option<Spanned<ByteSize>>,
    #[serde(default)]
    pub size: Option<Spanned<u16>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::definition) struct VolumeGroup {
    pub name: Spanned<String>,
    pub members: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    pub volumes: Vec<Spanned<Volume>>,
}

/// One of four kinds, told apart by what is said of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(in crate::definition) struct Volume {
    pub name: Spanned<String>,
    #[serde(default)]
    pub size: Option<Spanned<ByteSize>>,
    #[serde(default)]
    pub percent: Option<Spanned<u8>>,
    #[serde(default)]
    pub thin_pool: bool,
    #[serde(default)]
    pub pool: Option<Spanned<String>>,
    #[serde(default)]
    pub snapshot_of: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::definition) struct Filesystem {
    pub device: Spanned<String>,
    pub kind: FilesystemKind,
    pub mount: Spanned<String>,
    #[serde(default)]
    pub options: Vec<Spanned<String>>,
    #[serde(default)]
    pub label: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::definition) struct Swap {
    pub device: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::definition) struct Zram {
    pub size: Spanned<ByteSize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::definition) struct Nfs {
    pub name: Spanned<String>,
    pub server: Spanned<Ipv4Addr>,
    pub export: Spanned<String>,
    pub mount: Spanned<String>,
    #[serde(default)]
    pub version: NfsVersion,
    #[serde(default)]
    pub options: Vec<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(in crate::definition) struct Iscsi {
    pub name: Spanned<String>,
    pub portal: Spanned<String>,
    pub target: Spanned<String>,
    #[serde(default)]
    pub chap: Option<Chap>,
    #[serde(default)]
    pub give_up_s: Option<Spanned<u32>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::definition) struct Chap {
    pub user: Spanned<String>,
    pub password: Spanned<String>,
}
