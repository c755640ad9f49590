//! The modules that are loaded at the start: by processes of their own, so that a driver that waits for its hardware,
//! or never comes back from it, keeps nobody else.
//!
//! PID 1 starts itself under the name of the work (`init modules always`, `init modules drivers`) and goes on. What a
//! driver brings to light meanwhile is announced by the kernel, and PID 1 loads what that needs by itself.

use std::process::ExitCode;

use nix::unistd::Pid;
use thimble_spec::paths::{INIT, MODULES_DIR, MODULES_INDEX};

use super::modules::Modules;
use crate::console;
use crate::process::{self, Exit};

/// The verb.
pub const VERB: &str = "modules";

/// What is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// What every machine wants, and what drives its processors.
    Always,
    /// Drivers for the devices that are there.
    Drivers,
}

impl What {
    const ALL: [Self; 2] = [Self::Always, Self::Drivers];

    fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Drivers => "drivers",
        }
    }
}

/// The processes that load.
#[derive(Debug, Default)]
pub struct Loading {
    running: Vec<(What, Pid)>,
}

impl Loading {
    /// Starts both.
    pub fn start(host: &str) -> Self {
        let mut loading = Self::default();
        for what in What::ALL {
            let exec = [INIT, VERB, what.name()].map(str::to_owned);
            match process::start_as_root(&exec, host) {
                Ok(pid) => loading.running.push((what, pid)),
                Err(error) => console::failed(&error),
            }
        }
        loading
    }

    /// A process ended; it may be one of these.
    pub fn ended(&mut self, pid: Pid, exit: Exit) {
        let Some(place) = self.running.iter().position(|(_, running)| *running == pid) else { return };
        let (what, _) = self.running.remove(place);
        if !exit.success() {
            console::error(&format!(
                "the loading of modules ({}) {exit}: hardware that they drive is missing; start the host again",
                what.name()
            ));
        }
    }

    /// Whether that is still going on.
    pub fn runs(&self, what: What) -> bool {
        self.running.iter().any(|(running, _)| *running == what)
    }
}

/// The work itself, in a process of its own.
pub fn work(what: &str) -> ExitCode {
    let Some(what) = What::ALL.into_iter().find(|known| known.name() == what) else { return ExitCode::FAILURE };
    let mut modules = match Modules::open(MODULES_DIR.as_ref(), MODULES_INDEX.as_ref()) {
        Ok(modules) => modules,
        // PID 1 has said what is wrong.
        Err(_) => return ExitCode::SUCCESS,
    };
    match what {
        What::Always => modules.load_always(),
        What::Drivers => modules.load_drivers(),
    }
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_ended_is_known() {
        let pid = Pid::from_raw;
        let mut loading = Loading { running: vec![(What::Always, pid(7)), (What::Drivers, pid(8))] };
        loading.ended(pid(9), Exit::Code(0));
        assert!(loading.runs(What::Always) && loading.runs(What::Drivers));
        loading.ended(pid(7), Exit::Code(0));
        assert!(!loading.runs(What::Always) && loading.runs(What::Drivers));
    }
}
