//! Links and addresses, and changes of their definition that somebody has to confirm.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::appliance::{Firewall, Network};
use crate::ip::IpNet;

/// How long a change may wait for its confirmation, in seconds.
pub const CONFIRM_S: RangeInclusive<u32> = 5..=3600;
/// The same if nothing is said.
pub const CONFIRM_S_DEFAULT: u32 = 120;

/// What may be asked about the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkVerb {
    /// How it is. Replies with [`crate::host::Answer::Network`].
    Show,
    /// Makes it another one, on trial.
    Apply(Box<Proposal>),
    /// The one on trial stays.
    Confirm,
    /// The one on trial goes, and the one before comes back.
    Rollback,
}

/// A network on trial: without a confirmation in time, the one before comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// All links.
    pub network: Network,
    /// Who may reach the host.
    pub firewall: Option<Firewall>,
    /// How long the confirmation may take, in seconds: in [`CONFIRM_S`].
    pub confirm_within_s: u32,
    /// A machine that must answer echo requests all the while.
    pub reach: Option<Ipv4Addr>,
}

/// The network as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkStatus {
    /// All links but the loopback interface.
    pub links: Vec<LinkStatus>,
    /// How long the network on trial still waits for its confirmation, in seconds; none if none is on trial.
    pub trial_s: Option<u64>,
    /// What became of the last one on trial.
    pub last: Option<String>,
}

/// A link as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Its name.
    pub name: String,
    /// It is switched on.
    pub up: bool,
    /// Something is at its other end.
    pub carrier: bool,
    /// The bond or bridge that it is a port of.
    pub master: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
}
