//! What happens, as it happens: server-sent events (HTML Living Standard, 9.2), of which the data is an [`Event`].

use serde::{Deserialize, Serialize};

use super::guest::State;
use super::task::Task;

/// An event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Event {
    /// Which one: whoever names it in `Last-Event-ID` gets what came after it.
    pub id: String,
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What happened. Its `kind` is the event's name in the stream, too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum What {
    /// A guest is in this state now.
    Guest {
        /// The guest.
        guest: String,
        /// Its state.
        state: State,
        /// Why.
        reason: String,
    },
    /// A guest says that its services are ready.
    Ready {
        /// The guest.
        guest: String,
        /// Seconds since its VMM started.
        seconds: f64,
    },
    /// A guest's definition is another now: its next start goes by it.
    Defined {
        /// The guest.
        guest: String,
        /// Which one; none: the guest is no more.
        revision: Option<String>,
    },
    /// A task began, went on or ended.
    Task {
        /// How it is now.
        task: Task,
    },
    /// Events are missing before this one: the one that was asked for has given way to newer ones, or the daemon was started
    /// again. What is true now is asked of the other resources.
    Lost,
}

impl What {
    /// The event's name in the stream.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Guest { .. } => "guest",
            Self::Ready { .. } => "ready",
            Self::Defined { .. } => "defined",
            Self::Task { .. } => "task",
            Self::Lost => "lost",
        }
    }

    /// The guest that it is about; none if it is about none.
    #[must_use]
    pub fn guest(&self) -> Option<&str> {
        match self {
            Self::Guest { guest, .. } | Self::Ready { guest, .. } | Self::Defined { guest, .. } => Some(guest),
            Self::Task { task } => Some(&task.guest),
            Self::Lost => None,
        }
    }
}
