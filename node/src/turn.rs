//! The order in which the host starts its guests. What it goes by are the files that each guest has in its run directory: a daemon
//! that comes after another one finds them.

use std::time::Duration;

use thimble_spec::appliance::Guest;
use thimble_spec::vmm::READY_FILE;
use tokio::time::{Instant, sleep};

use crate::bid::{self, Bid};
use crate::plan::Place;
use crate::say;

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// How long one guest may hold up those behind it.
const LIMIT: Duration = Duration::from_secs(120);

/// Waits until the guests that `guest` starts after are ready, or will not be; then for as long as it says. Of all of them, the
/// limit is one.
pub async fn wait(guest: &Guest) {
    let deadline = Instant::now() + LIMIT;
    for other in &guest.start_after {
        let place = Place::of(other);
        while !is_over(&place) && Instant::now() < deadline {
            sleep(LOOK).await;
        }
        if !is_over(&place) {
            say::note(&format!("guest {}: starts although guest {other} is not ready after {LIMIT:?}", guest.name));
        }
    }
    sleep(Duration::from_secs(guest.start_delay_s.into())).await;
}

/// Nobody has to wait for a guest that is ready, has ended, or stays off.
fn is_over(place: &Place) -> bool {
    place.file(READY_FILE).exists() || Bid::read(place) == Some(Bid::Off) || bid::last_exit(place).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use thimble_spec::vmm::{EXIT_FILE, Exit, ExitReason};

    #[test]
    fn one_waits_for_those_that_come() {
        let run = tempfile::tempdir().unwrap();
        let place = Place { run: run.path().to_owned() };
        assert!(!is_over(&place));
        Bid::Again.write(&place).unwrap();
        assert!(!is_over(&place), "it is about to start");
        Bid::Off.write(&place).unwrap();
        assert!(is_over(&place));
        Bid::forget(&place);
        fs::write(place.file(EXIT_FILE), serde_json::to_vec(&Exit::new(ExitReason::PowerOff, 1.0)).unwrap()).unwrap();
        assert!(is_over(&place));
        bid::begin(&place);
        fs::write(place.file(READY_FILE), "").unwrap();
        assert!(is_over(&place));
    }
}
