//! Who changed what.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Who {
    /// A process on the node, as the kernel says (unix(7), `SO_PEERCRED`).
    Process {
        /// The user.
        uid: u32,
        /// The process.
        pid: i32,
        /// What the process calls itself.
        program: String,
    },
    /// Somebody over the network, as their certificate says.
    Client {
        /// `thimble:ROLE:NAME`, see [`super::identity`]; empty if it says nothing of the kind.
        certificate: String,
        /// Address and port.
        address: String,
    },
}

/// For people.
impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { uid, pid, program } => write!(f, "user {uid}, process {pid} ({program})"),
            Self::Client { certificate, address } if certificate.is_empty() => {
                write!(f, "a certificate without thimble:ROLE:NAME from {address}")
            }
            Self::Client { certificate, address } => write!(f, "{certificate} from {address}"),
        }
    }
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
