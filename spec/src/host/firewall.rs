//! What the firewall counted.

use serde::{Deserialize, Serialize};

/// What may be asked about the firewall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FirewallVerb {
    /// All of its counters.
    Counters,
}

/// A counter. It begins with the host, and goes on when the rules change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// Of what: `denied` of what was for the host and is not allowed; a guest's name and `mac`, `arp`, `ip` or `other` of
    /// what it sent and may not.
    pub name: String,
    /// Packets, or frames.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}
