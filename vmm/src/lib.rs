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
//! | [`jail`] | what the VMM gives up before the guest's first instruction |
//! | [`minder`], [`exit`], [`phases`] | the process that waits for it; how it ended; when it reached what |
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
pub mod jail;
pub mod kvm;
pub mod layout;
pub mod memory;
pub mod minder;
pub mod phases;
pub mod serial;
pub mod supervisor;
pub mod sync;
pub mod vcpu;
pub mod virtio;

use std::io::PipeWriter;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use thimble_spec::vmm::{Exit, ExitReason, GuestConfig};

use phases::Phase;

pub use error::{Error, Result};

use control::socket::Socket;
use jail::seccomp::{Devices, Duty, Filters};

/// What a VMM is given by whoever looks after it.
#[derive(Debug, Default)]
pub struct Given {
    /// The control socket.
    pub control: Option<Socket>,
    /// A connection to show the console on.
    pub console: Option<UnixStream>,
    /// The process by which others know this VMM; none is its own.
    pub pid: Option<u32>,
    /// A pipe to whoever looks after it: with its reader the guest ends.
    pub minder: Option<PipeWriter>,
    /// What is to stay open as long as anything of the guest is there.
    pub hold: Option<OwnedFd>,
}

/// Runs the guest that `config` describes until it ends; whatever goes wrong is in the exit's reason too.
///
/// To be called on the main thread while there are no others: it takes SIGTERM, SIGINT and SIGHUP from them all, and
/// shuts itself in for good if the description has a jail.
pub fn run(config: &GuestConfig, given: Given) -> Exit {
    let started = Instant::now();
    phases::mark(Phase::Begin);
    supervise(config, given, started).unwrap_or_else(|error| Exit {
        reason: ExitReason::Error(error.sentence()),
        after_s: started.elapsed().as_secs_f64(),
        phases: phases::reached(),
    })
}

fn supervise(config: &GuestConfig, mut given: Given, started: Instant) -> Result<Exit> {
    if let Some(stream) = &given.console {
        stream.set_nonblocking(true).map_err(Error::host("set up the console"))?;
    }
    let (hold, has_minder) = (given.hold.take(), given.minder.is_some());
    let ending = Arc::new(exit::Ending::new()?);
    let signals = supervisor::take_signals()?;
    let prepared = guest::Prepared::new(config, given.pid.unwrap_or_else(std::process::id))?;
    let filters = match &config.jail {
        Some(jail) => {
            jail::enter(jail, config)?;
            let filters = Filters::compile(Devices::of(config))?;
            phases::mark(Phase::Jail);
            filters
        }
        None => Filters::default(),
    };
    let guest = prepared.start(ending.clone(), started, &filters)?;
    let supervisor = supervisor::Supervisor::new(guest, ending, signals, given)?;
    filters.apply(Duty::Supervisor)?;
    let (exit, machine) = supervisor.run(started);
    drop(hold);
    phases::mark(Phase::Gone);
    if has_minder {
        // This process ends next, and what KVM still keeps of the guest with it. That takes the kernel some RCU grace
        // periods, tens of milliseconds, for which nobody has to wait.
        std::mem::forget(machine);
    }
    Ok(Exit { phases: phases::reached(), ..exit })
}
