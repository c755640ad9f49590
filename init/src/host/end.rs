//! The end of a host, in order: guests, services, processes, declared storage, leases, file systems, watchdog, power.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use thimble_spec::paths::{DATA_DIR, NODE};

use super::{Announcement, Host};
use crate::clock::since_boot;
use crate::console;
use crate::power::{self, Ending};
use crate::process;

/// How long the daemon may take: it shuts the guests down.
const NODE_LIMIT: Duration = Duration::from_secs(40);
/// How long services may take.
const SERVICES_LIMIT: Duration = Duration::from_secs(8);
/// How long all others may take.
const REST_LIMIT: Duration = Duration::from_secs(2);

/// How long declared storage may take to be taken down.
const STORAGE_LIMIT: Duration = Duration::from_secs(20);

/// A process of its own takes storage down: a disk that does not answer holds nobody else.
fn end_storage(host: &str) {
    let exec = [NODE, "storage", "end"].map(str::to_owned);
    match process::start_as_root(&exec, host) {
        Ok(_) if process::wait_for_all(STORAGE_LIMIT) => {}
        Ok(_) => console::error(&format!(
            "storage was not taken down in {} s, the host ends without: arrays may be checked at the next boot",
            STORAGE_LIMIT.as_secs()
        )),
        Err(error) => console::failed(&error),
    }
}

impl Host<'_> {
    /// Ends the host. Whatever is asked for meanwhile changes nothing.
    pub fn end(mut self, ending: Ending) -> ! {
        console::notice(&format!("the end begins: {ending:?}"));
        // Before the daemon was started for the first time there are no guests.
        if self.announcement != Announcement::Early {
            self.announcement = Announcement::Made;
            self.stop_node();
            self.stop_services();
        }
        power::end_all_processes(REST_LIMIT);
        if !self.appliance.storage.is_empty() {
            end_storage(&self.appliance.name);
        }
        self.network.end(since_boot());
        nix::unistd::sync();
        if let Err(error) = power::settle(Path::new(DATA_DIR)) {
            console::failed(&error);
        }
        power::settle_all();
        if ending == Ending::PowerOff
            && let Some(watchdog) = self.watchdog.take()
        {
            watchdog.disarm();
        }
        power::end(ending)
    }

    /// Services that others wait for end after these.
    fn stop_services(&mut self) {
        let end = since_boot() + SERVICES_LIMIT;
        while !self.services.supervisor().stop_in_order() {
            if since_boot() >= end {
                let seconds = SERVICES_LIMIT.as_secs();
                console::error(&format!("services did not stop in {seconds} s and are killed"));
                return;
            }
            self.turn(Some(end));
        }
    }

    /// The daemon stops the guests, and then itself. One that dies instead, or that died a moment ago, left its guests
    /// running: the next one finds them, and is told the same as soon as it is ready.
    fn stop_node(&mut self) {
        let end = since_boot() + NODE_LIMIT;
        let mut told = None;
        self.node.stop_for_good();
        while !self.node.is_off() {
            if since_boot() >= end {
                console::error(&format!("the node daemon did not stop in {} s and is killed", NODE_LIMIT.as_secs()));
                self.node.signal(Signal::SIGKILL);
                self.node.retire();
                return;
            }
            if self.node.is_ready() && told != self.node.pid() {
                self.node.signal(Signal::SIGTERM);
                told = self.node.pid();
            }
            self.turn(Some(end));
        }
    }
}
