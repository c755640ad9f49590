//! Guests that stand still while their disk is copied: their processors are stopped, for a limited time.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use thimble_spec::vmm::Verb;
use tokio::time::{Instant, sleep_until};

use crate::bid::SUSPENDED;
use crate::guest::{Keeper, command};
use crate::plan::Place;
use crate::room::PAUSED;
use crate::say;

/// A file that says: the guest stands still for a copy of its disk. Without it, it has not stood still all the time.
pub const STILL: &str = "still";

/// How long a guest stands still at most. Who copies a disk gives up before.
const LIMIT: Duration = Duration::from_secs(35);

impl Keeper {
    /// Stops the guest's processors.
    ///
    /// # Errors
    /// Its VMM refuses.
    pub async fn stand_still(&mut self, socket: &Path) -> Result<(), String> {
        let mark = Place::of(&self.guest.name).file(STILL);
        // Before it is done: whichever daemon finds it lets the guest go on.
        File::create(&mark).map_err(|error| format!("writing {}: {error}", mark.display()))?;
        self.still_until = Some(Instant::now() + LIMIT);
        let done = command(socket, Verb::Pause).await;
        if done.is_err() {
            let _ = self.go_on(socket).await;
        }
        done.map_err(|error| format!("guest {}: {error:#}", self.guest.name))
    }

    /// Lets them go on, unless they are stopped for another reason.
    ///
    /// # Errors
    /// It went on before, or its VMM refuses.
    pub async fn go_on(&mut self, socket: &Path) -> Result<(), String> {
        let place = Place::of(&self.guest.name);
        self.still_until = None;
        if fs::remove_file(place.file(STILL)).is_err() {
            return Err(format!("guest {} went on meanwhile", self.guest.name));
        }
        if [SUSPENDED, PAUSED].iter().any(|mark| place.file(mark).exists()) {
            return Ok(());
        }
        command(socket, Verb::Resume).await.map_err(|error| format!("guest {}: {error:#}", self.guest.name))
    }

    /// Of a daemon that was killed in the middle: nobody makes that copy any more.
    pub async fn left_still(&mut self, socket: &Path) {
        if Place::of(&self.guest.name).file(STILL).exists() {
            let went = self.go_on(socket).await;
            say::note(&went.map_or_else(|why| why, |()| format!("guest {} goes on: it stood still", self.guest.name)));
            let _ = command(socket, Verb::Thaw).await;
        }
    }
}

/// Waits until a guest has stood still for too long.
pub async fn over(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}
