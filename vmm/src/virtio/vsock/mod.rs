//! Socket device (virtio 1.2, section 5.10): streams between programs of the guest and programs of the host.
//!
//! On the host's side they are Unix sockets, as [`thimble_spec::vmm::Vsock`] says.
//!
//! ```text
//!   guest's rings        table: who talks with whom             host's sockets
//!   queues ── packet ──> Table ── Connection: credit, ─── Stream ──> PATH_N, or who came to PATH
//!      <──────────────────┘       shutdown, phase           backlog
//! ```
//!
//! | file | what |
//! | --- | --- |
//! | `packet` | the header |
//! | `connection` | one connection as the protocol sees it: no sockets, no memory |
//! | `host` | the host's side: where it listens and connects, a socket with its backlog |
//! | `table` | the connections and what waits for the guest |
//! | `queues`, `device`, `config`, `metrics` | as in every device |
//!
//! # Bounds
//! There are at most [`table::CONNECTIONS_MAX`] connections. What the guest sends and the host does not take waits in
//! backlogs of at most [`connection::WINDOW`] bytes a connection, which is the credit that the guest has. What the host
//! sends waits in its own sockets: it is read when there is a buffer of the guest's to read it into.

mod config;
mod connection;
mod device;
mod host;
mod metrics;
mod packet;
mod queues;
mod table;

pub use device::Vsock;
pub use metrics::Metrics;
