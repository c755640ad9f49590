//! When each service starts, counts as ready and starts again: pure logic, told of events and the time.
//!
//! ```text
//!            after: all ready          its test passes (daemon)
//!   Waiting ----------------> Starting ------------------------> Ready
//!                               ^  |                              |
//!                               |  | it ends                      | it ends
//!                        pause  |  v                              v
//!                             Paused <-------- restart? ------> Done (well) or Failed
//! ```
//! A service that runs once is `Done` when it ended with 0; that is its way to be ready. One that is told to stop is
//! `Stopping` until it ended, killed if it takes too long, and then `Stopped`, or `Waiting` if it is to start again.

use std::time::Duration;

use thimble_spec::service::{Restart, Service, ServiceKind};

use crate::backoff::Backoff;

/// Between two tests of a service that is starting.
pub const TEST_INTERVAL: Duration = Duration::from_millis(10);
/// A service that is not ready, this long after its start or its last word, is complained about and tested more rarely.
pub const READY_LIMIT: Duration = Duration::from_secs(60);
/// A service that is told to stop may take so long.
pub const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Between two tests of a service that takes longer than [`READY_LIMIT`].
const SLOW_TEST_INTERVAL: Duration = Duration::from_secs(1);

/// What a service does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// For others.
    Waiting,
    /// It runs, and is not ready.
    Starting {
        /// Since when.
        since: Duration,
        /// When it said something last, or was started.
        heard: Duration,
        /// When it is tested again.
        test_at: Duration,
        /// Whether it was complained about.
        late: bool,
    },
    /// It runs and is ready.
    Ready {
        /// When it was started.
        since: Duration,
    },
    /// It ended and is started again at this time.
    Paused {
        /// When.
        until: Duration,
    },
    /// It ended well and stays so.
    Done,
    /// It ended badly and stays so.
    Failed,
    /// It was told to stop; only a host tells single ones.
    #[cfg_attr(not(feature = "host"), allow(dead_code))]
    Stopping {
        /// Whether it is started again then.
        again: bool,
        /// When it is killed.
        kill_at: Duration,
    },
    /// It was told to stop, and did.
    Stopped,
}

/// What is to be done now. Numbers are places in the list of services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start it, and say [`Plan::started`] or [`Plan::ended`].
    Start(usize),
    /// Test whether it is ready, and say [`Plan::tested`].
    Test(usize),
    /// Complain that it is not ready yet.
    Late(usize),
    /// Kill it: it was told to stop, and did not.
    Kill(usize),
}

/// What follows from an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is started again after this pause.
    Again(Duration),
    /// It ended as it should.
    Done,
    /// It stays away.
    Never,
}

/// One service of the plan.
struct Unit {
    after: Vec<usize>,
    kind: ServiceKind,
    restart: Restart,
    tested: bool,
    state: State,
    backoff: Backoff,
}

/// All services.
#[derive(Default)]
pub struct Plan {
    units: Vec<Unit>,
}

impl Plan {
    /// A plan in which everything waits.
    ///
    /// # Errors
    /// A sentence: an `after` that names no service before it (so there is no circle), a service without a program.
    pub fn new(services: &[Service]) -> Result<Self, String> {
        let mut units = Vec::with_capacity(services.len());
        for (place, service) in services.iter().enumerate() {
            let earlier = |name: &String| {
                services[..place].iter().position(|other| other.name == *name).ok_or_else(|| {
                    format!("service {} comes after {name}, which is not before it in the list", service.name)
                })
            };
            if !service.exec.first().is_some_and(|program| program.starts_with('/')) {
                return Err(format!("service {} names no program with its absolute path", service.name));
            }
            units.push(Unit {
                after: service.after.iter().map(earlier).collect::<Result<_, _>>()?,
                kind: service.kind,
                restart: service.restart,
                tested: service.ready.is_some(),
                state: State::Waiting,
                backoff: Backoff::default(),
            });
        }
        Ok(Self { units })
    }

    /// What is to be done at `now`.
    pub fn actions(&mut self, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        for place in 0..self.units.len() {
            let free = self.units[place].after.iter().all(|other| self.units[*other].is_ready());
            let tested = self.units[place].tested;
            match &mut self.units[place].state {
                State::Waiting if free => actions.push(Action::Start(place)),
                State::Paused { until } if *until <= now => actions.push(Action::Start(place)),
                State::Starting { heard, test_at, late, .. } => {
                    if !*late && now >= *heard + READY_LIMIT {
                        *late = true;
                        actions.push(Action::Late(place));
                    }
                    if tested && *test_at <= now {
                        actions.push(Action::Test(place));
                    }
                }
                State::Stopping { kill_at, .. } if *kill_at <= now => {
                    // And again, should it be in a system call that cannot be interrupted.
                    *kill_at = now + STOP_LIMIT;
                    actions.push(Action::Kill(place));
                }
                _ => {}
            }
        }
        actions
    }

    /// It runs.
    pub fn started(&mut self, place: usize, now: Duration) {
        let unit = &mut self.units[place];
        unit.state = if unit.kind == ServiceKind::Daemon && !unit.tested {
            State::Ready { since: now }
        } else {
            State::Starting { since: now, heard: now, test_at: now, late: false }
        };
    }

    /// It was tested.
    pub fn tested(&mut self, place: usize, ready: bool, now: Duration) {
        let unit = &mut self.units[place];
        let State::Starting { since, heard, late, .. } = unit.state else { return };
        unit.state = if ready && unit.kind == ServiceKind::Daemon {
            State::Ready { since }
        } else {
            let interval = if late { SLOW_TEST_INTERVAL } else { TEST_INTERVAL };
            State::Starting { since, heard, test_at: now + interval, late }
        };
    }

    /// It said something: it is at work.
    #[cfg(any(feature = "host", test))]
    pub fn heard(&mut self, place: usize, now: Duration) {
        if let State::Starting { heard, .. } = &mut self.units[place].state {
            *heard = now;
        }
    }

    /// It ended, or could not be started.
    pub fn ended(&mut self, place: usize, success: bool, now: Duration) -> Next {
        let unit = &mut self.units[place];
        if let State::Stopping { again, .. } = unit.state {
            unit.state = if again { State::Waiting } else { State::Stopped };
            return Next::Done;
        }
        let lived = match unit.state {
            State::Starting { since, .. } | State::Ready { since } => now.saturating_sub(since),
            _ => Duration::ZERO,
        };
        let again = match (unit.kind, unit.restart) {
            (_, Restart::Never) => false,
            (ServiceKind::Daemon, Restart::Always) => true,
            (_, Restart::Always | Restart::OnFailure) => !success,
        };
        if again {
            let pause = unit.backoff.after(lived);
            unit.state = State::Paused { until: now + pause };
            Next::Again(pause)
        } else if success {
            unit.state = State::Done;
            Next::Done
        } else {
            unit.state = State::Failed;
            Next::Never
        }
    }

    /// It is to stop, and to start again if `again`; says whether it runs and must be told.
    #[cfg(any(feature = "host", test))]
    pub fn stop(&mut self, place: usize, again: bool, now: Duration) -> bool {
        let unit = &mut self.units[place];
        let runs = matches!(unit.state, State::Starting { .. } | State::Ready { .. });
        unit.state = match unit.state {
            State::Stopping { kill_at, .. } => State::Stopping { again, kill_at },
            _ if runs => State::Stopping { again, kill_at: now + STOP_LIMIT },
            _ if again => State::Waiting,
            _ => State::Stopped,
        };
        unit.backoff = Backoff::default();
        runs
    }

    /// It is to run, whatever became of it before.
    #[cfg(any(feature = "host", test))]
    pub fn start(&mut self, place: usize) {
        let unit = &mut self.units[place];
        unit.state = match unit.state {
            State::Starting { .. } | State::Ready { .. } => return,
            State::Stopping { kill_at, .. } => State::Stopping { again: true, kill_at },
            _ => State::Waiting,
        };
        unit.backoff = Backoff::default();
    }

    /// What it does.
    #[cfg(any(feature = "host", test))]
    pub fn state(&self, place: usize) -> State {
        self.units[place].state
    }

    /// Whether every service is ready or done.
    pub fn all_ready(&self) -> bool {
        self.units.iter().all(Unit::is_ready)
    }

    /// When there is something to do again if nothing happens before.
    pub fn deadline(&self) -> Option<Duration> {
        let of = |unit: &Unit| match unit.state {
            State::Paused { until } => Some(until),
            State::Stopping { kill_at, .. } => Some(kill_at),
            State::Starting { test_at, .. } if unit.tested => Some(test_at),
            State::Starting { heard, late: false, .. } => Some(heard + READY_LIMIT),
            _ => None,
        };
        self.units.iter().filter_map(of).min()
    }
}

impl Unit {
    fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready { .. } | State::Done)
    }
}

#[cfg(test)]
mod tests;
