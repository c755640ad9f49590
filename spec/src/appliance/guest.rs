//! A guest: its machine, its network interface, its block device.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::ip::IpNet;
use crate::names::{Ipv4Net, Mac};
use crate::parameters::Parameters;
use crate::paths::GUEST_DISKS_DIR;
use crate::rules::CIDS;
use crate::units::ByteSize;
use crate::vmm::{Balloon, Cpu, DiskEngine, DiskFormat, Limits, Memory};

/// A guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "GuestDefinition", deny_unknown_fields))]
pub struct Guest {
    /// Its name and host name.
    pub name: String,
    /// The recipe of its image. Without one its disk has its root: a distribution with an init of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Number of vCPUs.
    #[serde(default = "one")]
    pub vcpus: u8,
    /// What its processors are like and where they run.
    #[serde(default)]
    pub cpu: Cpu,
    /// Memory.
    pub memory: ByteSize,
    /// What its memory is made of.
    #[serde(default)]
    pub memory_kind: Memory,
    /// Its memory balloon, if it has one.
    pub balloon: Option<Balloon>,
    /// The context identifier of its socket device, if it has one.
    pub vsock: Option<u32>,
    /// Whether commands may be run in it, as its root, by who may all on the host.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub commands: bool,
    /// Whether it has a virtio console beside its serial port.
    #[serde(default)]
    pub virtio_console: bool,
    /// Its network interface, if it has one.
    pub network: Option<GuestNetwork>,
    /// Its own block device, if it has one.
    pub disk: Option<GuestDisk>,
    /// Whether the host starts it.
    #[serde(default = "yes")]
    pub autostart: bool,
    /// Guests that are to be ready before the host starts it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub start_after: BTreeSet<String>,
    /// Seconds that the host waits before it starts it, then.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_delay_s: u16,
    /// What follows when it ends and nobody has asked for that.
    #[serde(default, skip_serializing_if = "GuestRestart::is_default")]
    pub restart: GuestRestart,
    /// What it is told beside its network.
    #[serde(default)]
    pub parameters: Parameters,
    /// The kernel that it has in the place of the one that guests share, if it has one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<GuestBoot>,
}

impl Guest {
    /// The context identifier of its socket device, if it has one: commands come by it, too.
    pub fn cid(&self) -> Option<u32> {
        self.vsock.or(self.commands.then_some(*CIDS.start()))
    }

    /// Its own block device on the host, if it has one.
    pub fn disk_path(&self) -> Option<String> {
        Some(match &self.disk.as_ref()?.source {
            DiskSource::Size(_) => format!("{GUEST_DISKS_DIR}/{}/disk.raw", self.name),
            DiskSource::Device(path) | DiskSource::File(path) => path.clone(),
        })
    }
}

/// A guest's own kernel. Nothing of ours runs in such a guest: it is told what it is told by a disk that cloud-init reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(deny_unknown_fields))]
pub struct GuestBoot {
    /// A file of the host: a bzImage, or an ELF with a PVH or a 64-bit entry.
    pub kernel: String,
    /// A file of the host, if it has an initramfs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<String>,
    /// Words for the kernel, such as what its root is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cmdline: String,
    /// What cloud-init is told, if that is more than who the guest is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
}

impl GuestBoot {
    /// Its files on the host.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.kernel.as_str()).chain(self.initrd.as_deref())
    }
}

/// When a guest that ended is started again. A reboot of the guest's own is a start at once, whatever this says; and what an
/// administrator has ended stays off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum GuestRestart {
    /// Whenever it ends, when it powers itself off too; with a growing pause.
    Always,
    /// When it fails; with a growing pause.
    #[default]
    OnFailure,
    /// Never.
    Never,
}

impl GuestRestart {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A guest's network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(deny_unknown_fields))]
pub struct GuestNetwork {
    /// What it is plugged into.
    #[serde(flatten)]
    pub plug: Plug,
    /// Its address.
    pub address: Option<Ipv4Net>,
    /// Its default route.
    pub gateway: Option<Ipv4Addr>,
    /// Its name servers.
    #[serde(default)]
    pub dns: Vec<Ipv4Addr>,
    /// The VLAN that its frames without a tag are in.
    pub vlan: Option<u16>,
    /// The VLANs that it sees with their tags.
    #[serde(default)]
    pub vlans: BTreeSet<u16>,
    /// Its Ethernet address.
    // Whoever sends none gets one (`Mac::derived`).
    #[cfg_attr(feature = "schema", schemars(with = "Option<Mac>"))]
    pub mac: Mac,
    /// Behind a firewall, it sends from its MAC and from its addresses only.
    #[serde(default = "yes")]
    pub anti_spoofing: bool,
    /// More addresses that it may send from.
    #[serde(default)]
    pub allowed_addresses: Vec<IpNet>,
    /// Pairs of queues.
    #[serde(default = "one")]
    pub queues: u8,
    /// The largest packet, in bytes; none is what the host's interface takes.
    pub mtu: Option<u16>,
    /// How fast it may receive.
    #[serde(default)]
    pub receive: Limits,
    /// How fast it may send.
    #[serde(default)]
    pub transmit: Limits,
}

impl GuestNetwork {
    /// The bridge that it is plugged into, if it is one.
    pub fn bridge(&self) -> Option<&str> {
        match &self.plug {
            Plug::Bridge(name) => Some(name),
            Plug::Macvtap(_) => None,
        }
    }
}

/// What a guest's network interface is plugged into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Plug {
    /// A switch inside the host.
    Bridge(String),
    /// A link of the host's, beside the host: frames go between guest and wire, and between the guests on it, never between
    /// guest and host (macvtap in mode bridge: drivers/net/macvlan.c).
    Macvtap(String),
}

impl Plug {
    /// The host's link.
    pub fn link(&self) -> &str {
        let (Self::Bridge(name) | Self::Macvtap(name)) = self;
        name
    }

    /// What `virsh` calls its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Bridge(_) => "bridge",
            Self::Macvtap(_) => "direct",
        }
    }
}

/// A guest's own block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(deny_unknown_fields))]
pub struct GuestDisk {
    /// What it is on the host.
    pub source: DiskSource,
    /// What is in it.
    #[serde(default)]
    pub format: DiskFormat,
    /// The directory of the host in which a qcow2 image's backing files may be.
    pub backing: Option<String>,
    /// The guest cannot write to it.
    #[serde(default)]
    pub read_only: bool,
    /// Around the host's page cache.
    #[serde(default)]
    pub direct: bool,
    /// How requests reach the host's kernel.
    #[serde(default)]
    pub engine: DiskEngine,
    /// Request queues.
    #[serde(default = "one")]
    pub queues: u8,
    /// How fast it may be.
    #[serde(default)]
    pub limits: Limits,
}

/// What a guest's own block device is on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum DiskSource {
    /// A sparse file of this size on the node's data partition.
    Size(ByteSize),
    /// A block device.
    Device(String),
    /// A file; one of an NFS export lies below the place where that is mounted.
    File(String),
}

/// What an appliance that was built before had; and what a definition has that says nothing.
fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_zero(number: &u16) -> bool {
    *number == 0
}

fn one() -> u8 {
    1
}
