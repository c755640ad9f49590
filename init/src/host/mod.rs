//! The host's role: modules, network, storage, the node daemon, and an orderly end.
//!
//! | file | what |
//! | --- | --- |
//! | `start` | the boot, in order |
//! | `end` | the shutdown, in order |
//! | `modules`, `loading`, `uevent` | drivers for what is there and for what comes later |
//! | `steps` | how long the boot takes |
//! | `network`, `dhcp` | bonds, bridges, addresses |
//! | `storage` | the data partition |
//! | `node` | the daemon and when it is started again |
//! | `gate` | whether the slot that the host came from works |
//! | `buttons` | the power button |
//! | `services` | the programs that it keeps besides |
//! | `journal` | the log |
//! | `watchdog` | what resets a machine that hangs |
//! | `sysctl` | settings of the kernel |
//! | `control` | the control socket |
//! | `commands`, `answers` | the console, where it may command |
//!
//! Everything happens in one loop ([`Host::turn`]); a phase of the boot that has to wait takes turns until what it waits
//! for is there or its time is over.

mod answers;
mod buttons;
mod commands;
mod control;
mod dhcp;
mod end;
mod gate;
mod journal;
mod loading;
mod modules;
mod network;
mod node;
mod services;
mod start;
mod steps;
mod storage;
mod sysctl;
mod uevent;
mod watchdog;

use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;
use thimble_spec::appliance::Appliance;
use thimble_spec::cmdline::Cmdline;
use thimble_spec::console::Line;

use answers::Commander;
use buttons::Buttons;
use control::Control;
use gate::Gate;
use journal::Journal;
use loading::Loading;
pub use loading::{VERB as MODULES_VERB, work as load_modules};
use modules::Modules;
use network::Networking;
use node::Node;
use services::Services;
use steps::Steps;
use uevent::{Heard, Uevent, Uevents};
use watchdog::Watchdog;

use crate::clock::since_boot;
use crate::console;
use crate::events;
use crate::power::Ending;
use crate::process;
use crate::signals;

/// How long the daemon may take to be ready before somebody is told.
const NODE_LIMIT: Duration = Duration::from_secs(10);

/// All that PID 1 holds.
pub struct Host<'a> {
    signals: &'a SignalFd,
    uevents: Option<Uevents>,
    modules: Modules,
    loading: Loading,
    steps: Steps,
    appliance: Appliance,
    network: Networking,
    node: Node,
    services: Services,
    journal: Journal,
    watchdog: Option<Watchdog>,
    watchdog_tried: bool,
    gate: Option<Gate>,
    buttons: Buttons,
    commander: Option<Commander>,
    control: Option<Control>,
    /// When the kernel last announced something.
    last_event: Duration,
    /// What was asked for first; nothing that comes later changes it.
    ending: Option<Ending>,
    announcement: Announcement,
}

/// Whether people were told that the host is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Announcement {
    /// The boot goes on.
    Early,
    /// The daemon was started and has until then.
    Until(Duration),
    /// It took too long, and that was said.
    Late,
    /// Yes, or nobody waits for it any more.
    Made,
}

/// Runs the host to its end.
pub fn run(line: &Cmdline, signals: &SignalFd) -> ! {
    let mut host = Host::start(line, signals);
    while host.ending.is_none() {
        host.turn(None);
    }
    let ending = host.ending.unwrap_or(Ending::Reboot);
    host.end(ending)
}

impl Host<'_> {
    /// What serves the host's networks goes by those that are declared now, on trial or not.
    fn follow_network(&mut self) {
        let declared = self.network.declared();
        if *declared != self.appliance.network {
            self.appliance.network = declared.clone();
            self.services.renew(services::NETSERVE);
        }
    }

    /// Waits for something to happen, not longer than until `limit`, and does what follows from it.
    fn turn(&mut self, limit: Option<Duration>) {
        self.tend_watchdog();
        // The daemon waits for the network and for its data.
        let booted = self.announcement != Announcement::Early;
        if booted {
            self.node.run(&self.appliance.name, &mut self.journal, since_boot());
            if self.ending.is_none() {
                self.follow_network();
                self.services.run(&self.appliance, &mut self.journal);
            }
        }
        let deadlines = [
            limit,
            self.node.deadline().filter(|_| booted),
            self.services.deadline().filter(|_| booted && self.ending.is_none()),
            self.journal.deadline(),
            self.watchdog.as_ref().map(Watchdog::deadline),
            self.gate.as_ref().and_then(Gate::deadline).filter(|_| self.ending.is_none()),
            self.network.deadline(),
            match self.announcement {
                Announcement::Until(end) => Some(end),
                _ => None,
            },
        ];
        let fixed = [
            Some(self.signals.as_fd()),
            self.uevents.as_ref().map(AsFd::as_fd),
            self.node.descriptor(),
            self.commander.as_ref().map(AsFd::as_fd),
        ];
        let others = self.network.descriptors().chain(self.buttons.descriptors());
        let clients = self.control.iter().flat_map(Control::readers);
        let readers = fixed.into_iter().flatten().chain(others).chain(clients).chain(self.journal.readers());
        let writers = self.control.iter().flat_map(Control::writers);
        events::wait(readers, writers, deadlines.into_iter().flatten().min());
        self.look();
    }

    /// Looks at everything once, and leaves nothing unread: what is left would end the next wait at once.
    fn look(&mut self) {
        let mut ending = signals::read(self.signals);
        while let Some((pid, exit)) = process::reap() {
            self.node.ended(pid, exit, since_boot());
            self.loading.ended(pid, exit);
            self.services.ended(pid, exit);
            if let Some(gate) = &mut self.gate {
                gate.ended(pid, exit, since_boot());
            }
        }
        self.node.drain();
        self.hear();
        self.network.run(since_boot());
        if self.buttons.pressed() {
            ending = ending.or(Some(Ending::PowerOff));
        }
        ending = self.command().or(ending);
        let services = &mut self.services;
        self.journal.collect(since_boot(), |source, line| services.heard(source, line));
        self.serve();
        self.ending = self.ending.or(ending);
        self.announce();
        if self.ending.is_none() {
            self.ending = self.pass_gate();
        }
    }

    /// The kernel's announcements.
    fn hear(&mut self) {
        while let Some(heard) = self.uevents.as_ref().and_then(Uevents::next) {
            self.last_event = since_boot();
            match heard {
                Heard::Event(event) => self.device(&event),
                Heard::Lost => {
                    self.modules.load_all();
                    self.buttons.scan();
                    self.network.changed(since_boot());
                }
            }
        }
    }

    fn device(&mut self, event: &Uevent) {
        if event.action != "add" {
            return;
        }
        if let Some(modalias) = &event.modalias {
            self.modules.load_for(modalias);
        }
        match (event.subsystem.as_str(), &event.device_name) {
            ("input", Some(name)) => self.buttons.add(name),
            ("net", _) => self.network.changed(since_boot()),
            _ => {}
        }
    }

    /// Says once that the host is up, or that it is not.
    fn announce(&mut self) {
        let ready = match self.announcement {
            Announcement::Until(_) | Announcement::Late => self.node.is_ready(),
            Announcement::Early | Announcement::Made => return,
        };
        let after = since_boot();
        if ready {
            self.announcement = Announcement::Made;
            self.steps.done("node");
            console::line(&Line::HostUp { name: &self.appliance.name, after });
        } else if matches!(self.announcement, Announcement::Until(end) if end <= after) {
            self.announcement = Announcement::Late;
            let seconds = NODE_LIMIT.as_secs();
            console::error(&format!("the node daemon is not ready after {seconds} s: see its messages above"));
        }
    }

    /// The daemon's process, for those who ask.
    fn node_pid(&self) -> Option<Pid> {
        self.node.pid()
    }
}
