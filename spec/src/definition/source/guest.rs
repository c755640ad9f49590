//! `[[guest]]`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::Deserialize;
use toml::Spanned;

use crate::appliance::GuestRestart;
use crate::ip::IpNet;
use crate::names::{Ipv4Net, Mac};
use crate::units::ByteSize;
use crate::vmm::{CpuModel, DiskEngine, DiskFormat, Pages};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(in crate::definition) struct Guest {
    pub name: Spanned<String>,
    #[serde(default)]
    pub image: Option<Spanned<String>>,
    #[serde(default)]
    pub vcpus: Option<Spanned<u8>>,
    #[serde(default)]
    pub cpu: Cpu,
    pub memory: Spanned<ByteSize>,
    #[serde(default)]
    pub pages: Pages,
    #[serde(default)]
    pub prefault: bool,
    #[serde(default)]
    pub balloon: Option<Balloon>,
    #[serde(default)]
    pub vsock: Option<Spanned<Vsock>>,
    #[serde(default)]
    pub commands: Option<Spanned<bool>>,
    #[serde(default)]
    pub virtio_console: bool,
    #[serde(default)]
    pub network: Option<Spanned<GuestNetwork>>,
    #[serde(default)]
    pub disk: Option<Spanned<Disk>>,
    #[serde(default = "yes")]
    pub autostart: bool,
    #[serde(default)]
    pub start_after: Vec<Spanned<String>>,
    #[serde(default)]
    pub start_delay_s: Option<Spanned<u16>>,
    #[serde(default)]
    pub restart: GuestRestart,
    #[serde(default)]
    pub ssh_keys: Vec<Spanned<String>>,
    #[serde(default)]
    pub role: Option<Spanned<String>>,
    #[serde(default)]
    pub environment: BTreeMap<Spanned<String>, Spanned<String>>,
    #[serde(default)]
    pub identity: Option<Spanned<String>>,
    #[serde(default)]
    pub boot: Option<Boot>,
}

/// A kernel of the guest's own.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(in crate::definition) struct Boot {
    pub kernel: Spanned<String>,
    #[serde(default)]
    pub initrd: Option<Spanned<String>>,
    #[serde(default)]
    pub cmdline: Option<Spanned<String>>,
    #[serde(default)]
    pub user_data: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::definition) struct Cpu {
    #[serde(default)]
    pub model: CpuModel,
    #[serde(default)]
    pub nested: bool,
    #[serde(default)]
    pub pins: Option<Spanned<Vec<Vec<Spanned<u16>>>>>,
}

/// A balloon that is there and says no more gives back what the guest does not use, and no process dies for it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(in crate::definition) struct Balloon {
    #[serde(default)]
    pub target: Option<Spanned<ByteSize>>,
    #[serde(default = "yes")]
    pub deflate_on_oom: bool,
    #[serde(default = "yes")]
    pub free_page_reporting: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::definition) struct Vsock {
    #[serde(default)]
    pub cid: Option<Spanned<u32>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(in crate::definition) struct GuestNetwork {
    #[serde(default)]
    pub bridge: Option<Spanned<String>>,
    #[serde(default)]
    pub macvtap: Option<Spanned<String>>,
    #[serde(default)]
    pub address: Option<Spanned<Ipv4Net>>,
    #[serde(default)]
    pub gateway: Option<Spanned<Ipv4Addr>>,
    #[serde(default)]
    pub dns: Vec<Spanned<Ipv4Addr>>,
    #[serde(default)]
    pub vlan: Option<Spanned<u16>>,
    #[serde(default)]
    pub vlans: Vec<Spanned<u16>>,
    #[serde(default)]
    pub mac: Option<Spanned<Mac>>,
    #[serde(default)]
    pub anti_spoofing: Option<Spanned<bool>>,
    #[serde(default)]
    pub allowed_addresses: Vec<Spanned<IpNet>>,
    #[serde(default)]
    pub queues: Option<Spanned<u8>>,
    #[serde(default)]
    pub mtu: Option<Spanned<u16>>,
    #[serde(default)]
    pub receive: Limits,
    #[serde(default)]
    pub transmit: Limits,
}

/// Where a disk is, in one of three ways, and what it is.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(in crate::definition) struct Disk {
    #[serde(default)]
    pub size: Option<Spanned<ByteSize>>,
    #[serde(default)]
    pub device: Option<Spanned<String>>,
    #[serde(default)]
    pub file: Option<Spanned<String>>,
    #[serde(default)]
    pub format: Option<Spanned<DiskFormat>>,
    #[serde(default)]
    pub backing: Option<Spanned<String>>,
    #[serde(default)]
    pub read_only: Option<Spanned<bool>>,
    #[serde(default)]
    pub direct: Option<Spanned<bool>>,
    #[serde(default)]
    pub engine: Option<Spanned<DiskEngine>>,
    #[serde(default)]
    pub queues: Option<Spanned<u8>>,
    #[serde(default)]
    pub limits: Limits,
}

/// How fast a device may be: bytes and requests, or packets, a second, and what may go at once after a rest.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(in crate::definition) struct Limits {
    #[serde(default)]
    pub bandwidth: Option<Spanned<ByteSize>>,
    #[serde(default)]
    pub bandwidth_burst: Option<Spanned<ByteSize>>,
    #[serde(default)]
    pub operations: Option<Spanned<u64>>,
    #[serde(default)]
    pub operations_burst: Option<Spanned<u64>>,
}

fn yes() -> bool {
    true
}
