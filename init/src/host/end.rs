//! The end of a host, in order: guests, processes, leases, file systems, power.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use thimble_spec::paths::DATA_DIR;

use super::{Announcement, Host};
use crate::clock::since_boot;
use crate::console;
use crate::power::{self, Ending};

/// How long the daemon may take: it shuts the guests down.
const NODE_LIMIT: Duration = Duration::from_secs(40);
/// How long all others may take.
const REST_LIMIT: Duration = Duration::from_secs(2);

impl Host<'_> {
    /// Ends the host. Whatever is asked for meanwhile changes nothing.
    pub fn end(mut self, ending: Ending) -> ! {
        console::notice(&format!("the end begins: {ending:?}"));
        self.announcement = Announcement::Made;
        self.stop_node();
        power::end_all_processes(REST_LIMIT);
        if let Some(network) = &mut self.network {
            for client in &mut self.dhcp {
                client.stop(network, since_boot());
            }
        }
        nix::unistd::sync();
        if let Err(error) = power::settle(Path::new(DATA_DIR)) {
            console::failed(&error);
        }
        power::end(ending)
    }

    /// The daemon stops the guests, and then itself.
    fn stop_node(&mut self) {
        self.node.signal(Signal::SIGTERM);
        let Some(pid) = self.node.retire() else { return };
        let end = since_boot() + NODE_LIMIT;
        // Its process is gone when it was reaped.
        while kill(pid, None).is_ok() {
            if since_boot() >= end {
                console::error(&format!("the node daemon did not stop in {} s and is killed", NODE_LIMIT.as_secs()));
                let _ = kill(pid, Signal::SIGKILL);
                return;
            }
            self.turn(Some(end));
        }
    }
}
