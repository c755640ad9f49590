//! Exports of NFS servers.

use std::time::Duration;

use anyhow::{Context, Result};
use thimble_spec::appliance::Storage;

use super::attempt::{Attempt, LOOK};

/// Those that are not mounted yet.
pub struct Exports(Vec<Attempt>);

impl Exports {
    /// All of them.
    pub fn new(storage: &Storage) -> Self {
        let new =
            |name: &String| Attempt::new("mount", name, format!("mount the export {name}"), format!("export {name}"));
        Self(storage.nfs.iter().map(|nfs| new(&nfs.name)).collect())
    }

    /// How long nothing has to be done, at most.
    pub fn pause(&self) -> Option<Duration> {
        (!self.0.is_empty()).then_some(LOOK)
    }

    /// Does what is due; says whether one was mounted.
    pub fn run(&mut self) -> bool {
        let before = self.0.len();
        self.0.retain_mut(|export| !export.run());
        self.0.len() < before
    }
}

/// Mounts one.
///
/// # Errors
/// There is none of this name, or the kernel refuses.
pub fn mount(storage: &Storage, name: &str) -> Result<()> {
    let nfs =
        storage.nfs.iter().find(|nfs| nfs.name == name).with_context(|| format!("no export {name} is declared"))?;
    Ok(thimble_storage::execute::mount_nfs(nfs)?)
}
