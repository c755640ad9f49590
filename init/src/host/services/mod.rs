//! The host's services: those of its own that the definition asks for, and those that the definition brings.
//!
//! They start when network and storage are there. The node daemon is not among them (see [`super::node`]): its end is a
//! conversation rather than a signal, and it is started again even while the host ends.

mod group;
mod netserve;
mod table;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use nix::unistd::Pid;
use thimble_spec::appliance::{Appliance, HostService};
use thimble_spec::host::{ServiceState, ServiceStatus};
use thimble_spec::service::Service;

use super::journal::{Echo, Journal};
use crate::console;
use crate::error::{Doing, Error, Result};
use crate::process::{self, Exit, Program, Streams};
use crate::service::Supervisor;
use crate::service::plan::State;
use group::HIERARCHY;
pub use table::NETSERVE;
use table::TABLE;

/// Where a service reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It reads nothing; what it writes is kept in the log.
    Logged,
    /// The same, and it stands on the console as well: for our own programs.
    Told,
    /// It has the console for itself.
    Terminal,
}

/// All of them.
pub struct Services {
    supervisor: Supervisor,
    kinds: BTreeMap<String, Kind>,
}

impl Services {
    /// Those that an appliance asks for; what cannot be is told and left out.
    pub fn new(appliance: &Appliance) -> Self {
        let mut services = Vec::new();
        let mut kinds = BTreeMap::new();
        for built_in in TABLE.iter().filter(|built_in| (built_in.wanted)(appliance)) {
            kinds.insert(built_in.name.to_owned(), built_in.kind);
            services.push((built_in.service)(appliance));
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        for service in &appliance.host.services {
            match resolve(service, &passwd, &services) {
                Ok(service) => services.push(service),
                Err(error) => console::failed(&error),
            }
        }
        let supervisor = Supervisor::new(services).unwrap_or_else(|error| {
            console::failed(&error);
            Supervisor::default()
        });
        Self { supervisor, kinds }
    }

    /// Starts what is due, with its output in the log.
    pub fn run(&mut self, appliance: &Appliance, journal: &mut Journal) {
        let kinds = &self.kinds;
        self.supervisor.run(|service| {
            let kind = kinds.get(&service.name).copied().unwrap_or(Kind::Logged);
            launch(service, kind, appliance, journal)
        });
    }

    /// The supervisor, which knows them by name.
    pub fn supervisor(&mut self) -> &mut Supervisor {
        &mut self.supervisor
    }

    /// A service that is there, and was not stopped by hand, starts anew: what it goes by has changed.
    pub fn renew(&mut self, name: &str) {
        let mut all = self.supervisor.list();
        if all.any(|(service, state, ..)| service.name == name && !matches!(state, State::Stopped)) {
            drop(all);
            // It is there.
            let _ = self.supervisor.stop(name, true);
        }
    }

    /// When there is something to do.
    pub fn deadline(&self) -> Option<std::time::Duration> {
        self.supervisor.deadline()
    }

    /// A process ended; if it was a service, what it left behind ends too.
    pub fn ended(&mut self, pid: Pid, exit: Exit) {
        if let Some(service) = self.supervisor.ended(pid, exit) {
            group::kill(Path::new(HIERARCHY), &service.name);
        }
    }

    /// A service wrote a line.
    pub fn heard(&mut self, name: &str, line: &str) {
        self.supervisor.heard(name);
        let gave_up = TABLE.iter().find(|built_in| built_in.name == name).and_then(|built_in| built_in.gave_up);
        if gave_up.is_some_and(|words| line.contains(words)) {
            // It is there: it has just written.
            let _ = self.supervisor.stop(name, true);
        }
    }

    /// For whoever asks.
    pub fn status(&self) -> Vec<ServiceStatus> {
        let shown = self.supervisor.list().map(|(service, state, record, pid)| ServiceStatus {
            name: service.name.clone(),
            state: shown(state),
            pid: pid.map(Pid::as_raw),
            since_s: record.since.as_secs_f64(),
            restarts: record.starts.saturating_sub(1),
            last_exit: record.last_exit.clone(),
            memory: group::memory(Path::new(HIERARCHY), &service.name),
        });
        shown.collect()
    }
}

fn shown(state: State) -> ServiceState {
    match state {
        State::Waiting => ServiceState::Waiting,
        State::Starting { .. } => ServiceState::Starting,
        State::Ready { .. } => ServiceState::Ready,
        State::Paused { .. } => ServiceState::Paused,
        State::Done => ServiceState::Done,
        State::Failed => ServiceState::Failed,
        State::Stopping { .. } => ServiceState::Stopping,
        State::Stopped => ServiceState::Stopped,
    }
}

fn launch(service: &Service, kind: Kind, appliance: &Appliance, journal: &mut Journal) -> Result<Pid> {
    if let Some(built_in) = TABLE.iter().find(|built_in| built_in.name == service.name) {
        (built_in.prepare)(appliance)?;
    }
    let group = group::make(Path::new(HIERARCHY), &service.name, &service.limits)?;
    let start = |streams: Streams<'_>| {
        process::start(&Program {
            exec: &service.exec,
            uid: service.uid,
            gid: service.gid,
            host: &appliance.name,
            environment: &service.environment,
            streams,
            group: group.as_ref(),
        })
    };
    match kind {
        Kind::Terminal => start(Streams::Terminal(&terminal()?)),
        Kind::Logged | Kind::Told => {
            let echo = if kind == Kind::Told { Echo::Console } else { Echo::No };
            let pipe = journal.pipe(&service.name, echo)?;
            start(Streams::Pipe(pipe.as_fd()))
        }
    }
}

/// The terminal behind /dev/console, which itself cannot be a session's own: the last one named, which is where
/// /dev/console leads (Documentation/ABI/testing/sysfs-tty).
fn terminal() -> Result<CString> {
    const ACTIVE: &str = "/sys/class/tty/console/active";
    let names = fs::read_to_string(ACTIVE).doing(|| format!("read {ACTIVE}"))?;
    let none = || Error::Said("the kernel has no console that could be a shell's: name one with console=".to_owned());
    let name = names.split_whitespace().next_back().ok_or_else(none)?;
    CString::new(format!("/dev/{name}")).map_err(|_| none())
}

/// A service of the definition, whose user is a number now, and that waits for those only that are there.
fn resolve(service: &HostService, passwd: &str, earlier: &[Service]) -> Result<Service> {
    let (uid, gid) = match &service.user {
        None => (0, 0),
        Some(user) => user_in(passwd, user).ok_or_else(|| {
            Error::Said(format!("service {} is left out: no feature of the host brings its user {user}", service.name))
        })?,
    };
    let is_there = |name: &&String| earlier.iter().any(|other| other.name == **name);
    let after = service.after.iter().filter(is_there).cloned().collect();
    Ok(Service {
        exec: service.exec.clone(),
        kind: service.kind,
        after,
        uid,
        gid,
        restart: service.restart,
        ready: service.ready.clone(),
        limits: service.limits,
        ..table::daemon(&service.name, &[])
    })
}

/// User and group number in the text of /etc/passwd (passwd(5)).
fn user_in(passwd: &str, user: &str) -> Option<(u32, u32)> {
    let mut fields = passwd.lines().map(|line| line.split(':')).find(|fields| fields.clone().next() == Some(user))?;
    Some((fields.nth(2)?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn appliance(more: &str) -> Appliance {
        let text = format!("{}\n{more}", include_str!("../../../../configs/demo.toml"));
        thimble_spec::definition::parse("demo.toml", &text).unwrap_or_else(|mistakes| panic!("{mistakes}")).appliance
    }

    fn names(appliance: &Appliance) -> Vec<String> {
        Services::new(appliance).status().into_iter().map(|service| service.name).collect()
    }

    #[test]
    fn a_host_that_asks_for_nothing_has_no_service() {
        assert_eq!(names(&appliance("")), Vec::<String>::new());
    }

    #[test]
    fn what_is_asked_for_is_there_in_order() {
        let appliance = appliance(
            "[log]\nsyslog = \"udp://10.0.0.1:514\"\n[time]\nservers = [\"10.0.0.1\"]\n[access]\nshell = true\n\
             [[service]]\nname = \"a\"\nexec = [\"/bin/a\"]\nafter = [\"ntp\", \"ssh\"]\n\
             [[service]]\nname = \"b\"\nexec = [\"/bin/b\"]\nuser = \"nobody-has-this-name\"\n",
        );
        assert_eq!(names(&appliance), ["syslog", "ntp", "shell", "a"]);
    }

    #[test]
    fn users_become_numbers() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\n_a:x:110:111:_a:/nonexistent:/usr/sbin/nologin\nbroken\n";
        assert_eq!(user_in(passwd, "_a"), Some((110, 111)));
        assert_eq!(user_in(passwd, "root"), Some((0, 0)));
        assert_eq!(user_in(passwd, "broken"), None);
        assert_eq!(user_in(passwd, "b"), None);
    }
}
