//! Disks that the node has made for guests.

use serde::{Deserialize, Serialize};

/// A disk of a guest's, in a file on the node's data partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Volume {
    /// The guest that it was made for.
    pub name: String,
    /// The file.
    pub path: String,
    /// How large the guest sees it, in bytes.
    pub size: u64,
    /// What it takes of the data partition, in bytes: holes take nothing.
    pub allocated: u64,
    /// Whether a guest of this name has it, or gets it at its next start; of others nobody knows any more.
    pub used: bool,
}

/// All of them, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Volumes {
    /// Them.
    pub volumes: Vec<Volume>,
}
