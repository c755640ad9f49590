//! iSCSI targets: logged in to, and again should a session have ended.

use std::time::{Duration, Instant};

use thimble_spec::appliance::Storage;
use thimble_storage::iscsi::{Link, Session, sessions};

use super::attempt::{Attempt, LOOK};
use super::system;
use crate::say;

/// Time between two looks at sessions.
const PAUSE: Duration = Duration::from_secs(2);

/// All of them.
pub struct Targets {
    targets: Vec<Target>,
    due: Instant,
}

struct Target {
    name: String,
    target: String,
    log_in: Attempt,
    away: bool,
}

impl Targets {
    /// All of them.
    pub fn new(storage: &Storage) -> Self {
        let targets = storage.iscsi.iter().map(|iscsi| Target {
            name: iscsi.name.clone(),
            target: iscsi.target.clone(),
            log_in: {
                let (step, what) =
                    (format!("log in to the iSCSI target {}", iscsi.name), format!("iSCSI target {}", iscsi.name));
                Attempt::new("log-in", &iscsi.name, step, what)
            },
            away: false,
        });
        Self { targets: targets.collect(), due: Instant::now() }
    }

    /// How long nothing has to be done, at most.
    pub fn pause(&self) -> Option<Duration> {
        (!self.targets.is_empty()).then_some(if self.tries() { LOOK } else { PAUSE })
    }

    /// Whether a process logs in just now.
    fn tries(&self) -> bool {
        self.targets.iter().any(|target| target.log_in.tries())
    }

    /// Does what is due.
    pub fn run(&mut self) {
        if self.targets.is_empty() || (!self.tries() && Instant::now() < self.due) {
            return;
        }
        self.due = Instant::now() + PAUSE;
        let sessions = sessions();
        for target in &mut self.targets {
            target.run(sessions.iter().find(|session| session.target == target.target));
        }
    }
}

impl Target {
    fn run(&mut self, session: Option<&Session>) {
        let name = &self.name;
        if session.is_none() || self.log_in.tries() {
            self.log_in.run();
        }
        match session.map(|session| session.link) {
            Some(Link::Away) if !self.away && !self.log_in.tries() => {
                say::error(&format!(
                    "storage: iSCSI target {name} is away: what is on it waits; look at it, and at the network"
                ));
                self.away = true;
            }
            Some(Link::Up) if self.away => {
                system::note(&format!("iSCSI target {name} is there again"));
                self.away = false;
            }
            _ => {}
        }
    }
}
