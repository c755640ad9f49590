//! Who changed what.

use serde::{Deserialize, Serialize};

/// Who asks, as the kernel says (unix(7), `SO_PEERCRED`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Who {
    /// The user.
    pub uid: u32,
    /// The process.
    pub pid: i32,
    /// What the process calls itself.
    pub program: String,
}

/// A change that somebody asked for. It is written before it is tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Entry {
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// Who asked.
    pub who: Who,
    /// The request: `POST /v1/guests/web1/start`.
    pub what: String,
    /// Why it was refused. Such an entry follows the one without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// The newest entries, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Audit {
    /// Them.
    pub entries: Vec<Entry>,
}
