//! What may stand in a definition: one type a table, each value with its place in the file.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Deserializer};
use toml::Spanned;

use crate::appliance::BondMode;
use crate::names::{Ipv4Net, Mac};
use crate::units::ByteSize;

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
    pub guest: Vec<Guest>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Appliance {
    pub name: Spanned<String>,
    #[serde(default)]
    pub budget: Option<Spanned<ByteSize>>,
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
    pub dns: Vec<Ipv4Addr>,
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
#[serde(deny_unknown_fields)]
pub(super) struct Guest {
    pub name: Spanned<String>,
    pub image: Spanned<String>,
    #[serde(default)]
    pub vcpus: Option<Spanned<u8>>,
    pub memory: Spanned<ByteSize>,
    #[serde(default)]
    pub network: Option<GuestNetwork>,
    #[serde(default)]
    pub disk: Option<Spanned<Disk>>,
    #[serde(default = "yes")]
    pub autostart: bool,
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
    pub dns: Vec<Ipv4Addr>,
    #[serde(default)]
    pub vlan: Option<Spanned<u16>>,
    #[serde(default)]
    pub mac: Option<Spanned<Mac>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Disk {
    #[serde(default)]
    pub size: Option<Spanned<ByteSize>>,
    #[serde(default)]
    pub device: Option<Spanned<String>>,
    #[serde(default)]
    pub file: Option<Spanned<String>>,
}

fn yes() -> bool {
    true
}
