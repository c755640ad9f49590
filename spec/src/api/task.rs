//! What takes its time.

use serde::{Deserialize, Serialize};

use super::guest::Verb;

/// What a task is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Job {
    /// Something that the guest does.
    Verb(Verb),
    /// Something that the node makes of it.
    Make(Make),
}

impl Job {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Verb(verb) => verb.name(),
            Self::Make(Make::Clone) => "clone",
            Self::Make(Make::SnapshotCreate) => "snapshot-create",
            Self::Make(Make::SnapshotRevert) => "snapshot-revert",
        }
    }
}

/// What a node makes of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Make {
    /// A new guest, whose disk begins as a copy of another's.
    Clone,
    /// A snapshot of its disk.
    SnapshotCreate,
    /// Its disk as it was.
    SnapshotRevert,
}

/// Something that somebody asked for, and how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Task {
    /// Its name, which no other task of this node ever has.
    pub id: String,
    /// The guest that it is about.
    pub guest: String,
    /// What was asked for.
    pub verb: Job,
    /// How far it is.
    pub state: State,
    /// The same in words; why it failed, if it did.
    pub progress: String,
    /// When it began, in milliseconds since 1970.
    pub began_ms: u64,
    /// When it ended.
    pub ended_ms: Option<u64>,
}

/// How far a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "TaskState"))]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Not there yet.
    Running,
    /// Done.
    Done,
    /// It cannot be done.
    Failed,
    /// Nobody waits for it any more. What the guest was asked before stays asked; what was half made is taken away.
    Cancelled,
}

/// Tasks, oldest first: those that run, and the newest of the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Tasks {
    /// Them.
    pub tasks: Vec<Task>,
}
