//! `thimble-node`: supervises the guests of a host, and installs the host's next release.
//!
//! PID 1 starts it and starts it again when it dies. It is crash-only: what it needs to know is in the guests' run
//! directories and in the VMM processes themselves, so a daemon that comes after another one adopts the guests that run
//! and starts none of them twice (see [`lock`]).

mod api;
mod audit;
mod bid;
mod cgroup;
mod cli;
mod commands;
mod control;
mod copy;
mod ctl;
mod definitions;
mod disk;
mod events;
mod export;
mod freeze;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod guest;
mod guests;
mod heartbeat;
mod host;
mod hugepages;
mod hwmon;
mod inside;
mod launch;
mod life;
mod lock;
mod node;
mod obey;
mod objects;
mod overcommit;
mod plan;
mod policy;
mod proc;
mod readiness;
mod room;
mod say;
mod seed;
mod shared;
mod snapshots;
mod still;
mod stop;
mod storage;
mod syslog;
mod tap;
mod tasks;
#[cfg(test)]
mod testing;
mod turn;
mod update;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use thimble_spec::console::Line;
use thimble_spec::paths;

use cli::{USAGE, Verb, exit};

/// The program, by the name that it was called by.
pub fn main() -> ExitCode {
    // One program by two names: what an administrator asks with is a client of the daemon's.
    let called = std::env::args_os().next().unwrap_or_default();
    if Path::new(&called).file_name() == Path::new(paths::CTL).file_name() {
        return ctl::main();
    }
    let arguments: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let verb = match Verb::parse(&arguments) {
        Ok(verb) => verb,
        Err(sentence) => {
            eprintln!("{}", Line::Error { sentence: &format!("{sentence}: see thimble-node --help") });
            return ExitCode::from(exit::USAGE);
        }
    };
    let daemon = matches!(verb, Verb::Daemon { .. });
    match run(verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if daemon => {
            say::error(&format!("the node daemon ends: {error:#}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{}", Line::Error { sentence: &format!("{error:#}") });
            ExitCode::from(exit::code(&error))
        }
    }
}

fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Help => println!("{USAGE}"),
        Verb::Daemon { appliance } => block_on(node::run(&appliance))?,
        Verb::Guests { json } => block_on(guests::run(json))?,
        Verb::Update { source, reboot, live, json } => update::run(&source, update::Then { reboot, live }, json)?,
        Verb::Slots { json } => update::slots::run(json)?,
        Verb::Confirm => update::confirm::run()?,
        Verb::Syslog => syslog::run()?,
        Verb::Storage(ask) => storage::run(&ask)?,
        Verb::Host(ask) => host::run(&ask)?,
    }
    Ok(())
}

fn block_on(work: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("starting the event loop")?.block_on(work)
}
