//! What follows when a guest ends. A pure function of why it ended and how often it failed of late.

use std::time::Duration;

use thimble_spec::appliance::GuestRestart;
use thimble_spec::vmm::ExitReason;

/// Pause before the first start after a failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A guest that ran this long is taken for sound: its failures are forgotten.
const SOUND_AFTER: Duration = Duration::from_secs(120);

/// What to do with a guest that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Start it after this time.
    Start(Duration),
    /// Leave it off.
    StayOff,
}

/// The memory of a guest's failures.
#[derive(Debug, Default)]
pub struct Policy {
    failures: u32,
}

impl Policy {
    /// Decides about a guest that ended for `reason` after it ran for `uptime`, and is to be started again by its definition
    /// when that says so.
    ///
    /// Who was ended by an administrator stays off; a reboot is a start at once; everything else may be followed by a start
    /// with a growing pause. Unless something else is declared, who powered itself off stays off, and a failure is followed by a
    /// start, for a host that gives up on a guest serves nobody.
    pub fn after(&mut self, restart: GuestRestart, reason: &ExitReason, uptime: Duration) -> Next {
        if uptime >= SOUND_AFTER {
            self.failures = 0;
        }
        match (reason, restart) {
            (ExitReason::Reboot, _) => {
                self.failures = 0;
                Next::Start(Duration::ZERO)
            }
            (ExitReason::Killed, _) | (_, GuestRestart::Never) => Next::StayOff,
            (ExitReason::PowerOff, GuestRestart::OnFailure) => Next::StayOff,
            (ExitReason::PowerOff | ExitReason::TripleFault | ExitReason::Error(_) | ExitReason::Lost, _) => {
                let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16)).min(LONGEST_PAUSE);
                self.failures = self.failures.saturating_add(1);
                Next::Start(pause)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_spec::appliance::GuestRestart::{Always, Never, OnFailure};

    #[test]
    fn a_guest_that_wants_to_be_off_is_off() {
        let mut policy = Policy::default();
        for reason in [ExitReason::PowerOff, ExitReason::Killed] {
            assert_eq!(policy.after(OnFailure, &reason, Duration::from_secs(1)), Next::StayOff);
        }
        assert_eq!(policy.after(Always, &ExitReason::Killed, Duration::ZERO), Next::StayOff);
        assert_eq!(policy.after(Always, &ExitReason::PowerOff, Duration::ZERO), Next::Start(FIRST_PAUSE));
    }

    #[test]
    fn a_reboot_starts_at_once_however_often() {
        let mut policy = Policy::default();
        for _ in 0..5 {
            assert_eq!(policy.after(Never, &ExitReason::Reboot, Duration::ZERO), Next::Start(Duration::ZERO));
        }
    }

    #[test]
    fn failures_are_spaced_out_and_forgotten() {
        let mut policy = Policy::default();
        let pauses: Vec<Next> =
            (0..9).map(|_| policy.after(OnFailure, &ExitReason::TripleFault, Duration::ZERO)).collect();
        assert_eq!(pauses[..3], [500, 1000, 2000].map(|ms| Next::Start(Duration::from_millis(ms))));
        assert_eq!(pauses[8], Next::Start(LONGEST_PAUSE));
        assert_eq!(policy.after(OnFailure, &ExitReason::Lost, SOUND_AFTER), Next::Start(FIRST_PAUSE));
        assert_eq!(policy.after(Never, &ExitReason::Lost, SOUND_AFTER), Next::StayOff);
    }
}
