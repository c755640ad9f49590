//! When the node daemon is killed for its silence, and when the watchdog is not petted any more: pure logic.
//!
//! ```text
//!            silent for the limit            silent for the limit again
//!  [heard] -----------------------> [killed] -------------------------> [starving]
//!     ^                                |  ^                                 |
//!     +--- heard for the limit, too ---+  +-------- it says something ------+
//! ```
//! A daemon that says something at each start and then nothing more is not well: one sign does not undo the kill.

use std::time::Duration;

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Pet the watchdog.
    Fine,
    /// Kill the node daemon, which is started again, and pet the watchdog.
    Kill,
    /// Say that nothing helped; the watchdog is not petted from now on.
    GiveUp,
    /// Do not pet it.
    Starve,
}

/// The node daemon's signs.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    limit: Duration,
    /// None before it was started for the first time.
    heard: Option<Duration>,
    killed: Option<Duration>,
    /// The first sign after the kill.
    back: Option<Duration>,
    gave_up: bool,
}

impl Policy {
    /// Of a daemon that may be silent for `limit`.
    pub fn new(limit: Duration) -> Self {
        Self { limit, heard: None, killed: None, back: None, gave_up: false }
    }

    /// It said that it is well, or was started for the first time.
    pub fn heard(&mut self, now: Duration) {
        self.heard = Some(now);
        self.gave_up = false;
        if self.killed.is_some() {
            let back = *self.back.get_or_insert(now);
            if now.saturating_sub(back) >= self.limit {
                (self.killed, self.back) = (None, None);
            }
        }
    }

    /// It was started: the first one has its time from then on.
    pub fn started(&mut self, now: Duration) {
        if self.heard.is_none() {
            self.heard(now);
        }
    }

    /// What to do.
    pub fn step(&mut self, now: Duration) -> Step {
        let silent = self.heard.max(self.killed).is_some_and(|since| now.saturating_sub(since) >= self.limit);
        if !silent {
            return Step::Fine;
        }
        if self.killed.is_none() {
            self.killed = Some(now);
            return Step::Kill;
        }
        self.back = None;
        if std::mem::replace(&mut self.gave_up, true) { Step::Starve } else { Step::GiveUp }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_silent_daemon_is_killed_first_and_then_the_dog_starves() {
        let mut policy = Policy::new(LIMIT);
        assert_eq!(policy.step(seconds(500)), Step::Fine, "it was not started yet");
        policy.started(seconds(500));
        assert_eq!(policy.step(seconds(509)), Step::Fine);
        assert_eq!(policy.step(seconds(510)), Step::Kill);
        policy.started(seconds(511));
        assert_eq!(policy.step(seconds(519)), Step::Fine);
        assert_eq!(policy.step(seconds(520)), Step::GiveUp);
        assert_eq!(policy.step(seconds(521)), Step::Starve);
        policy.heard(seconds(522));
        assert_eq!(policy.step(seconds(523)), Step::Fine);
        assert_eq!(policy.step(seconds(532)), Step::GiveUp, "it was not well for long");
    }

    #[test]
    fn one_that_is_well_only_at_its_start_is_not_well() {
        let mut policy = Policy::new(LIMIT);
        policy.started(seconds(0));
        assert_eq!(policy.step(seconds(10)), Step::Kill);
        policy.heard(seconds(11));
        assert_eq!(policy.step(seconds(20)), Step::Fine);
        assert_eq!(policy.step(seconds(21)), Step::GiveUp);
    }

    #[test]
    fn one_that_is_well_for_a_while_is_forgiven() {
        let mut policy = Policy::new(LIMIT);
        policy.started(seconds(0));
        assert_eq!(policy.step(seconds(10)), Step::Kill);
        for now in [11, 16, 21] {
            policy.heard(seconds(now));
        }
        assert_eq!(policy.step(seconds(30)), Step::Fine);
        assert_eq!(policy.step(seconds(31)), Step::Kill);
    }

    proptest! {
        #[test]
        fn one_that_is_heard_in_time_is_left_alone(pauses in prop::collection::vec(0u64..10_000, 0..100)) {
            let (mut policy, mut now) = (Policy::new(LIMIT), Duration::ZERO);
            policy.started(now);
            for pause in pauses {
                now += Duration::from_millis(pause);
                prop_assert_eq!(policy.step(now), Step::Fine);
                policy.heard(now);
            }
        }
    }
}
