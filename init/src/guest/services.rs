//! Carries the [`Plan`] out: prepares the tree, starts programs, tests them, reports how they end.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use thimble_spec::paths::SERVICES;
use thimble_spec::service::{Directory, Ready, Service, Services};

use super::plan::{Action, Next, Plan, READY_LIMIT};
use crate::clock::since_boot;
use crate::console;
use crate::error::{Doing, Error, Result};
use crate::process::{self, Exit, Program};

/// The services of this guest.
pub struct Supervisor {
    host: String,
    services: Vec<Service>,
    plan: Plan,
    running: BTreeMap<Pid, usize>,
}

/// Reads what the image tells PID 1.
pub fn read() -> Result<Services> {
    let text = fs::read(SERVICES).doing(|| format!("read {SERVICES} in the guest's image"))?;
    serde_json::from_slice(&text).map_err(|error| Error::Said(format!("{SERVICES} in the guest's image: {error}")))
}

/// Sets the sysctls and makes the directories. What fails is reported and does not keep services from starting.
pub fn prepare(services: &Services) {
    let sysctls = services.sysctl.iter().map(|(key, value)| sysctl(key, value));
    let directories = services.directories.iter().map(directory);
    for error in sysctls.chain(directories).filter_map(Result::err) {
        console::failed(&error);
    }
}

/// The file of a sysctl: dots part its name; a slash stands for a dot within a part, as sysctl(8) has it.
fn sysctl_path(key: &str) -> String {
    let part = |character| match character {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    format!("/proc/sys/{}", key.chars().map(part).collect::<String>())
}

fn sysctl(key: &str, value: &str) -> Result<()> {
    fs::write(sysctl_path(key), value).doing(|| format!("set sysctl {key} to `{value}`"))
}

fn directory(directory: &Directory) -> Result<()> {
    let path = Path::new(&directory.path);
    fs::create_dir_all(path)
        .and_then(|()| chown(path, Some(directory.uid), Some(directory.gid)))
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(directory.mode)))
        .doing(|| format!("make directory {}", directory.path))
}

impl Supervisor {
    /// Nothing runs yet.
    ///
    /// # Errors
    /// The list is broken.
    pub fn new(host: &str, services: Vec<Service>) -> Result<Self> {
        let plan = Plan::new(&services).map_err(|error| Error::Said(format!("{SERVICES}: {error}")))?;
        Ok(Self { host: host.to_owned(), services, plan, running: BTreeMap::new() })
    }

    /// Does what is due, until nothing is.
    pub fn run(&mut self) {
        loop {
            let actions = self.plan.actions(since_boot());
            if actions.is_empty() {
                return;
            }
            for action in actions {
                match action {
                    Action::Start(place) => self.start(place),
                    Action::Test(place) => {
                        let ready = self.services[place].ready.as_ref().is_none_or(is_ready);
                        self.plan.tested(place, ready, since_boot());
                    }
                    Action::Late(place) => console::error(&format!(
                        "service {} is not ready after {} s, still waiting for it",
                        self.services[place].name,
                        READY_LIMIT.as_secs()
                    )),
                }
            }
        }
    }

    fn start(&mut self, place: usize) {
        let service = &self.services[place];
        let program = Program {
            exec: &service.exec,
            uid: service.uid,
            gid: service.gid,
            host: &self.host,
            environment: &service.environment,
        };
        match process::start(&program) {
            Ok(pid) => {
                self.running.insert(pid, place);
                self.plan.started(place, since_boot());
            }
            Err(error) => self.report(place, false, &error.sentence()),
        }
    }

    /// A process of this machine ended; it may be a service.
    pub fn ended(&mut self, pid: Pid, exit: Exit) {
        if let Some(place) = self.running.remove(&pid) {
            self.report(place, exit.success(), &exit.to_string());
        }
    }

    /// Tells the plan of an end, and people if it was none that is wanted.
    fn report(&mut self, place: usize, success: bool, what: &str) {
        let next = self.plan.ended(place, success, since_boot());
        let name = &self.services[place].name;
        match next {
            Next::Done => {}
            Next::Again(pause) => {
                console::error(&format!("service {name} {what}, starting it again in {:.1} s", pause.as_secs_f64()));
            }
            Next::Never => {
                console::error(&format!("service {name} {what}, not starting it again; who waits for it never starts"));
            }
        }
    }

    /// Whether all are ready.
    pub fn all_ready(&self) -> bool {
        self.plan.all_ready()
    }

    /// When [`Self::run`] has something to do again.
    pub fn deadline(&self) -> Option<Duration> {
        self.plan.deadline()
    }

    /// Asks every service, with all that it started in its group, to stop.
    pub fn stop(&self) {
        for pid in self.running.keys() {
            // Either fails when the process ended meanwhile.
            let _ = killpg(*pid, Signal::SIGTERM).or_else(|_| kill(*pid, Signal::SIGTERM));
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
    use std::net::TcpListener;

    #[test]
    fn readiness_is_a_port_or_a_file() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(is_ready(&Ready::Port(port)));
        drop(listener);
        assert!(!is_ready(&Ready::Port(port)));
        assert!(is_ready(&Ready::File("/proc/self".to_owned())));
        assert!(!is_ready(&Ready::File("/nonexistent".to_owned())));
    }

    #[test]
    fn sysctls_are_files() {
        assert_eq!(sysctl_path("net.core.somaxconn"), "/proc/sys/net/core/somaxconn");
        assert_eq!(sysctl_path("net.ipv4.conf.eth0/10.forwarding"), "/proc/sys/net/ipv4/conf/eth0.10/forwarding");
    }

    #[test]
    fn directories_get_owner_and_mode() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a/b");
        let wanted = Directory { path: path.to_str().unwrap().to_owned(), uid: 33, gid: 34, mode: 0o2750 };
        for _ in 0..2 {
            directory(&wanted).unwrap();
            let metadata = fs::metadata(&path).unwrap();
            use std::os::unix::fs::MetadataExt;
            assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (33, 34, 0o2750));
        }
    }
}
