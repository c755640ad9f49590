//! Network device (virtio 1.2, section 5.1) on a tap interface of the host.
//!
//! ```text
//!            driver ── registers ──> device (front) ─────────── Handle ──> control socket
//!              │                        │
//!   queues 0 1 │ 2 3 ...    control     │ port: tap, filter, counters
//!              ▼              ▼         ▼
//!        a lane for each pair: queues (userspace) or vhost (the host's kernel)
//! ```
//!
//! | file | what |
//! | --- | --- |
//! | `device` | the front: what is offered, who moves the packets, the handle |
//! | `port` | what the lanes of one device share |
//! | `queues/` | lanes that move packets themselves: `receive`, `transmit` |
//! | `vhost` | lanes that leave it to the host's kernel |
//! | `control` | the control queue |
//! | `filter` | which packets the driver wants |
//! | `tap` | the host's interface |
//! | `config` `metrics` | features and configuration space; counters |

mod config;
mod control;
mod device;
mod filter;
mod metrics;
mod port;
mod queues;
mod tap;
mod vhost;

pub use device::{Handle, Net};
