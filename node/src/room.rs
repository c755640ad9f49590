//! Guests whose host has no room for what they write: the VMM lets their requests wait, and the guest is paused, so that none
//! of its programs gives up meanwhile. It goes on by itself as soon as there is room.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use thimble_spec::appliance::Guest;
use thimble_spec::vmm::{Answer, Verb};
use tokio::time::{Instant, sleep_until};

use crate::bid::SUSPENDED;
use crate::control::Control;
use crate::guest::command;
use crate::plan::{self, Place};
use crate::say;
use crate::still::STILL;

/// A file that says: the guest is paused for want of room. A daemon that adopts the guest lets it go on.
pub const PAUSED: &str = "paused.room";

/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(5);

/// Whether a guest waits, looked at every few seconds.
pub struct Room {
    guest: String,
    /// Its disk on the host; a guest without one needs no room.
    disk: Option<String>,
    due: Instant,
}

impl Room {
    /// Looked at soon.
    pub fn new(guest: &Guest) -> Self {
        let disk = plan::own_disk(guest).map(|path| path.display().to_string());
        Self { guest: guest.name.clone(), disk, due: Instant::now() + INTERVAL }
    }

    /// Waits until it is time to look, looks, and pauses the guest or lets it go on; cancel-safe until it looks.
    pub async fn look(&mut self, socket: &Path) {
        let Some(disk) = &self.disk else { return std::future::pending().await };
        sleep_until(self.due).await;
        self.due = Instant::now() + INTERVAL;
        // A VMM that is about to end answers nobody.
        let Ok(waits) = waits(socket).await else { return };
        let mark = Place::of(&self.guest).file(PAUSED);
        if waits == mark.exists() {
            return;
        }
        let verb = if waits { Verb::Pause } else { Verb::Resume };
        // Whom an administrator suspended stays so, and one whose disk is being copied.
        let held = !waits && [SUSPENDED, STILL].iter().any(|mark| Place::of(&self.guest).file(mark).exists());
        if !held && let Err(error) = command(socket, verb).await {
            return say::note(&format!("guest {}: {verb:?}: {error:#}", self.guest));
        }
        let marked = if waits { File::create(&mark).map(drop) } else { fs::remove_file(&mark) };
        if let Err(error) = marked {
            say::error(&format!("{}: {error}", mark.display()));
        }
        if waits {
            say::error(&format!(
                "guest {} is paused: there is no room for what it writes to {disk}; make room, and it goes on by itself",
                self.guest
            ));
        } else {
            say::note(&format!("guest {} goes on: there is room again", self.guest));
        }
    }
}

/// Whether any request waits for room.
async fn waits(socket: &Path) -> Result<bool> {
    match Control::connect(socket).await?.ask(Verb::Stats).await? {
        Answer::Stats(stats) => Ok(stats.disks.iter().any(|disk| disk.waiting > 0)),
        _ => bail!("not an answer"),
    }
}
