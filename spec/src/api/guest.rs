//! The guests.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::inside;
use crate::vmm::{BalloonStats, DiskStats, NetStats};

/// What a guest does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "GuestState"))]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Nothing.
    #[default]
    Off,
    /// It is about to run: it waits for what it needs, or for its next try.
    Starting,
    /// Its processors run.
    Running,
    /// They are stopped and can go on.
    Paused,
    /// It runs and was asked to power off.
    ShuttingDown,
}

impl State {
    /// Whether there is a VMM.
    #[must_use]
    pub fn is_active(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::ShuttingDown)
    }
}

/// As administrators of KVM hosts know them.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "shut off",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::ShuttingDown => "in shutdown",
        })
    }
}

/// What can be done with a guest: the last part of the path that is posted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// Starts it.
    Start,
    /// Asks it to power off.
    Shutdown,
    /// Cuts its power.
    Destroy,
    /// Asks it to power off, and starts it again.
    Reboot,
    /// Presses its reset button.
    Reset,
    /// Stops its processors.
    Suspend,
    /// Lets them go on.
    Resume,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Start, Self::Shutdown, Self::Destroy, Self::Reboot, Self::Reset, Self::Suspend, Self::Resume];

    /// Its name in paths.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Shutdown => "shutdown",
            Self::Destroy => "destroy",
            Self::Reboot => "reboot",
            Self::Reset => "reset",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
        }
    }

    /// The one with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.name() == name)
    }
}

/// Whose word a guest's definition is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The image's.
    #[default]
    Image,
    /// Somebody's, who defined it on the node, which keeps it.
    Node,
    /// The same on a node without a data partition: it is forgotten when the host ends.
    Run,
}

impl Origin {
    /// For people.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Image => "by the image",
            Self::Node => "on this node",
            Self::Run => "on this node, until the host ends",
        }
    }
}

/// What came of a change of a definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Definition {
    /// The guest.
    pub guest: String,
    /// Which definition its next start goes by, as in `ETag`; none: the guest is no more.
    pub revision: Option<String>,
    /// Whose that is.
    pub defined: Option<Origin>,
    /// The guest runs by another one until its next start.
    pub waits: bool,
}

/// A guest in a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Guest {
    /// Its name.
    pub name: String,
    /// What it does.
    pub state: State,
    /// Why: `booted`, `adopted`, `power-off`, `killed`, ...
    pub reason: String,
    /// Process id of its VMM.
    pub pid: Option<u32>,
    /// Seconds since its VMM started.
    pub uptime_s: Option<f64>,
    /// Seconds from there to its word that its services are ready.
    pub ready_s: Option<f64>,
    /// Starts since this daemon runs.
    pub starts: u64,
    /// The host starts it.
    pub autostart: bool,
    /// Whose word its definition is.
    #[serde(default)]
    pub defined: Origin,
    /// It runs by another definition than its next start goes by.
    #[serde(default)]
    pub waits: bool,
    /// Number of its processors.
    pub vcpus: u8,
    /// Its memory in MiB.
    pub memory_mib: u64,
}

/// All guests, in the order of the definition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Guests {
    /// Them.
    pub guests: Vec<Guest>,
}

/// A guest and its devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Detail {
    /// What a list has of it.
    #[serde(flatten)]
    pub guest: Guest,
    /// The recipe of its image; none if its own disk has its root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Its block devices.
    pub disks: Vec<Disk>,
    /// Its network interfaces.
    pub interfaces: Vec<Interface>,
    /// Its processors.
    pub processors: Vec<Processor>,
}

/// A block device of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Disk {
    /// Its name in the guest.
    pub target: String,
    /// What it is on the host.
    pub source: String,
    /// The guest cannot write to it.
    pub read_only: bool,
}

/// A network interface of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Interface {
    /// Its name on the host.
    pub name: String,
    /// What it is plugged into, in virsh's words: `bridge`, or `direct` for a macvtap.
    pub kind: String,
    /// The host's link that it is plugged into.
    pub source: String,
    /// Its Ethernet address.
    pub mac: String,
    /// The address that the guest is given.
    pub address: Option<String>,
    /// The VLAN of its frames without a tag.
    pub vlan: Option<u16>,
}

/// A processor of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Processor {
    /// Its number.
    pub vcpu: u8,
    /// The host's processors that it may run on; empty is all of them.
    pub affinity: Vec<u16>,
}

/// What a guest did since its VMM started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Stats {
    /// The guest.
    pub name: String,
    /// What it does.
    pub state: State,
    /// Time of the host's processors that it took, in microseconds, and what the VMM took for it.
    pub cpu_us: Option<u64>,
    /// Memory of the host that it holds, in bytes: all that its control group is charged with.
    pub memory_bytes: Option<u64>,
    /// How much that may be.
    #[serde(default)]
    pub memory_limit_bytes: Option<u64>,
    /// Memory that its VMM has mapped and that is there, in bytes; huge pages are not counted.
    #[serde(default)]
    pub rss_bytes: Option<u64>,
    /// Its own memory in MiB.
    #[serde(default)]
    pub memory_mib: u64,
    /// Times that each of its processors left it for the VMM.
    pub vcpu_exits: Vec<u64>,
    /// Its block devices, by index.
    pub disks: Vec<DiskStats>,
    /// Its network interfaces as its VMM counts, by index. All zero where the host's kernel moves the packets.
    pub nets: Vec<NetStats>,
    /// Its network interfaces as the host counts.
    pub interfaces: Vec<Counters>,
    /// Its balloon, if it has one.
    pub balloon: Option<BalloonStats>,
}

/// What a guest is like from the inside, as its PID 1 says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Inside {
    /// The guest.
    pub name: String,
    /// Seconds that its clock is ahead of the host's; behind it, if that is less than nothing.
    pub ahead_s: f64,
    /// What it says.
    #[serde(flatten)]
    pub said: inside::Inside,
}

/// What went through a network interface, as the guest sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Counters {
    /// Its name on the host.
    pub name: String,
    /// Bytes received.
    pub received_bytes: u64,
    /// Packets received.
    pub received: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Packets sent.
    pub sent: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verb_has_the_same_name_in_paths_and_in_json() {
        for verb in Verb::ALL {
            assert_eq!(serde_json::to_value(verb).unwrap(), verb.name());
            assert_eq!(Verb::named(verb.name()), Some(verb));
        }
        assert_eq!(Verb::named("explode"), None);
    }
}
