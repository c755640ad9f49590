//! An appliance whose definition has been checked: what the builder packs and the host obeys.
//!
//! Nothing here is optional for lack of an answer: addresses are parsed, MACs are chosen, defaults are filled in. Made by
//! [`crate::definition`] only; everything else may trust it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::names::{Ipv4Net, Mac};
use crate::units::ByteSize;
use crate::vmm::{Balloon, Cpu, DiskEngine, DiskFormat, Limits, Memory};

/// The whole definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appliance {
    /// Its name, the host's host name.
    pub name: String,
    /// The most that `flash.img` may take.
    pub budget: ByteSize,
    /// Memory of the machine, where the definition says it.
    pub node_memory: Option<ByteSize>,
    /// The host's kernel.
    pub host_kernel: HostKernel,
    /// The guests' kernel.
    pub guest_kernel: GuestKernel,
    /// Bonds by name.
    pub bonds: BTreeMap<String, Bond>,
    /// Bridges by name.
    pub bridges: BTreeMap<String, Bridge>,
    /// Arrays.
    pub raids: Vec<Raid>,
    /// How it is replaced by a newer one.
    pub update: Update,
    /// Guests, in the order of the file.
    pub guests: Vec<Guest>,
}

/// How a running appliance is replaced by a newer one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// The public key (ed25519, 64 hexadecimal digits) that an update must be signed with; without one, all are refused.
    pub key: Option<String>,
    /// How long a new release may take from its start until all guests that start by themselves are ready, in seconds.
    pub ready_within_s: u32,
}

/// The host's kernel: a package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostKernel {
    /// The package, or one that depends on it (`linux-image-amd64`).
    pub package: String,
    /// Names of hardware sets.
    pub hardware: Vec<String>,
    /// More words for the host's kernel command line.
    pub cmdline: String,
}

/// The guests' kernel: compiled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestKernel {
    /// The package with its source.
    pub source: String,
    /// Names of configuration fragments, later ones win.
    pub fragments: Vec<String>,
}

/// Several links as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bond {
    /// How they share the work.
    pub mode: BondMode,
    /// Interfaces in it.
    pub ports: Vec<String>,
    /// Time between two looks at the links' state, in milliseconds.
    pub miimon_ms: u32,
}

/// The bonding driver's modes (Documentation/networking/bonding.rst in the kernel's tree).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BondMode {
    /// Round robin.
    #[serde(rename = "balance-rr")]
    BalanceRr,
    /// One carries, the others wait.
    #[default]
    #[serde(rename = "active-backup")]
    ActiveBackup,
    /// By hash of the addresses.
    #[serde(rename = "balance-xor")]
    BalanceXor,
    /// Everything on all.
    #[serde(rename = "broadcast")]
    Broadcast,
    /// LACP.
    #[serde(rename = "802.3ad")]
    Lacp,
    /// Outgoing load.
    #[serde(rename = "balance-tlb")]
    BalanceTlb,
    /// Load in both directions.
    #[serde(rename = "balance-alb")]
    BalanceAlb,
}

/// A switch inside the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bridge {
    /// Interfaces and bonds in it.
    pub ports: Vec<String>,
    /// The host's own address on it.
    pub address: Address,
    /// Default route of the host.
    pub gateway: Option<Ipv4Addr>,
    /// Name servers of the host.
    pub dns: Vec<Ipv4Addr>,
}

/// Where an interface's address comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Address {
    /// It has none.
    #[default]
    None,
    /// From a DHCP server.
    Dhcp,
    /// Fixed.
    Static(Ipv4Net),
}

/// A software RAID array.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Raid {
    /// `/dev/md/NAME`.
    pub name: String,
    /// 0, 1, 5, 6 or 10.
    pub level: u8,
    /// Block devices.
    pub members: Vec<String>,
}

/// A guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// Its name and host name.
    pub name: String,
    /// The recipe of its image.
    pub image: String,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// What its processors are like and where they run.
    pub cpu: Cpu,
    /// Memory.
    pub memory: ByteSize,
    /// What its memory is made of.
    pub memory_kind: Memory,
    /// Its memory balloon, if it has one.
    pub balloon: Option<Balloon>,
    /// The context identifier of its socket device, if it has one.
    pub vsock: Option<u32>,
    /// Whether it has a virtio console beside its serial port.
    pub virtio_console: bool,
    /// Its network interface, if it has one.
    pub network: Option<GuestNetwork>,
    /// Its own block device, if it has one.
    pub disk: Option<GuestDisk>,
    /// Whether the host starts it.
    pub autostart: bool,
}

/// A guest's network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestNetwork {
    /// The bridge that it is plugged into.
    pub bridge: String,
    /// Its address.
    pub address: Option<Ipv4Net>,
    /// Its default route.
    pub gateway: Option<Ipv4Addr>,
    /// Its name servers.
    pub dns: Vec<Ipv4Addr>,
    /// VLAN of its port in the bridge.
    pub vlan: Option<u16>,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Pairs of queues.
    pub queues: u8,
    /// The largest packet, in bytes; none is what the host's interface takes.
    pub mtu: Option<u16>,
    /// How fast it may receive.
    pub receive: Limits,
    /// How fast it may send.
    pub transmit: Limits,
}

/// A guest's own block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestDisk {
    /// What it is on the host.
    pub source: DiskSource,
    /// What is in it.
    pub format: DiskFormat,
    /// The directory of the host in which a qcow2 image's backing files may be.
    pub backing: Option<String>,
    /// The guest cannot write to it.
    pub read_only: bool,
    /// Around the host's page cache.
    pub direct: bool,
    /// How requests reach the host's kernel.
    pub engine: DiskEngine,
    /// Request queues.
    pub queues: u8,
    /// How fast it may be.
    pub limits: Limits,
}

/// What a guest's own block device is on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskSource {
    /// A sparse file of this size on the node's data partition.
    Size(ByteSize),
    /// A block device.
    Device(String),
    /// A file; `nfs:` before it means on the NFS export.
    File(String),
}
