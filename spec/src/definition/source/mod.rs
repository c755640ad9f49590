//! What may stand in a definition: one type a table, each value with its place in the file.

mod firewall;
mod guest;
mod host;
mod network;
mod storage;

pub(super) use firewall::*;
pub(super) use guest::*;
pub(super) use host::*;
pub(super) use network::*;
pub(super) use storage::*;

use serde::Deserialize;
use toml::Spanned;

use crate::format::Format;
use crate::secure_boot::Mode;
use crate::units::ByteSize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::definition) struct Definition {
    pub appliance: Appliance,
    #[serde(default)]
    pub node: Node,
    pub kernel: Kernel,
    #[serde(default)]
    pub network: Network,
    #[serde(default)]
    pub firewall: Option<Firewall>,
    #[serde(default)]
    pub storage: Storage,
    #[serde(default)]
    pub update: Update,
    #[serde(default, rename = "secure-boot")]
    pub secure_boot: Option<SecureBoot>,
    #[serde(default)]
    pub log: Log,
    #[serde(default)]
    pub watchdog: Option<Watchdog>,
    #[serde(default)]
    pub time: Time,
    #[serde(default)]
    pub sysctl: Sysctl,
    #[serde(default)]
    pub access: Access,
    #[serde(default)]
    pub api: Option<Api>,
    #[serde(default)]
    pub service: Vec<HostService>,
    #[serde(default)]
    pub guest: Vec<Guest>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::definition) struct Appliance {
    pub name: Spanned<String>,
    #[serde(default)]
    pub budget: Option<Spanned<ByteSize>>,
    #[serde(default)]
    pub formats: Option<Spanned<Vec<Format>>>,
}

/// How a running appliance is replaced by a newer one.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(in crate::definition) struct Update {
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
pub(in crate::definition) struct SecureBoot {
    pub mode: Spanned<Mode>,
    #[serde(default)]
    pub key: Option<Spanned<String>>,
    #[serde(default)]
    pub certificate: Option<Spanned<String>>,
}

/// The machine that the appliance is meant for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::definition) struct Node {
    #[serde(default)]
    pub memory: Option<Spanned<ByteSize>>,
    #[serde(default)]
    pub overcommit: Overcommit,
}

/// In percent; a hundred is what the host has.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(in crate::definition) struct Overcommit {
    #[serde(default)]
    pub memory_percent: Option<Spanned<u32>>,
    #[serde(default)]
    pub vcpus_percent: Option<Spanned<u32>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::definition) struct Kernel {
    pub host: Spanned<HostKernel>,
    pub guest: GuestKernel,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::definition) struct HostKernel {
    #[serde(default)]
    pub package: Option<Spanned<String>>,
    #[serde(default)]
    pub source: Option<Spanned<String>>,
    #[serde(default)]
    pub fragments: Option<Spanned<Vec<Spanned<String>>>>,
    pub hardware: Vec<Spanned<String>>,
    #[serde(default)]
    pub cmdline: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::definition) struct GuestKernel {
    pub source: Spanned<String>,
    pub fragments: Vec<Spanned<String>>,
}
