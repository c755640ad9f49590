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
pub mod tgt;
mod thimble;
pub mod time_server;
mod unpacked;
pub mod update;

pub use definition::Definition;
pub use disk::Disk;
pub use ganesha::Ganesha;
pub use http::{curl, get};
pub use machine::{Boot, Machine};
pub use qmp::execute;
pub use thimble::{cache, compiled, demo, media, repository, small, thimble};

use std::fs::File;
use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long a boot to the guests' ready lines may take when everything is emulated on two busy cores. It is about ten
/// times of what it takes; only a test that fails waits for it.
pub const BOOT_LIMIT: Duration = Duration::from_secs(300);

/// A TCP port of 127.0.0.1 that nobody listens on, for as long as this process lives.
///
/// The kernel would choose one as well, but give it to the next who asks, or to whoever connects, before the machine that it is
/// for has begun to listen. So it is below the ports that the kernel chooses from
/// (`Documentation/networking/ip-sysctl.rst`, `ip_local_port_range`: 32768 and up), and marked as ours by a locked file.
pub fn free_port() -> u16 {
    const PORTS: std::ops::Range<u16> = 20_000..30_000;
    static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());
    let marks = std::env::temp_dir().join("thimble-test-ports");
    std::fs::create_dir_all(&marks).expect("a directory for the marks of ports");
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    for port in PORTS {
        let mark = File::create(marks.join(port.to_string())).expect("a port's mark");
        if mark.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            held.push(mark);
            return port;
        }
    }
    panic!("127.0.0.1 has a free port between {} and {}", PORTS.start, PORTS.end);
}
