//! The host.

use serde::{Deserialize, Serialize};

/// The host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Node {
    /// The appliance's name.
    pub name: String,
    /// Version of the daemon.
    pub version: String,
    /// Hash of all that the host's initramfs holds.
    pub manifest: Option<String>,
    /// Release of its kernel.
    pub kernel: String,
    /// Model of its processors.
    pub cpu_model: String,
    /// Number of its processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Memory that can still be had, in MiB.
    pub memory_available_mib: u64,
    /// Seconds since it started.
    pub uptime_s: f64,
    /// Processes that want to run, on average over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// Guests that it has.
    pub guests: u32,
    /// Guests that run.
    pub running: u32,
}
