//! The virtual machine monitor: runs one guest in one process, on the host's KVM.
//!
//! ```text
//!  main thread                    vCPU threads                    a thread for each device
//!  supervisor ── control, gang ─> run ── bus ──┬─ serial ──┐      worker ── transport ── block, net, rng
//!     ▲  signals, clients          ▲           └─ virtio ──│─────────────────^
//!     └──── exit::Ending ──────────┘                       └─> console ring, agent ──> supervisor
//! ```
//!
//! | module | what |
//! | --- | --- |
//! | [`guest`] | a guest, from its description to its end |
//! | [`supervisor`], [`control`] | the main thread's event loop; the control socket |
//! | [`kvm`], [`vcpu`] | the virtual machine; its processors |
//! | [`memory`], [`layout`], [`boot`] | RAM, what lies where, what lies there at the start |
//! | [`bus`], [`serial`], [`acpi`], [`virtio`] | what the guest reaches outside its RAM |
//! | [`console`], [`agent`] | what its two serial ports are for |
//! | [`exit`] | how it ended |
//!
//! # Trust
//! The guest is hostile: every index, length and address that comes from it is checked where it is used first
//! ([`virtio::ring`]), every loop on its behalf is bounded, and what it writes is kept in bounded places. A guest that
//! breaks the rules loses the device with which it did. Clients of the control socket are the host's administrator,
//! who may be clumsy: lines, queues and connections are bounded. The guest's description and kernel are trusted.

pub mod acpi;
pub mod agent;
pub mod boot;
pub mod bus;
pub mod console;
pub mod control;
pub mod error;
pub mod exit;
pub mod guest;
pub mod kvm;
pub mod layout;
pub mod memory;
pub mod serial;
pub mod supervisor;
pub mod sync;
pub mod vcpu;
pub mod virtio;

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use thimble_spec::vmm::{Exit, ExitReason, GuestConfig};

pub use error::{Error, Result};

/// Runs the guest that `config` describes until it ends; whatever goes wrong is in the exit's reason too.
///
/// To be called on the main thread before there are others: it takes SIGTERM, SIGINT and SIGHUP from them all.
/// `control` is where the control socket goes, `console` a connection to show the console on, and `ending` a handle by
/// which the caller can end the guest.
pub fn run(
    config: &GuestConfig,
    control: Option<&Path>,
    console: Option<UnixStream>,
    ending: Arc<exit::Ending>,
) -> Exit {
    let started = Instant::now();
    supervise(config, control, console, ending, started).unwrap_or_else(|error| Exit {
        reason: ExitReason::Error(error.sentence()),
        after_s: started.elapsed().as_secs_f64(),
    })
}

fn supervise(
    config: &GuestConfig,
    control: Option<&Path>,
    console: Option<UnixStream>,
    ending: Arc<exit::Ending>,
    started: Instant,
) -> Result<Exit> {
    if let Some(stream) = &console {
        stream.set_nonblocking(true).map_err(Error::host("set up the console"))?;
    }
    let signals = supervisor::take_signals()?;
    // The socket comes first: whoever is refused here has not touched the guest's disks.
    let socket = control.map(control::socket::Socket::bind).transpose()?;
    let guest = guest::Guest::start(config, ending.clone(), started)?;
    Ok(supervisor::Supervisor::new(guest, ending, signals, socket, console)?.run(started))
}
