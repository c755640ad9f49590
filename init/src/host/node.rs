//! The node daemon: one child, started again whenever it ends. The guests' VMMs are its children and become PID 1's when
//! it dies; nobody here touches them.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use thimble_spec::host::{ServiceState, ServiceStatus};
use thimble_spec::paths::{NODE, NODE_READY, RUN_DIR};

use super::journal::{Echo, Journal};
use crate::backoff::Backoff;
use crate::console;
use crate::error::{Doing, Result};
use crate::process::{self, Exit, Program, Streams};

/// Its name among the services and in the log.
pub const NAME: &str = "node";

/// What the daemon does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is started at this time.
    Paused {
        /// When.
        until: Duration,
    },
    /// It runs.
    Running {
        /// Its process.
        pid: Pid,
        /// Since when.
        since: Duration,
    },
    /// It is not started any more.
    Off,
}

/// When the daemon is started: pure logic.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Where things stand.
    pub state: State,
    backoff: Backoff,
}

impl Policy {
    /// It starts at once.
    pub fn new() -> Self {
        Self { state: State::Paused { until: Duration::ZERO }, backoff: Backoff::default() }
    }

    /// Whether it should be started at `now`.
    pub fn due(&self, now: Duration) -> bool {
        matches!(self.state, State::Paused { until } if until <= now)
    }

    /// It ended, or could not be started; gives back the pause until it is started again, if it is.
    pub fn ended(&mut self, now: Duration) -> Option<Duration> {
        let lived = match self.state {
            State::Off => return None,
            State::Running { since, .. } => now.saturating_sub(since),
            State::Paused { .. } => Duration::ZERO,
        };
        let pause = self.backoff.after(lived);
        self.state = State::Paused { until: now + pause };
        Some(pause)
    }
}

/// The daemon and its sign of readiness.
pub struct Node {
    policy: Policy,
    stopping: bool,
    frozen: bool,
    /// When it was started or ended the last time.
    changed: Duration,
    starts: u32,
    last_exit: Option<String>,
    watch: Option<Inotify>,
}

impl Node {
    /// Ready to be started.
    pub fn new() -> Self {
        let watch = watch().map_err(|error| console::failed(&error)).ok();
        let (changed, starts, last_exit) = (Duration::ZERO, 0, None);
        Self { policy: Policy::new(), stopping: false, frozen: false, changed, starts, last_exit, watch }
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<Pid> {
        match self.policy.state {
            State::Running { pid, .. } => Some(pid),
            _ => None,
        }
    }

    /// Starts it if that is due.
    pub fn run(&mut self, host: &str, journal: &mut Journal, now: Duration) {
        if !self.policy.due(now) {
            return;
        }
        let _ = fs::remove_file(NODE_READY);
        self.changed = now;
        self.starts = self.starts.saturating_add(1);
        match launch(host, journal) {
            Ok(pid) => {
                self.policy.state = State::Running { pid, since: now };
                if self.frozen {
                    self.signal(Signal::SIGSTOP);
                }
            }
            Err(error) => self.report(&error.sentence(), now),
        }
    }

    /// A process ended; it may be the daemon.
    pub fn ended(&mut self, pid: Pid, exit: Exit, now: Duration) {
        if self.pid() != Some(pid) {
            return;
        }
        self.changed = now;
        self.last_exit = Some(exit.to_string());
        if self.stopping && exit.success() {
            self.retire();
        } else {
            self.report(&format!("the node daemon {exit}"), now);
        }
    }

    fn report(&mut self, what: &str, now: Duration) {
        match self.policy.ended(now) {
            Some(pause) => console::error(&format!("{what}, starting it again in {:.1} s", pause.as_secs_f64())),
            None => console::notice(what),
        }
    }

    /// For whoever asks.
    pub fn status(&self) -> ServiceStatus {
        let state = match self.policy.state {
            State::Running { .. } if self.stopping => ServiceState::Stopping,
            State::Running { .. } if self.is_ready() => ServiceState::Ready,
            State::Running { .. } => ServiceState::Starting,
            State::Paused { .. } => ServiceState::Paused,
            State::Off => ServiceState::Stopped,
        };
        ServiceStatus {
            name: NAME.to_owned(),
            state,
            pid: self.pid().map(Pid::as_raw),
            since_s: self.changed.as_secs_f64(),
            restarts: self.starts.saturating_sub(1),
            last_exit: self.last_exit.clone(),
            memory: None,
        }
    }

    /// When [`Self::run`] has something to do.
    pub fn deadline(&self) -> Option<Duration> {
        match self.policy.state {
            State::Paused { until } => Some(until),
            _ => None,
        }
    }

    /// Takes the events about its sign off the queue: they only wake PID 1 up, what counts is the file.
    pub fn drain(&self) {
        if let Some(watch) = &self.watch {
            while watch.read_events().is_ok() {}
        }
    }

    /// Whether it has done its start-up.
    pub fn is_ready(&self) -> bool {
        self.pid().is_some() && Path::new(NODE_READY).exists()
    }

    /// Its sign's descriptor.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().map(AsFd::as_fd)
    }

    /// Sends a signal to the daemon alone.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            let _ = kill(pid, signal);
        }
    }

    /// For tests: from now on it is there and does nothing.
    pub fn freeze(&mut self) {
        self.frozen = true;
        self.signal(Signal::SIGSTOP);
    }

    /// From now on it is started again only if it fails.
    pub fn stop_for_good(&mut self) {
        self.stopping = true;
    }

    /// From now on it is not started again.
    pub fn retire(&mut self) {
        self.policy.state = State::Off;
    }

    /// Whether it has ended and is not started again.
    pub fn is_off(&self) -> bool {
        self.policy.state == State::Off
    }
}

/// Its lines go through the log to the console; if that cannot be, straight to the console.
fn launch(host: &str, journal: &mut Journal) -> Result<Pid> {
    let (exec, environment) = ([NODE.to_owned()], BTreeMap::new());
    let pipe = journal.pipe(NAME, Echo::Console).map_err(|error| console::failed(&error)).ok();
    let streams = pipe.as_ref().map_or(Streams::Console, |pipe| Streams::Pipe(pipe.as_fd()));
    process::start(&Program { exec: &exec, uid: 0, gid: 0, host, environment: &environment, streams, group: None })
}

fn watch() -> Result<Inotify> {
    let watch = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).doing(|| "open inotify".to_owned())?;
    watch
        .add_watch(RUN_DIR, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO)
        .doing(|| format!("watch {RUN_DIR}"))?;
    Ok(watch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_again_with_growing_pauses_until_it_is_retired() {
        let seconds = Duration::from_secs;
        let mut policy = Policy::new();
        assert!(policy.due(Duration::ZERO));
        policy.state = State::Running { pid: Pid::from_raw(7), since: seconds(1) };
        assert!(!policy.due(seconds(2)));
        assert_eq!(policy.ended(seconds(2)), Some(Duration::from_millis(100)));
        assert!(!policy.due(seconds(2)));
        assert!(policy.due(seconds(3)));
        assert_eq!(policy.ended(seconds(3)), Some(Duration::from_millis(200)), "it could not be started");
        policy.state = State::Running { pid: Pid::from_raw(8), since: seconds(10) };
        assert_eq!(policy.ended(seconds(40)), Some(Duration::from_millis(100)), "it had lived long");
        policy.state = State::Off;
        assert_eq!(policy.ended(seconds(41)), None);
        assert!(!policy.due(seconds(99)));
    }
}
