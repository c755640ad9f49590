//! Services: the programs that PID 1 starts, tests and starts again, in a guest and on a host.
//!
//! [`plan`] decides, pure logic; [`Supervisor`] carries out. How a program is started (where its output goes, what it may
//! take) is told by the role: a function that starts one.

pub mod plan;
pub mod prepare;
mod quota;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use thimble_spec::service::{Ready, Service};

use crate::clock::since_boot;
use crate::console;
use crate::error::{Error, Result};
use crate::process::Exit;
use plan::{Action, Next, Plan, READY_LIMIT};
use quota::Quota;

/// So many programs are started before PID 1 looks at everything else again: a start takes its time on a slow machine, and
/// meanwhile nobody pets the watchdog.
const STARTS: usize = 4;

/// All services, and what became of them.
#[derive(Default)]
pub struct Supervisor {
    services: Vec<Service>,
    plan: Plan,
    running: BTreeMap<Pid, usize>,
    records: Vec<Record>,
    quota: Quota,
    /// Some are due to be started, and PID 1 looks at other things first.
    unfinished: bool,
}

/// What is remembered of a service.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// When it was started or ended the last time.
    pub since: Duration,
    /// How often it was started.
    pub starts: u32,
    /// How it ended the last time.
    pub last_exit: Option<String>,
}

impl Supervisor {
    /// Nothing runs yet.
    ///
    /// # Errors
    /// The list is broken.
    pub fn new(services: Vec<Service>) -> Result<Self> {
        let plan = Plan::new(&services).map_err(Error::Said)?;
        let records = vec![Record::default(); services.len()];
        Ok(Self { services, plan, records, ..Self::default() })
    }

    /// Does what is due, until nothing is or a few were started. `launch` starts a program.
    pub fn run(&mut self, mut launch: impl FnMut(&Service) -> Result<Pid>) {
        let mut starts = 0;
        loop {
            let actions = self.plan.actions(since_boot());
            self.unfinished = starts >= STARTS && actions.iter().any(|action| matches!(action, Action::Start(_)));
            if actions.is_empty() || self.unfinished {
                return;
            }
            for action in actions {
                match action {
                    // It is among the next ones.
                    Action::Start(_) if starts >= STARTS => {}
                    Action::Start(place) => {
                        starts += 1;
                        self.launch(place, &mut launch);
                    }
                    Action::Test(place) => {
                        let ready = self.services[place].ready.as_ref().is_none_or(is_ready);
                        self.plan.tested(place, ready, since_boot());
                    }
                    Action::Late(place) => {
                        let (name, limit) = (&self.services[place].name, READY_LIMIT.as_secs());
                        self.complain(&format!(
                            "service {name} is not ready, {limit} s after its start or last word, still waiting for it"
                        ));
                    }
                    Action::Kill(place) => {
                        let (name, limit) = (&self.services[place].name, plan::STOP_LIMIT.as_secs());
                        self.complain(&format!("service {name} did not stop in {limit} s and is killed"));
                        self.signal(place, Signal::SIGKILL);
                    }
                }
            }
        }
    }

    fn launch(&mut self, place: usize, launch: &mut impl FnMut(&Service) -> Result<Pid>) {
        let now = since_boot();
        let record = &mut self.records[place];
        record.starts = record.starts.saturating_add(1);
        record.since = now;
        match launch(&self.services[place]) {
            Ok(pid) => {
                self.running.insert(pid, place);
                self.plan.started(place, now);
            }
            Err(error) => self.report(place, false, &error.sentence()),
        }
    }

    /// A process of this machine ended; if it was a service, which one.
    pub fn ended(&mut self, pid: Pid, exit: Exit) -> Option<&Service> {
        let place = self.running.remove(&pid)?;
        self.report(place, exit.success(), &exit.to_string());
        Some(&self.services[place])
    }

    /// Tells the plan of an end, and people if it was none that is wanted.
    fn report(&mut self, place: usize, success: bool, what: &str) {
        let now = since_boot();
        let next = self.plan.ended(place, success, now);
        self.records[place].since = now;
        self.records[place].last_exit = Some(what.to_owned());
        let name = &self.services[place].name;
        match next {
            Next::Done => {}
            Next::Again(pause) => {
                self.complain(&format!("service {name} {what}, starting it again in {:.1} s", pause.as_secs_f64()));
            }
            Next::Never => {
                self.complain(&format!("service {name} {what}, not starting it again; who waits for it never starts"));
            }
        }
    }

    /// An error, unless there were too many of late.
    fn complain(&mut self, sentence: &str) {
        match self.quota.take(since_boot()) {
            None => {}
            Some(0) => console::error(sentence),
            Some(dropped) => console::error(&format!("{sentence} ({dropped} more about services were left out)")),
        }
    }

    /// Whether all are ready.
    pub fn all_ready(&self) -> bool {
        self.plan.all_ready()
    }

    /// When [`Self::run`] has something to do again.
    pub fn deadline(&self) -> Option<Duration> {
        if self.unfinished { Some(Duration::ZERO) } else { self.plan.deadline() }
    }

    /// Asks every service, with all that it started in its group, to stop.
    pub fn stop_all(&self) {
        for place in self.running.values() {
            self.signal(*place, Signal::SIGTERM);
        }
    }

    /// Whether any service runs, going by those reaped.
    pub fn any_running(&self) -> bool {
        !self.running.is_empty()
    }

    /// Forgets a process that ended during the shutdown.
    pub fn forget(&mut self, pid: Pid) {
        self.running.remove(&pid);
    }

    fn signal(&self, place: usize, signal: Signal) {
        for (pid, _) in self.running.iter().filter(|(_, other)| **other == place) {
            // Either fails when the process ended meanwhile.
            let _ = killpg(*pid, signal).or_else(|_| kill(*pid, signal));
        }
    }
}

/// What a host does with single ones.
#[cfg(feature = "host")]
impl Supervisor {
    /// The services in the order of the list.
    pub fn list(&self) -> impl Iterator<Item = (&Service, plan::State, &Record, Option<Pid>)> {
        self.services.iter().enumerate().map(|(place, service)| {
            let pid = self.running.iter().find(|(_, other)| **other == place).map(|(pid, _)| *pid);
            (service, self.plan.state(place), &self.records[place], pid)
        })
    }

    /// One said something.
    pub fn heard(&mut self, name: &str) {
        if let Ok(place) = self.place(name) {
            self.plan.heard(place, since_boot());
        }
    }

    fn place(&self, name: &str) -> std::result::Result<usize, String> {
        let place = self.services.iter().position(|service| service.name == name);
        place.ok_or_else(|| format!("there is no service {name}"))
    }

    /// Has one started.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn start(&mut self, name: &str) -> std::result::Result<(), String> {
        self.place(name).map(|place| self.plan.start(place))
    }

    /// Tells one to stop, and to start again if `again`.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn stop(&mut self, name: &str, again: bool) -> std::result::Result<(), String> {
        let place = self.place(name)?;
        if self.plan.stop(place, again, since_boot()) {
            self.signal(place, Signal::SIGTERM);
        }
        Ok(())
    }

    /// Tells all to stop, the last one of the list first; those that others wait for go on until these have ended. Says
    /// whether none runs any more.
    pub fn stop_in_order(&mut self) -> bool {
        let places: Vec<usize> = (0..self.services.len()).rev().collect();
        for place in places {
            let name = &self.services[place].name;
            let needed = self.services.iter().enumerate().any(|(other, service)| {
                service.after.contains(name) && self.running.values().any(|running| *running == other)
            });
            if !needed && self.plan.stop(place, false, since_boot()) {
                self.signal(place, Signal::SIGTERM);
            }
        }
        !self.any_running()
    }
}

/// The test of a service.
fn is_ready(ready: &Ready) -> bool {
    /// On the loopback a connection is made or refused at once.
    const CONNECT_LIMIT: Duration = Duration::from_millis(5);
    match ready {
        Ready::Port(port) => {
            TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, *port)), CONNECT_LIMIT).is_ok()
        }
        Ready::File(path) => Path::new(path).exists(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, getsockname, listen, socket};
    use std::os::fd::AsRawFd;

    #[test]
    fn readiness_is_a_port_or_a_file() {
        // A port that is taken: nobody else listens there meanwhile.
        let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
        let port = getsockname::<SockaddrIn>(socket.as_raw_fd()).unwrap().port();
        assert!(!is_ready(&Ready::Port(port)));
        listen(&socket, Backlog::new(8).unwrap()).unwrap();
        // On a machine with other work one look may take longer than it is given.
        assert!((0..100).any(|_| is_ready(&Ready::Port(port))));
        assert!(is_ready(&Ready::File("/proc/self".to_owned())));
        assert!(!is_ready(&Ready::File("/nonexistent".to_owned())));
    }

    #[cfg(feature = "host")]
    fn service(name: &str, after: &[&str]) -> Service {
        let text = serde_json::json!({ "name": name, "exec": ["/bin/true"], "after": after });
        serde_json::from_value(text).unwrap()
    }

    #[cfg(feature = "host")]
    #[test]
    fn a_turn_starts_a_few_and_the_next_ones_the_rest() {
        let names: Vec<String> = (0..10).map(|number| format!("s{number}")).collect();
        let mut supervisor = Supervisor::new(names.iter().map(|name| service(name, &[])).collect()).unwrap();
        let mut started = Vec::new();
        for turn in 1..=3 {
            supervisor.run(|service| {
                started.push(service.name.clone());
                Ok(Pid::from_raw(i32::MAX - i32::try_from(started.len()).unwrap()))
            });
            assert_eq!(started, names[..(turn * STARTS).min(10)]);
            assert_eq!(supervisor.deadline(), (turn < 3).then_some(Duration::ZERO));
        }
    }

    #[cfg(feature = "host")]
    #[test]
    fn the_end_is_in_reverse_order() {
        // Given two services of which one waits for the other,
        let mut supervisor = Supervisor::new(vec![service("a", &[]), service("b", &["a"])]).unwrap();
        let mut children = Vec::new();
        let mut launch = |service: &Service| {
            let child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
            children.push((service.name.clone(), child));
            Ok(pid)
        };
        supervisor.run(&mut launch);
        // when all are to end,
        assert!(!supervisor.stop_in_order());
        // then the second one is told, and the first one when that one has ended.
        let states = |supervisor: &Supervisor| -> Vec<bool> {
            supervisor.list().map(|(_, state, ..)| matches!(state, plan::State::Stopping { .. })).collect()
        };
        assert_eq!(states(&supervisor), [false, true]);
        for place in [1, 0] {
            let (_, child) = &mut children[place];
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
            child.wait().unwrap();
            supervisor.ended(pid, Exit::Signal(15));
            assert_eq!(supervisor.stop_in_order(), place == 0);
        }
        assert!(supervisor.list().all(|(_, state, ..)| state == plan::State::Stopped));
        assert!(supervisor.stop("c", false).is_err());
    }
}
