//! The programs that PID 1 keeps.

use serde::{Deserialize, Serialize};

/// What may be asked about services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServicesVerb {
    /// All of them, in the order in which they start.
    List,
    /// Starts one that was stopped or has failed, and forgets its failures.
    Start {
        /// The service.
        name: String,
    },
    /// Stops one; it stays so until it is started.
    Stop {
        /// The service.
        name: String,
    },
    /// Ends one, and starts it again.
    Restart {
        /// The service.
        name: String,
    },
}

/// One service as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// What it does.
    pub state: ServiceState,
    /// Its process, while it runs.
    pub pid: Option<i32>,
    /// Since when it is in this state, in seconds since the kernel started.
    pub since_s: f64,
    /// How often it was started again after it ended.
    pub restarts: u32,
    /// How it ended the last time, if it did.
    pub last_exit: Option<String>,
    /// Memory of its control group in bytes, where there is one.
    pub memory: Option<u64>,
}

/// What a service does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceState {
    /// It waits for others.
    Waiting,
    /// It runs and is not ready.
    Starting,
    /// It runs and is ready.
    Ready,
    /// It ended and is started again after a pause.
    Paused,
    /// It was told to stop and has not yet.
    Stopping,
    /// It was told to stop, and did.
    Stopped,
    /// It ended as it should.
    Done,
    /// It ended badly and is not started again.
    Failed,
}

impl ServiceState {
    /// As people read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}
