//! Exports of NFS servers: mounted by a process of their own each, for one whose server is away waits for it and can be ended
//! by force only.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use thimble_spec::appliance::Storage;
use thimble_spec::paths::NODE;

use super::system;
use crate::say;

/// Time between two looks at processes that mount.
const LOOK: Duration = Duration::from_millis(500);
/// Time between two tries.
const PAUSE: Duration = Duration::from_secs(10);

/// An export that is not mounted yet.
struct Export {
    name: String,
    child: Option<Child>,
    due: Instant,
    told: Option<String>,
}

/// Those that are not mounted yet.
pub struct Exports(Vec<Export>);

impl Exports {
    /// All of them.
    pub fn new(storage: &Storage) -> Self {
        let new = |name: &String| Export { name: name.clone(), child: None, due: Instant::now(), told: None };
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

impl Export {
    /// Says whether it is mounted now.
    fn run(&mut self) -> bool {
        if let Some(child) = &mut self.child {
            match child.try_wait() {
                Ok(None) => return false,
                Ok(Some(status)) if status.success() => return true,
                _ => {
                    let mut text = String::new();
                    let _ = child.stderr.take().map(|mut pipe| pipe.read_to_string(&mut text));
                    let text = text.trim().trim_start_matches("thimble: error ").to_owned();
                    self.failed(text);
                }
            }
        }
        if self.due <= Instant::now() {
            system::note(&format!("mount the export {}", self.name));
            let mut command = Command::new(NODE);
            command.args(["storage", "mount", &self.name]).stdin(Stdio::null()).stdout(Stdio::null());
            match command.stderr(Stdio::piped()).spawn() {
                Ok(child) => self.child = Some(child),
                Err(error) => self.failed(format!("{NODE} does not start: {error}")),
            }
        }
        false
    }

    fn failed(&mut self, sentence: String) {
        (self.child, self.due) = (None, Instant::now() + PAUSE);
        if self.told.as_ref() != Some(&sentence) {
            say::error(&format!("storage: export {}: {sentence}; it is tried again until it is there", self.name));
            self.told = Some(sentence);
        }
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
