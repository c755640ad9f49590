//! One apply: by one process at a time, each step told before it is taken.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use thimble_spec::appliance::Storage;
use thimble_spec::console::{SENTENCE_MAX, one_line};
use thimble_spec::paths::{RUN_DIR, STORAGE_STATE};
use thimble_storage::apply::{self, Outcome, System};
use thimble_storage::execute::execute;
use thimble_storage::observe::observe;
use thimble_storage::observed::Observed;
use thimble_storage::plan::Plan;
use thimble_storage::state::State;
use thimble_storage::step::Step;

use crate::say;

/// How long disks that are missing may take to come before arrays start without them: controllers spin their disks up one
/// after the other.
const SETTLE: Duration = Duration::from_secs(10);

/// The host itself.
struct Host<'a> {
    storage: &'a Storage,
    settled: bool,
    each_look: &'a mut dyn FnMut(),
}

impl System for Host<'_> {
    fn observe(&mut self) -> thimble_storage::Result<Observed> {
        observe(self.storage)
    }

    fn execute(&mut self, step: &Step) -> thimble_storage::Result<()> {
        execute(self.storage, step)
    }

    fn tell(&mut self, step: &Step) {
        tell(step);
    }

    fn planned(&mut self, plan: &Plan) {
        if let Err(error) = State::of(plan, self.settled).write(Path::new(STORAGE_STATE)) {
            say::error(&format!("storage: {error}"));
        }
        (self.each_look)();
    }
}

/// Tells that a step is about to be taken; a name is nobody's news.
pub fn tell(step: &Step) {
    if !matches!(step, Step::Name { .. }) {
        note(&step.to_string());
    }
}

/// Tells people.
pub fn note(text: &str) {
    say::print(&format!("storage: {}", one_line(text, SENTENCE_MAX)));
}

/// Waits until no other process changes the storage; none does as long as the file is open.
///
/// # Errors
/// It cannot be made.
pub fn lock() -> Result<File> {
    let file = lock_file()?;
    file.lock().context("locking the host's storage")?;
    Ok(file)
}

/// The file that is locked.
///
/// # Errors
/// It cannot be made.
pub fn lock_file() -> Result<File> {
    fs::create_dir_all(RUN_DIR).with_context(|| format!("making {RUN_DIR}"))?;
    let path = Path::new(RUN_DIR).join("storage.lock");
    File::create(&path).with_context(|| format!("making {}", path.display()))
}

/// Makes the storage what is declared, as far as it can be. `settled` is what programs are told meanwhile; afterwards it is.
/// `each_look` is called often: it takes seconds at least where disks are missing.
///
/// # Errors
/// The host cannot be looked at.
pub fn apply(storage: &Storage, settled: bool, each_look: &mut dyn FnMut()) -> Result<Outcome> {
    let _lock = lock()?;
    apply_in_turn(storage, settled, each_look)
}

/// The same, of somebody who has locked it.
///
/// # Errors
/// The host cannot be looked at.
pub fn apply_in_turn(storage: &Storage, settled: bool, each_look: &mut dyn FnMut()) -> Result<Outcome> {
    let outcome = apply::apply(storage, &mut Host { storage, settled, each_look }, SETTLE)?;
    let path = Path::new(STORAGE_STATE);
    State { settled: true, ..State::read(path) }.write(path)?;
    Ok(outcome)
}
