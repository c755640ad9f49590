//! The guest's role: network, root from the shared image and the guest's own disk, services, and an orderly end.

mod agent;
mod config;
mod disk;
mod exec;
pub mod foreign;
mod freeze;
mod identity;
mod keys;
mod look;
mod root;
mod services;

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;
use thimble_spec::cmdline::{Cmdline, GuestParams};
use thimble_spec::console::Line;
use thimble_spec::paths::SERVICES;
use thimble_spec::service::Service;

use agent::Agent;
use exec::Door;
use freeze::Freeze;
use root::Root;

use crate::clock::{since_boot, wait_until};
use crate::console;
use crate::error::{Error, Result};
use crate::events;
use crate::net::{self, Network};
use crate::power::{self, Ending};
use crate::process::{self, Program, Streams};
use crate::service::Supervisor;
use crate::signals;

/// How long the network interface may take to appear.
const INTERFACE_LIMIT: Duration = Duration::from_secs(10);
/// How long services may take to stop: a database writes back what it has in memory. The host gives a guest 25 s in all.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// How long what is no service may take to stop.
const REST_LIMIT: Duration = Duration::from_secs(1);
/// How long an error that keeps the guest from starting stays readable.
const FATAL_PAUSE: Duration = Duration::from_secs(5);

/// Runs the guest to its end.
pub fn run(line: &Cmdline, signals: &SignalFd) -> ! {
    match start(line) {
        Ok((guest, root)) => guest.run(signals, &root),
        Err(error) => {
            console::failed(&error);
            // Started again, it may find what it needs: an image on a server that was away for a while.
            power::end_after(FATAL_PAUSE, Ending::Reboot)
        }
    }
}

/// Up to the services; an error here means that the guest cannot be.
fn start(line: &Cmdline) -> Result<(Guest, Root)> {
    let line = config::complete(line)?;
    let params = GuestParams::read(&line).map_err(|error| Error::Said(error.to_string()))?;
    // A guest without its network can still be reached by its console, and says what is wrong there.
    if let Err(error) = net::set_host_name(&params.name).and_then(|()| network(&params)) {
        console::failed(&error);
    }
    if let Some(device) = &params.root {
        match foreign::hand_over(&params, device)? {}
    }
    let root = root::enter(&params)?;
    let resolved = if params.dns.is_empty() { Ok(()) } else { net::write_resolv_conf(Path::new("/"), &params.dns) };
    for done in [resolved, identity::machine_id(Path::new("/")), keys::authorize(&params.parameters.ssh_keys)] {
        done.unwrap_or_else(|error| console::failed(&error));
    }
    let services = services::read().and_then(|mut services| {
        let variables = params.parameters.variables();
        for service in &mut services.services {
            service.environment.extend(variables.clone());
        }
        services::prepare(&services);
        Supervisor::new(services.services).map_err(|error| Error::Said(format!("{SERVICES}: {}", error.sentence())))
    });
    let supervisor = services.map_err(|error| console::failed(&error)).ok();
    let (agent, freeze, door) = (Agent::open(), Freeze::default(), Door::open(params.commands, &params.name));
    Ok((Guest { name: params.name, supervisor, agent, door, ready: false, freeze }, root))
}

fn network(params: &GuestParams) -> Result<()> {
    let mut network = Network::open()?;
    net::loopback(&mut network)?;
    let Some(address) = params.address else {
        // Whoever configures it later finds it switched on.
        return net::first_interface().map_or(Ok(()), |name| network.up(&name));
    };
    let mut interface = None;
    wait_until(INTERFACE_LIMIT, || {
        interface = net::first_interface();
        interface.is_some()
    });
    match interface {
        Some(name) => net::fixed(&mut network, &name, Some(address), params.gateway),
        None => Err(Error::Said(format!(
            "no network interface appeared in {} s for {address}: give the guest one",
            INTERFACE_LIMIT.as_secs()
        ))),
    }
}

/// A guest's services have its console.
fn start_service(service: &Service, host: &str) -> Result<Pid> {
    process::start(&Program {
        exec: &service.exec,
        uid: service.uid,
        gid: service.gid,
        host,
        environment: &service.environment,
        streams: Streams::Console,
        group: None,
    })
}

/// A guest that has its root.
struct Guest {
    name: String,
    /// None when the image's list of services is missing or broken: the guest waits for its end, and never is ready.
    supervisor: Option<Supervisor>,
    agent: Option<Agent>,
    /// Where commands come in, if they may.
    door: Option<Door>,
    ready: bool,
    freeze: Freeze,
}

impl Guest {
    fn run(mut self, signals: &SignalFd, root: &Root) -> ! {
        let ending = loop {
            self.freeze.look();
            let mut deadline = self.freeze.deadline();
            // What starts may write, and would wait.
            if deadline.is_none() {
                if let Some(supervisor) = &mut self.supervisor {
                    supervisor.run(|service| start_service(service, &self.name));
                }
                self.say_ready();
                deadline = self.supervisor.as_ref().and_then(Supervisor::deadline);
            }
            if let Some(ending) = self.wait(signals, root, deadline) {
                break ending;
            }
        };
        self.freeze.thaw();
        self.stop(root, ending)
    }

    /// Says once that all services are ready.
    fn say_ready(&mut self) {
        if self.ready || !self.supervisor.as_ref().is_some_and(Supervisor::all_ready) {
            return;
        }
        self.ready = true;
        let after = since_boot();
        console::line(&Line::ReadyInGuest { name: &self.name, after });
        if let Some(agent) = &self.agent {
            agent.ready(after);
        }
    }

    /// Waits for something to happen and takes note of it; says how the guest should end, if it should.
    fn wait(&mut self, signals: &SignalFd, root: &Root, deadline: Option<Duration>) -> Option<Ending> {
        let agent = self.agent.as_ref().map(AsFd::as_fd);
        let door = self.door.as_ref().map(AsFd::as_fd);
        events::wait([Some(signals.as_fd()), agent, door].into_iter().flatten(), [], deadline);
        let mut ending = signals::read(signals);
        match self.agent.as_mut().map(|agent| agent.heed(&mut self.freeze, root.own())) {
            Some(Some(true)) => ending = ending.or(Some(Ending::PowerOff)),
            Some(None) => self.agent = None,
            Some(Some(false)) | None => {}
        }
        while let Some((pid, exit)) = process::reap() {
            if let Some(supervisor) = &mut self.supervisor {
                supervisor.ended(pid, exit);
            }
            if let Some(door) = &mut self.door {
                door.ended(pid);
            }
        }
        if let Some(door) = &mut self.door {
            door.welcome();
        }
        ending
    }

    /// Services, then the rest of the processes, then the file systems.
    fn stop(mut self, root: &Root, ending: Ending) -> ! {
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.stop_all();
            let stopped = wait_until(STOP_LIMIT, || {
                while let Some((pid, _)) = process::reap() {
                    supervisor.forget(pid);
                }
                !supervisor.any_running()
            });
            if !stopped {
                console::error(&format!("services did not stop in {} s and are killed", STOP_LIMIT.as_secs()));
            }
        }
        power::end_all_processes(REST_LIMIT);
        nix::unistd::sync();
        root.settle();
        power::end(ending)
    }
}
