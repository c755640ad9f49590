//! The health gate: whether the slot of the flash disk that this host came from works, and what follows.
//!
//! ```text
//!              trial: the guests are ready
//!              else: the host is up            written
//!  [Waiting] ----------------------------> [Confirming] -------> [Closed]
//!      |                                       |   ^
//!      | trial: time is up                     |   | a pause
//!      v                                       v   |
//!   [Closed], and the host starts again <--- [Paused]
//!                           trial: time is up
//! ```
//!
//! A host that came from elsewhere has no slot and no gate. The release that is on trial has to show that its guests get
//! ready; the one that was good before only tells the boot loader, as soon as the host is up, that it started, and never
//! ends the host. The writing is a child's work.

use std::path::Path;
use std::time::Duration;

use nix::unistd::Pid;
use thimble_spec::appliance::Appliance;
use thimble_spec::paths::{GIVEN_UP, GUEST_RUN_DIR, GUESTS_READY, NODE};
use thimble_spec::slot::Origin;
use thimble_spec::vmm::READY_FILE;

use super::{Announcement, Host};
use crate::clock::since_boot;
use crate::console;
use crate::power::Ending;
use crate::process::{self, Exit};

/// Time between two tries to write.
const PAUSE: Duration = Duration::from_secs(10);
/// So often a slot that is not on trial is confirmed at most; the boot loader only counts one more start otherwise.
const TRIES: u32 = 3;

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Wait,
    /// Start the child that writes.
    Confirm,
    /// Say what was not ready, and start the host again.
    GiveUp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Confirming(Pid),
    Paused(Duration),
    Closed,
}

/// The gate: pure logic.
#[derive(Clone, Copy, Debug)]
pub struct Gate {
    origin: Origin,
    /// Of a trial: when it is over.
    end: Option<Duration>,
    state: State,
    tries: u32,
}

impl Gate {
    /// Of a host that came from `origin`, whose guests may take until `limit` after the start.
    pub fn new(origin: Origin, limit: Duration) -> Self {
        Self { origin, end: origin.trial.then_some(limit), state: State::Waiting, tries: 0 }
    }

    /// What to do at `now`: whether the host is `up`, and all its guests are `ready`.
    pub fn step(&self, now: Duration, up: bool, ready: bool) -> Step {
        let due = match self.state {
            State::Closed => return Step::Wait,
            State::Confirming(_) => false,
            State::Waiting => up && (ready || self.end.is_none()),
            State::Paused(until) => until <= now,
        };
        match self.end {
            Some(end) if end <= now => Step::GiveUp,
            _ if due => Step::Confirm,
            _ => Step::Wait,
        }
    }

    /// The child was started, or could not be.
    pub fn started(&mut self, child: Option<Pid>, now: Duration) {
        self.tries += 1;
        match child {
            Some(pid) => self.state = State::Confirming(pid),
            None => self.pause(now),
        }
    }

    /// A process ended; it may be the child.
    pub fn ended(&mut self, pid: Pid, exit: Exit, now: Duration) {
        if self.state == State::Confirming(pid) {
            if exit.success() { self.close() } else { self.pause(now) }
        }
    }

    fn pause(&mut self, now: Duration) {
        let over = self.end.is_none() && self.tries >= TRIES;
        self.state = if over { State::Closed } else { State::Paused(now + PAUSE) };
    }

    /// There is nothing to do any more.
    pub fn close(&mut self) {
        self.state = State::Closed;
    }

    /// When [`Self::step`] has something to do, if nothing else happens.
    pub fn deadline(&self) -> Option<Duration> {
        match self.state {
            State::Closed => None,
            State::Paused(until) => Some(self.end.map_or(until, |end| end.min(until))),
            State::Waiting | State::Confirming(_) => self.end,
        }
    }
}

impl Host<'_> {
    /// Does what the gate says; says how the machine should end, if it gives the slot up.
    pub fn pass_gate(&mut self) -> Option<Ending> {
        let now = since_boot();
        let (host, gate) = (&self.appliance, self.gate.as_mut()?);
        let up = self.announcement == Announcement::Made;
        match gate.step(now, up, Path::new(GUESTS_READY).exists()) {
            Step::Wait => None,
            Step::Confirm => {
                let exec = [NODE, "confirm"].map(str::to_owned);
                let child = process::start_as_root(&exec, &host.name);
                gate.started(child.map_err(|error| console::failed(&error)).ok(), now);
                None
            }
            Step::GiveUp => {
                gate.close();
                let sentence = given_up(&gate.origin, host, Path::new(GUEST_RUN_DIR));
                console::error(&sentence);
                // For whoever comes after us; without a data partition the console has said it.
                let _ = std::fs::write(GIVEN_UP, format!("{sentence}\n"));
                Some(Ending::Reboot)
            }
        }
    }
}

/// Why a slot is given up: one sentence.
fn given_up(origin: &Origin, appliance: &Appliance, run: &Path) -> String {
    let ready = |name: &str| run.join(name).join(READY_FILE).exists();
    let guests = appliance.guests.iter().filter(|guest| guest.autostart && !ready(&guest.name));
    let late: Vec<&str> = guests.map(|guest| guest.name.as_str()).collect();
    let who = match late[..] {
        [] => "it could not be confirmed".to_owned(),
        [guest] => format!("guest {guest} was not ready"),
        _ => format!("guests {} were not ready", late.join(", ")),
    };
    let (slot, seconds) = (origin.slot, appliance.update.ready_within_s);
    format!("slot {slot} is given up: {who} within {seconds} s of the start; the host starts again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use thimble_spec::slot::{Slot, VolumeId};

    const LIMIT: Duration = Duration::from_secs(60);
    const CHILD: Pid = Pid::from_raw(7);

    fn gate(trial: bool) -> Gate {
        Gate::new(Origin { slot: Slot::B, volume: VolumeId(1), trial }, LIMIT)
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_trial_is_confirmed_when_the_guests_are_ready() {
        let mut gate = gate(true);
        assert_eq!(gate.deadline(), Some(LIMIT));
        assert_eq!(gate.step(seconds(5), true, false), Step::Wait);
        assert_eq!(gate.step(seconds(5), false, true), Step::Wait);
        assert_eq!(gate.step(seconds(6), true, true), Step::Confirm);
        gate.started(Some(CHILD), seconds(6));
        assert_eq!(gate.step(seconds(7), true, true), Step::Wait);
        gate.ended(Pid::from_raw(8), Exit::Code(0), seconds(7));
        assert_eq!(gate.deadline(), Some(LIMIT));
        gate.ended(CHILD, Exit::Code(0), seconds(7));
        assert_eq!((gate.deadline(), gate.step(LIMIT * 2, true, false)), (None, Step::Wait));
    }

    #[test]
    fn a_trial_whose_guests_are_late_is_given_up_whatever_else_goes_on() {
        for (up, ready) in [(false, false), (true, false)] {
            assert_eq!(gate(true).step(LIMIT, up, ready), Step::GiveUp);
        }
        let mut gate = gate(true);
        gate.started(Some(CHILD), seconds(50));
        assert_eq!(gate.step(LIMIT, true, true), Step::GiveUp, "a child that hangs");
        gate.ended(CHILD, Exit::Code(1), seconds(51));
        assert_eq!(gate.deadline(), Some(LIMIT), "the pause would last longer");
        gate.close();
        assert_eq!(gate.step(LIMIT, true, true), Step::Wait);
    }

    #[test]
    fn a_good_slot_tells_that_it_started_and_never_ends_the_host() {
        let mut gate = gate(false);
        assert_eq!((gate.deadline(), gate.step(LIMIT * 9, false, false)), (None, Step::Wait));
        assert_eq!(gate.step(seconds(5), true, false), Step::Confirm);
        gate.started(Some(CHILD), seconds(5));
        gate.ended(CHILD, Exit::Signal(9), seconds(6));
        assert_eq!(gate.step(seconds(6), true, false), Step::Wait);
        assert_eq!(gate.deadline(), Some(seconds(6) + PAUSE));
        assert_eq!(gate.step(seconds(6) + PAUSE, true, false), Step::Confirm);
        gate.started(None, seconds(20));
        gate.started(None, seconds(40));
        assert_eq!((gate.deadline(), gate.step(LIMIT * 9, true, false)), (None, Step::Wait), "enough tries");
    }

    #[test]
    fn the_guests_that_were_not_ready_are_named() {
        let run = tempfile::tempdir().unwrap();
        let text = include_str!("../../../configs/demo.toml");
        let mut appliance = thimble_spec::definition::parse("demo.toml", text).unwrap().appliance;
        appliance.update.ready_within_s = 60;
        let origin = gate(true).origin;
        let told = || given_up(&origin, &appliance, run.path());
        let end = "within 60 s of the start; the host starts again";
        assert_eq!(told(), format!("slot b is given up: guests web1, web2 were not ready {end}"));
        for guest in ["web1", "web2"] {
            std::fs::create_dir(run.path().join(guest)).unwrap();
        }
        std::fs::write(run.path().join("web1").join(READY_FILE), "").unwrap();
        assert_eq!(told(), format!("slot b is given up: guest web2 was not ready {end}"));
        std::fs::write(run.path().join("web2").join(READY_FILE), "").unwrap();
        assert_eq!(told(), format!("slot b is given up: it could not be confirmed {end}"));
    }

    proptest! {
        #[test]
        fn a_good_slot_is_never_given_up_and_a_late_trial_always(
            trial: bool,
            turns in proptest::collection::vec((0u64..30, any::<bool>(), any::<bool>(), 0u8..4), 0..40),
        ) {
            let (mut gate, mut now, mut confirmed) = (gate(trial), Duration::ZERO, false);
            for (pause, up, ready, event) in turns {
                now += seconds(pause);
                match gate.step(now, up, ready) {
                    Step::GiveUp => {
                        prop_assert!(trial && now >= LIMIT && !confirmed);
                        return Ok(());
                    }
                    Step::Confirm => gate.started((event > 0).then_some(CHILD), now),
                    Step::Wait => prop_assert!(confirmed || !trial || now < LIMIT),
                }
                confirmed |= event == 1 && matches!(gate.state, State::Confirming(_));
                match event {
                    1 => gate.ended(CHILD, Exit::Code(0), now),
                    2 => gate.ended(CHILD, Exit::Code(1), now),
                    _ => {}
                }
            }
        }
    }
}
