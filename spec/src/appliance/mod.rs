//! An appliance whose definition has been checked: what the builder packs and the host obeys.
//!
//! Nothing here is optional for lack of an answer: addresses are parsed, MACs are chosen, defaults are filled in. Made by
//! [`crate::definition`] only; everything else may trust it.

mod firewall;
mod guest;
mod host;
mod network;
mod storage;

pub use firewall::{Firewall, Opening, Protocol};
pub use guest::{DiskSource, Guest, GuestBoot, GuestDisk, GuestNetwork, GuestRestart, Plug};
pub use host::{ApiListener, HostService, HostSettings, Ssh, Syslog, SyslogTransport, Watchdog};
pub use network::{
    Bond, BondMode, Bridge, BridgeMode, Forward, HashPolicy, Ipv6, LacpRate, Link, Match, Network, PciPath,
    PciPathError, PortVlans, Route, Vlan,
};
pub use storage::{
    ARRAY_NAMES, Chap, Consistency, DISK_NAMES, Disk, DiskMatch, DiskPartition, Filesystem, FilesystemKind, ISCSI_PORT,
    Iscsi, LUKS_NAMES, Luks, LuksKey, Metadata, NfsMount, NfsVersion, PartitionKind, Raid, Storage, Volume,
    VolumeGroup, VolumeKind, VolumeSize,
};

use serde::{Deserialize, Serialize};

use crate::units::ByteSize;

/// The whole definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appliance {
    /// Its name, the host's host name.
    pub name: String,
    /// The most that `flash.img` may take.
    pub budget: ByteSize,
    /// Memory of the machine, where the definition says it.
    pub node_memory: Option<ByteSize>,
    /// What its guests may have together.
    #[serde(default, skip_serializing_if = "Overcommit::is_empty")]
    pub overcommit: Overcommit,
    /// The host's kernel.
    pub host_kernel: HostKernel,
    /// The guests' kernel.
    pub guest_kernel: GuestKernel,
    /// The host's links and addresses.
    pub network: Network,
    /// Who may reach the host, if that is said.
    #[serde(default)]
    pub firewall: Option<Firewall>,
    /// Disks, arrays, volumes, file systems.
    #[serde(default)]
    pub storage: Storage,
    /// How it is replaced by a newer one.
    pub update: Update,
    /// What the host itself does besides.
    #[serde(default)]
    pub host: HostSettings,
    /// Guests, in the order of the file.
    pub guests: Vec<Guest>,
}

/// What guests that run at the same time may have together, in percent of what the host has for them; none is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overcommit {
    /// Of its memory.
    pub memory_percent: Option<u32>,
    /// Of its processors.
    pub vcpus_percent: Option<u32>,
}

impl Overcommit {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How a running appliance is replaced by a newer one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// The public key (ed25519, 64 hexadecimal digits) that an update must be signed with; without one, all are refused.
    pub key: Option<String>,
    /// How long a new release may take from its start until all guests that start by themselves are ready, in seconds.
    pub ready_within_s: u32,
}

/// The host's kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostKernel {
    /// Where it comes from.
    pub from: HostKernelSource,
    /// Names of hardware sets.
    pub hardware: Vec<String>,
    /// More words for the host's kernel command line.
    pub cmdline: String,
}

/// Where the host's kernel comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostKernelSource {
    /// The distribution has compiled and signed it: this package has it, or one that depends on it (`linux-image-amd64`).
    Package(String),
    /// Compiled.
    Source {
        /// The package with its source.
        source: String,
        /// Names of configuration fragments besides those of the hardware sets, later ones win.
        fragments: Vec<String>,
    },
}

/// The guests' kernel: compiled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestKernel {
    /// The package with its source.
    pub source: String,
    /// Names of configuration fragments, later ones win.
    pub fragments: Vec<String>,
}
