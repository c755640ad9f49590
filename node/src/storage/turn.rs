//! A turn at the host's storage, for what somebody asks for while it is kept: nobody else changes it meanwhile, nor plans.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use thimble_spec::appliance::Storage;
use thimble_spec::paths::{STORAGE_SETTLED, STORAGE_STATE};
use thimble_storage::apply::Outcome;
use thimble_storage::execute::execute;
use thimble_storage::state::State;
use thimble_storage::step::Step;

use super::system;
use crate::say;

/// How long somebody else may have it: a disk of many terabytes is formatted within that, or the node's first boot goes on.
const LIMIT: Duration = Duration::from_secs(60);
/// Time between two looks whether it is free.
const INTERVAL: Duration = Duration::from_millis(50);

/// A turn; it ends with this.
#[derive(Debug)]
pub struct Turn {
    _lock: File,
}

impl Turn {
    /// Waits for it, as long as it `goes_on`.
    ///
    /// # Errors
    /// Somebody else has it for too long; it was given up.
    pub fn take(goes_on: &dyn Fn() -> bool) -> Result<Self> {
        let file = system::lock_file()?;
        let end = Instant::now() + LIMIT;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _lock: file }),
                Err(TryLockError::Error(error)) => return Err(error).context("locking the host's storage"),
                Err(TryLockError::WouldBlock) => {}
            }
            ensure!(goes_on(), "given up");
            if Instant::now() >= end {
                bail!("the host's storage is being changed for more than {} s: try again", LIMIT.as_secs());
            }
            sleep(INTERVAL);
        }
    }

    /// Tells of a step, and takes it.
    ///
    /// # Errors
    /// It cannot be done.
    pub fn step(&self, storage: &Storage, step: &Step) -> Result<()> {
        system::tell(step);
        execute(storage, step).with_context(|| step.to_string())
    }

    /// Guests that need it wait from now on until the storage is looked at again.
    ///
    /// # Errors
    /// That cannot be told.
    pub fn withdraw(&self, path: &str) -> Result<()> {
        let state = Path::new(STORAGE_STATE);
        Ok(State::read(state).without(path).write(state)?)
    }

    /// Makes the storage what is declared, what was cut off included.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn settle(&self, storage: &Storage) -> Result<Outcome> {
        system::apply_in_turn(storage, true, &mut || {})
    }
}

/// What a daemon that was killed has left of snapshots. What the host was doing when its power failed is the storage service's,
/// which looks before anybody uses it.
pub fn clear_up(storage: &Storage) {
    let has_thin = storage.groups.iter().flat_map(|group| &group.volumes).any(|volume| volume.kind.is_thin());
    if has_thin && Path::new(STORAGE_SETTLED).exists() {
        let settled = Turn::take(&|| true).and_then(|turn| turn.settle(storage));
        if let Err(error) = settled {
            say::error(&format!("storage: {error:#}"));
        }
    }
}
