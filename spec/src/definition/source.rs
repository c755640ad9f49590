//! What may stand in a definition: one type a table, each value with its place in the file.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Deserializer};
use toml::Spanned;

use crate::appliance::BondMode;
use crate::format::Format;
use crate::names::{Ipv4Net, Mac};
use crate::secure_boot::Mode;
use crate::units::ByteSize;
use crate::vmm::{CpuModel, DiskEngine, DiskFormat, Pages};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Definition {
    pub appliance: Appliance,
    #[serde(default)]
    pub node: Node,
    pub kernel: Kernel,
    #[serde(default)]
    pub network: Network,
    #[serde(default)]
    pub storage: Storage,
    #[serde(default)]
    pub update: Update,
    #[serde(default, rename = "secure-boot")]
    pub secure_boot: Option<SecureBoot>,
    #[serde(default)]
    pub guest: Vec<Guest>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Appliance {
    pub name: Spanned<String>,
    #[serde(default)]
    pub budget: Option<Spanned<ByteSize>>,
    #[serde(default)]
    pub formats: Option<Spanned<Vec<Format>>>,
}

/// How a running appliance is replaced by a newer one.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Update {
    #[serde(default)]
    pub key: Option<Spanned<String>>,
    #[serde(default)]
    pub room: Option<Spanned<ByteSize>>,
    #[serde(default)]
    pub ready_within_s: Option<Spanned<u32>>,
    #[serde(default)]
    pub tries: Option<Spanned<u8>>,
}

/// How it boots where Secure Boot is enforced.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SecureBoot {
    pub mode: Spanned<Mode>,
    #[serde(default)]
    pub key: Option<Spanned<String>>,
    #[serde(default)]
    pub certificate: Option<Spanned<String>>,
}

/// The machine that the appliance is meant for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Node {
    #[serde(default)]
    pub memory: Option<Spanned<ByteSize>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kernel {
    pub host: HostKernel,
    pub guest: GuestKernel,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HostKernel {
    pub package: Spanned<String>,
    pub hardware: Vec<Spanned<String>>,
    #[serde(default)]
    pub cmdline: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GuestKernel {
    pub source: Spanned<String>,
    pub fragments: Vec<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Network {
    #[serde(default)]
    pub bonds: BTreeMap<String, Spanned<Bond>>,
    #[serde(default)]
    pub bridges: BTreeMap<String, Spanned<Bridge>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Bond {
    #[serde(default)]
    pub mode: BondMode,
    pub ports: Vec<Spanned<String>>,
    #[serde(default)]
    pub miimon_ms: Option<Spanned<u32>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bridge {
    #[serde(default)]
    pub ports: Vec<Spanned<String>>,
    #[serde(default)]
    pub address: Option<Spanned<BridgeAddress>>,
    #[serde(default)]
    pub gateway: Option<Spanned<Ipv4Addr>>,
    #[serde(default)]
    pub dns: Vec<Spanned<Ipv4Addr>>,
}

/// `"dhcp"`, `"none"` or an address.
#[derive(Clone, Copy, Debug)]
pub(super) struct BridgeAddress(pub crate::appliance::Address);

impl<'de> Deserialize<'de> for BridgeAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use crate::appliance::Address;
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "dhcp" => Ok(Address::Dhcp),
            "none" => Ok(Address::None),
            address => address
                .parse::<Ipv4Net>()
                .map(Address::Static)
                .map_err(|error| serde::de::Error::custom(format!("{error}, or \"dhcp\", or \"none\""))),
        }
        .map(Self)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Storage {
    #[serde(default)]
    pub raid: Vec<Raid>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raid {
    pub name: Spanned<String>,
    pub level: Spanned<u8>,
    pub members: Spanned<Vec<Spanned<String>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Guest {
    pub name: Spanned<String>,
    pub image: Spanned<String>,
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
    pub virtio_console: bool,
    #[serde(default)]
    pub network: Option<GuestNetwork>,
    #[serde(default)]
    pub disk: Option<Spanned<Disk>>,
    #[serde(default = "yes")]
    pub autostart: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cpu {
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
pub(super) struct Balloon {
    #[serde(default)]
    pub target: Option<Spanned<ByteSize>>,
    #[serde(default = "yes")]
    pub deflate_on_oom: bool,
    #[serde(default = "yes")]
    pub free_page_reporting: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Vsock {
    #[serde(default)]
    pub cid: Option<Spanned<u32>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GuestNetwork {
    pub bridge: Spanned<String>,
    #[serde(default)]
    pub address: Option<Spanned<Ipv4Net>>,
    #[serde(default)]
    pub gateway: Option<Spanned<Ipv4Addr>>,
    #[serde(default)]
    pub dns: Vec<Spanned<Ipv4Addr>>,
    #[serde(default)]
    pub vlan: Option<Spanned<u16>>,
    #[serde(default)]
    pub mac: Option<Spanned<Mac>>,
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
pub(super) struct Disk {
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
pub(super) struct Limits {
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
