//! What an administrator wants to come after a guest's end, where that is not what the guest's end itself says. It is kept
//! in the guest's run directory, so that the next daemon knows it; it is forgotten when the host ends.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use thimble_spec::appliance::Guest;
use thimble_spec::vmm::{EXIT_FILE, Exit, ExitReason};

use crate::launch;
use crate::plan::Place;
use crate::policy::{Next, Policy};

/// The file.
pub const BID_FILE: &str = "bid";
/// A file that says: an administrator suspended the guest.
pub const SUSPENDED: &str = "suspended";

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bid {
    /// It stays off.
    Off,
    /// It is started again.
    Again,
}

impl Bid {
    fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Again => "again",
        }
    }

    /// What is wanted of the guest in this place.
    pub fn read(place: &Place) -> Option<Self> {
        let word = fs::read_to_string(place.file(BID_FILE)).ok()?;
        [Self::Off, Self::Again].into_iter().find(|bid| bid.word() == word)
    }

    /// Remembers it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(self, place: &Place) -> Result<()> {
        // A guest that never ran has none yet.
        fs::create_dir_all(&place.run).with_context(|| format!("making {}", place.run.display()))?;
        launch::write_whole(&place.file(BID_FILE), self.word().as_bytes())
    }

    /// A guest of this name begins: nothing of another one that had it before is left, and it stays off until it is asked for,
    /// whichever daemon comes to know of it first.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn begins(guest: &str) -> Result<()> {
        let place = Place::of(guest);
        let _ = fs::remove_dir_all(&place.run);
        Self::Off.write(&place)
    }

    /// Forgets what was wanted.
    pub fn forget(place: &Place) {
        let _ = fs::remove_file(place.file(BID_FILE));
    }
}

/// What comes after an end. A guest that reset itself, rather than power off, does not stay off; and one that failed is not
/// started at once.
pub fn after(bid: Option<Bid>, reason: &ExitReason, policy: impl FnOnce() -> Next) -> Next {
    match (bid, reason) {
        (Some(Bid::Off), ExitReason::Reboot) => policy(),
        (Some(Bid::Off), _) => Next::StayOff,
        (Some(Bid::Again), ExitReason::PowerOff | ExitReason::Killed | ExitReason::Reboot) => {
            Next::Start(Duration::ZERO)
        }
        _ => policy(),
    }
}

/// Whether it is the host that starts a guest, and not its last end that leads to a start or an administrator.
pub fn is_of_the_host(place: &Place) -> bool {
    last_exit(place).is_none() && Bid::read(place).is_none() && !launch::was_started(place)
}

/// How the last life of the guest ended, if it is known.
pub fn last_exit(place: &Place) -> Option<Exit> {
    serde_json::from_slice(&fs::read(place.file(EXIT_FILE)).ok()?).ok()
}

/// Whether a guest that does not run is to be started when a daemon begins to keep it: what its last end leads to, if it ran
/// on this host already, else what its definition says.
pub fn wanted(place: &Place, guest: &Guest) -> bool {
    let bid = Bid::read(place);
    match last_exit(place) {
        Some(exit) => {
            let policy = || Policy::default().after(guest.restart, &exit.reason, Duration::ZERO);
            after(bid, &exit.reason, policy) != Next::StayOff
        }
        None if bid == Some(Bid::Off) => false,
        // It was about to start, or its VMM vanished; or that is what is wanted; or it never ran.
        None => launch::was_started(place) || bid == Some(Bid::Again) || guest.autostart,
    }
}

/// The guest is to be started as if it had never run: its last end does not count any more.
pub fn begin(place: &Place) {
    for file in [EXIT_FILE, BID_FILE] {
        let _ = fs::remove_file(place.file(file));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_spec::appliance::GuestRestart;

    #[test]
    fn the_next_daemon_does_what_this_one_would_have_done() {
        let run = tempfile::tempdir().unwrap();
        let place = Place { run: run.path().to_owned() };
        let wanted = |place: &Place, autostart| {
            wanted(place, &Guest { autostart, ..crate::testing::guest("memory = \"64MiB\"") })
        };
        assert!(wanted(&place, true) && !wanted(&place, false), "it never ran");

        let ended = |reason| fs::write(place.file(EXIT_FILE), serde_json::to_vec(&Exit::new(reason, 1.0)).unwrap());
        ended(ExitReason::PowerOff).unwrap();
        assert!(!wanted(&place, true), "it powered itself off");
        Bid::Again.write(&place).unwrap();
        assert!(wanted(&place, false), "a reboot was asked for");
        Bid::Off.write(&place).unwrap();
        ended(ExitReason::TripleFault).unwrap();
        assert!(!wanted(&place, true), "it was to end");
        ended(ExitReason::Reboot).unwrap();
        assert!(wanted(&place, true), "it did not");
        Bid::forget(&place);
        ended(ExitReason::Lost).unwrap();
        assert!(wanted(&place, false), "it crashed while nobody looked");
        begin(&place);
        assert!(wanted(&place, true) && !wanted(&place, false));
        Bid::Off.write(&place).unwrap();
        assert!(!wanted(&place, true), "its start was called off");
        Bid::Again.write(&place).unwrap();
        assert!(wanted(&place, false), "its start was asked for");
    }

    #[test]
    fn a_start_that_fails_is_not_tried_at_once_again() {
        let failed = ExitReason::Error("no memory".to_owned());
        let policy = || Policy::default().after(GuestRestart::OnFailure, &failed, Duration::ZERO);
        let next = after(Some(Bid::Again), &failed, policy);
        assert!(matches!(next, Next::Start(pause) if !pause.is_zero()), "{next:?}");
    }
}
