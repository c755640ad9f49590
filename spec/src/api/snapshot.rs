//! How a guest's disk was at some time.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A disk as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Snapshot {
    /// Its name, which no other snapshot of this guest has.
    pub name: String,
    /// When it was made, in milliseconds since 1970.
    pub made_ms: u64,
    /// What the guest did then.
    pub moment: Moment,
    /// How large the disk was, in bytes.
    pub size: u64,
    /// What it takes of the host's storage, in bytes, what it shares with the disk included; none of a thin volume, whose pool
    /// knows what they take together.
    pub allocated: Option<u64>,
}

/// What a guest did when its disk was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// It was off.
    Off,
    /// It ran, with all written out and its file system frozen.
    Frozen,
    /// It ran, and what it had not written out is missing, as after a power cut.
    Crash,
}

impl Moment {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Off, Self::Frozen, Self::Crash];

    /// In a word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Frozen => "frozen",
            Self::Crash => "crash",
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// All of a guest, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Snapshots {
    /// Them.
    pub snapshots: Vec<Snapshot>,
}
