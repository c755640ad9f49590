//! The API of a node: HTTP/1.1 and JSON at the Unix socket [`crate::paths::NODE_API`], and over TLS where the definition asks
//! for it. `docs/openapi.json` describes it, made from these types and from the daemon's table of routes by a test.
//!
//! | module | resource |
//! | --- | --- |
//! | [`audit`] | who changed what |
//! | [`event`] | what happens, as it happens |
//! | [`guest`] | the guests |
//! | [`identity`] | who asks over the network |
//! | [`network`] | the host's networks |
//! | [`node`] | the host |
//! | [`task`] | what takes its time |
//! | [`volume`] | disks that the node has made |

pub mod audit;
pub mod event;
pub mod guest;
pub mod identity;
pub mod network;
pub mod node;
pub mod snapshot;
pub mod task;
pub mod volume;

use serde::{Deserialize, Serialize};

/// What a connection to a guest's console is upgraded to (RFC 9110, 7.8): bytes, both ways.
pub const CONSOLE_PROTOCOL: &str = "thimble-console";
/// What a connection to a command in a guest is upgraded to: frames, both ways ([`crate::exec`]).
pub const EXEC_PROTOCOL: &str = "thimble-exec";

/// Why a request was refused: the body of every answer with a status of 400 or more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Problem {
    /// One sentence.
    pub error: String,
}
