//! The harness of the whole-system tests: it boots the real artefacts with `thimble run`, reads the console, drives
//! QEMU over QMP and talks to the guests over the network. A test reads as: boot this, expect that line.

pub mod browser;
pub mod clients;
pub mod crowd;
mod definition;
mod disk;
pub mod disks;
mod ganesha;
pub mod guests;
mod http;
mod lines;
pub mod loghost;
mod machine;
mod qemu;
mod qmp;
pub mod rig;
pub mod site;
pub mod ssh;
mod stall;
mod thimble;
pub mod time_server;
pub mod update;

pub use definition::Definition;
pub use disk::Disk;
pub use ganesha::Ganesha;
pub use http::{curl, get};
pub use machine::{Boot, Machine};
pub use qmp::execute;
pub use thimble::{cache, demo, media, repository, small, thimble};

use std::net::TcpListener;
use std::time::Duration;

/// How long a boot to the guests' ready lines may take when everything is emulated on two busy cores. It is about ten
/// times of what it takes; only a test that fails waits for it.
pub const BOOT_LIMIT: Duration = Duration::from_secs(300);

/// A TCP port of 127.0.0.1 that nobody listens on.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("127.0.0.1 has free ports");
    listener.local_addr().expect("a listener has an address").port()
}
