//! What may be used by now: the storage service writes it for those who wait.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::plan::Plan;
use crate::{Result, doing};

/// Where things stand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Declared devices and mounts that may be used.
    pub ready: Vec<String>,
    /// All that can be done was done once: what is not ready by now needs somebody.
    pub settled: bool,
}

impl State {
    /// What a plan says; `settled` is not lost again.
    pub fn of(plan: &Plan, settled: bool) -> Self {
        Self { ready: plan.ready.clone(), settled }
    }

    /// Whether a declared device or mount may be used.
    pub fn has(&self, path: &str) -> bool {
        self.ready.iter().any(|ready| ready == path)
    }

    /// The same while a device is not to be used.
    pub fn without(mut self, path: &str) -> Self {
        self.ready.retain(|ready| ready != path);
        self
    }

    /// Reads it; nothing is ready where there is none.
    pub fn read(path: &Path) -> Self {
        fs::read(path).ok().and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
    }

    /// Writes it, in one step.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let what = || format!("write {}", path.display());
        let beside = path.with_extension("new");
        let json = doing(serde_json::to_vec(self), what)?;
        doing(fs::write(&beside, json).and_then(|()| fs::rename(&beside, path)), what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nonsense_is_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        assert_eq!(State::read(&path), State::default());
        let state = State { ready: vec!["/dev/md/a".to_owned()], settled: true };
        state.write(&path).unwrap();
        assert_eq!(State::read(&path), state);
        assert!(State::read(&path).has("/dev/md/a") && !State::read(&path).has("/dev/md"));
        assert!(!State::read(&path).without("/dev/md/a").has("/dev/md/a"));
        fs::write(&path, "{").unwrap();
        assert_eq!(State::read(&path), State::default());
    }
}
