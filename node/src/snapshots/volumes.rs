//! Snapshots of thin volumes: LVM's own, made in a moment ([`thimble_storage::snapshots`]).

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use thimble_spec::api::snapshot::{Moment, Snapshot};
use thimble_spec::appliance::{Appliance, Storage};
use thimble_spec::paths::STORAGE_STATE;
use thimble_storage::snapshots::{Report, Thin};
use thimble_storage::state::State;

use crate::say;
use crate::storage::Turn;

/// A thin volume of a node.
#[derive(Clone, Debug)]
pub struct Volume {
    appliance: Arc<Appliance>,
    thin: Thin,
}

/// One that is being kept. Dropped before it is whole, nothing is left of it.
#[derive(Debug)]
pub struct Part {
    of: Volume,
    turn: Turn,
    whole: (String, Moment),
    is_there: bool,
}

impl Volume {
    /// The one at a path, if that is one.
    pub fn at(appliance: &Arc<Appliance>, path: &str) -> Option<Self> {
        let thin = Thin::at(&appliance.storage, path)?;
        Some(Self { appliance: Arc::clone(appliance), thin })
    }

    fn storage(&self) -> &Storage {
        &self.appliance.storage
    }

    /// Its snapshots, oldest first.
    ///
    /// # Errors
    /// LVM does not tell.
    pub fn list(&self) -> Result<Vec<Snapshot>> {
        Ok(self.thin.look()?.snapshots())
    }

    /// Its turn, with nothing left of what was cut off before.
    fn turn(&self, goes_on: &dyn Fn() -> bool) -> Result<(Turn, Report)> {
        let turn = Turn::take(goes_on)?;
        let report = self.thin.look()?;
        let report = if report.is_unsettled() { self.settle(&turn)? } else { report };
        Ok((turn, report))
    }

    /// Ends what was begun.
    fn settle(&self, turn: &Turn) -> Result<Report> {
        let problems = turn.settle(self.storage())?.problems;
        let (path, report) = (self.thin.path(), self.thin.look()?);
        let is_whole = State::read(Path::new(STORAGE_STATE)).has(&path) && !report.is_unsettled();
        ensure!(is_whole, "{path} is not whole, see thimble-node storage: {}", problems.join("; "));
        Ok(report)
    }

    fn find(&self, report: &Report, name: &str) -> Result<Snapshot> {
        let found = report.snapshots().into_iter().find(|it| it.name == name);
        found.with_context(|| format!("{} has no snapshot {name} any more", self.thin.path()))
    }

    /// All that can take long, before the guest stands still.
    ///
    /// # Errors
    /// Its pool is full; the storage is being changed; it was given up.
    pub fn prepare(&self, name: &str, goes_on: &dyn Fn() -> bool) -> Result<Part> {
        let (turn, report) = self.turn(goes_on)?;
        report.has_room()?;
        Ok(Part { of: self.clone(), turn, whole: (name.to_owned(), Moment::Off), is_there: false })
    }

    /// It is what it was. What is cut off from the second step on is ended by whoever looks at the storage next, and guests wait
    /// for that.
    ///
    /// # Errors
    /// It was given up before that; it cannot be done: it is as it is now then, or what it was.
    pub fn revert(&self, name: &str, goes_on: &dyn Fn() -> bool) -> Result<()> {
        let (turn, report) = self.turn(goes_on)?;
        let steps = self.thin.revert(&self.find(&report, name)?);
        ensure!(goes_on(), "given up");
        turn.withdraw(&self.thin.path())?;
        let begun = steps.iter().try_for_each(|step| turn.step(self.storage(), step));
        // In any case: the volume has its name again then.
        let settled = self.settle(&turn);
        begun.and(settled.map(drop))
    }

    /// Takes one away.
    ///
    /// # Errors
    /// It stays.
    pub fn remove(&self, name: &str) -> Result<()> {
        let (turn, report) = self.turn(&|| true)?;
        turn.step(self.storage(), &self.thin.remove(&self.find(&report, name)?))
    }
}

impl Part {
    /// Keeps the volume as it is now.
    ///
    /// # Errors
    /// LVM cannot.
    pub fn fill(&mut self, moment: Moment) -> Result<()> {
        self.whole.1 = moment;
        // What LVM could not end may be there, too.
        self.is_there = true;
        self.turn.step(self.of.storage(), &self.of.thin.keep())
    }

    /// It is whole.
    ///
    /// # Errors
    /// LVM cannot give it its name.
    pub fn finish(mut self) -> Result<()> {
        let (name, moment) = &self.whole;
        self.turn.step(self.of.storage(), &self.of.thin.kept(name, *moment))?;
        self.is_there = false;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.is_there
            && let Err(error) = self.turn.step(self.of.storage(), &self.of.thin.forget())
        {
            // Whoever looks at the storage next takes it away.
            say::note(&format!("storage: {error:#}"));
        }
    }
}
