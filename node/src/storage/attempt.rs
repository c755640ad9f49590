//! What is tried by a process of its own until it is so: one whose server is away waits for it, and can be ended by force only.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use thimble_spec::paths::NODE;

use super::system;
use crate::say;

/// Time between two looks at processes that try.
pub const LOOK: Duration = Duration::from_millis(500);
/// Time between two tries.
const PAUSE: Duration = Duration::from_secs(10);

/// Something that is not so yet.
pub struct Attempt {
    words: [String; 2],
    step: String,
    what: String,
    child: Option<Child>,
    due: Instant,
    told: Option<String>,
}

impl Attempt {
    /// `thimble-node storage VERB NAME`, told as `step`; what fails is told of `what`.
    pub fn new(verb: &str, name: &str, step: String, what: String) -> Self {
        Self { words: [verb, name].map(str::to_owned), step, what, child: None, due: Instant::now(), told: None }
    }

    /// Whether a process tries just now.
    pub fn tries(&self) -> bool {
        self.child.is_some()
    }

    /// Does what is due; says whether it is so now.
    pub fn run(&mut self) -> bool {
        if let Some(child) = &mut self.child {
            match child.try_wait() {
                Ok(None) => return false,
                Ok(Some(status)) if status.success() => {
                    (self.child, self.told) = (None, None);
                    return true;
                }
                _ => {
                    let mut text = String::new();
                    let _ = child.stderr.take().map(|mut pipe| pipe.read_to_string(&mut text));
                    let text = text.trim().trim_start_matches("thimble: error ").to_owned();
                    self.failed(text);
                }
            }
        }
        if self.due <= Instant::now() {
            if self.told.is_none() {
                system::note(&self.step);
            }
            let mut command = Command::new(NODE);
            command.arg("storage").args(&self.words).stdin(Stdio::null()).stdout(Stdio::null());
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
            say::error(&format!("storage: {}: {sentence}; it is tried again until it is there", self.what));
            self.told = Some(sentence);
        }
    }
}
