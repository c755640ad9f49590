//! `thimble-node`: supervises the guests of a host.
//!
//! PID 1 starts it and starts it again when it dies. It is crash-only: what it needs to know is in the guests' run
//! directories and in the VMM processes themselves, so a daemon that comes after another one adopts the guests that run
//! and starts none of them twice (see [`lock`]).

mod cgroup;
mod control;
mod disk;
mod export;
mod guest;
mod hugepages;
mod launch;
mod lock;
mod node;
mod objects;
mod overcommit;
mod plan;
mod policy;
mod say;
mod tap;
#[cfg(test)]
mod testing;

use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "usage: thimble-node [APPLIANCE.json]
Supervises the guests of the appliance, until SIGTERM: then it shuts them down and ends. PID 1 starts it.";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let appliance = arguments.next().unwrap_or_else(|| thimble_spec::paths::APPLIANCE.into());
    if appliance == "--help" || appliance == "-h" {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    if arguments.next().is_some() {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say::error(&format!("the node daemon cannot start its event loop: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(node::run(&PathBuf::from(appliance))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say::error(&format!("the node daemon ends: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
