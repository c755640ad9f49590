//! The host's storage: what the definition says of disks, made so, kept so, shown.
//!
//! | file | what |
//! | --- | --- |
//! | `keep` | the service that PID 1 starts: applies, watches, applies again |
//! | `system` | one apply, by one process at a time |
//! | `watch` | what the kernel says of disks and arrays |
//! | `attempt` | what is tried by a process of its own until it is so |
//! | `exports` | exports of NFS servers |
//! | `targets` | iSCSI targets |
//! | `show` | what people are told |
//! | `turn` | one turn of somebody else at it |
//! | `wait` | guests whose disk is on it |

mod attempt;
mod exports;
mod keep;
mod show;
mod system;
mod targets;
mod turn;
pub mod wait;
mod watch;

use std::path::Path;

use anyhow::{Result, bail};
use thimble_spec::appliance::{Appliance, Storage};
use thimble_spec::paths::APPLIANCE;
use thimble_storage::observe::observe;
use thimble_storage::plan::{Patience, plan};
use thimble_storage::status::status;
use thimble_storage::{end, iscsi, repair};

use crate::cli::Options;
use crate::say;
pub use turn::{Turn, clear_up};

/// What is asked, as the command line has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// How it is.
    Status {
        /// For programs.
        json: bool,
    },
    /// What would be done.
    Plan {
        /// For programs.
        json: bool,
    },
    /// Do it.
    Apply,
    /// Do it, and again when something changes: PID 1 starts it.
    Keep,
    /// Take it down: PID 1, when the host ends.
    End,
    /// Mount an export: the service, for a server may let it wait.
    Mount(String),
    /// Log in to an iSCSI target: the service, too.
    LogIn(String),
    /// Become the daemon that keeps the sessions with them: PID 1 starts it.
    Initiator,
    /// Read an array as a whole.
    Scrub(String),
    /// Start an array with what is there of it.
    Force(String),
    /// Put another device in a member's place.
    Replace {
        /// The array.
        array: String,
        /// The member, or `missing`.
        old: String,
        /// The other device.
        new: String,
    },
}

impl Ask {
    /// Reads the words behind `storage`, and takes the options.
    ///
    /// # Errors
    /// A sentence.
    pub fn parse(words: &[&str], options: &mut Options<'_>) -> Result<Self, String> {
        Ok(match *words {
            [] | ["status"] => Self::Status { json: options.flag("--json") },
            ["plan"] => Self::Plan { json: options.flag("--json") },
            ["apply"] => Self::Apply,
            ["keep"] => Self::Keep,
            ["end"] => Self::End,
            ["mount", name] => Self::Mount(name.to_owned()),
            ["log-in", name] => Self::LogIn(name.to_owned()),
            ["initiator"] => Self::Initiator,
            ["scrub", array] => Self::Scrub(array.to_owned()),
            ["force", array] => Self::Force(array.to_owned()),
            ["replace", array, old, new] => {
                Self::Replace { array: array.to_owned(), old: old.to_owned(), new: new.to_owned() }
            }
            [verb @ ("scrub" | "force"), ..] => return Err(format!("{verb} takes the name of an array")),
            ["replace", ..] => {
                return Err(
                    "replace takes the name of an array, a member of it (or `missing`), and what takes its place"
                        .to_owned(),
                );
            }
            _ => return Err("storage takes status, plan, apply, scrub, replace or force".to_owned()),
        })
    }
}

/// How it is, a line for each thing; nothing where none is declared.
///
/// # Errors
/// It cannot be looked at.
pub fn status_text() -> Result<String> {
    let storage = crate::node::appliance(Path::new(APPLIANCE))?.storage;
    if storage == Storage::default() {
        return Ok(String::new());
    }
    Ok(show::status(&status(&storage, &observe(&storage)?)?))
}

/// Does what is asked.
///
/// # Errors
/// It cannot be done.
pub fn run(ask: &Ask) -> Result<()> {
    let Appliance { storage, name: host, .. } = crate::node::appliance(Path::new(APPLIANCE))?;
    match ask {
        Ask::Status { json } => {
            let status = status(&storage, &observe(&storage)?)?;
            if *json { println!("{}", serde_json::to_string(&status)?) } else { print!("{}", show::status(&status)) }
        }
        Ask::Plan { json } => {
            let plan = plan(&storage, &observe(&storage)?, Patience::Over);
            if *json { println!("{}", serde_json::to_string(&plan)?) } else { print!("{}", show::plan(&plan)) }
        }
        Ask::Apply => apply(&storage)?,
        Ask::Keep => keep::run(&storage)?,
        Ask::End => end::end(&storage, &host).iter().for_each(|error| say::error(&format!("storage: {error}"))),
        Ask::Mount(name) => exports::mount(&storage, name)?,
        Ask::LogIn(name) => iscsi::log_in(&storage, name)?,
        Ask::Initiator => iscsi::become_daemon(&storage, &host)?,
        Ask::Scrub(array) => repair::scrub(&storage, &observe(&storage)?, array)?,
        Ask::Force(array) => {
            {
                let _lock = system::lock()?;
                repair::force(&storage, array, &mut |step| system::tell(step))?;
            }
            // What is on it has its turn: the service looks when disks come, and none did.
            system::apply(&storage, true, &mut || {})?;
        }
        Ask::Replace { array, old, new } => {
            let _lock = system::lock()?;
            let mut tell = |step: &_| system::tell(step);
            repair::replace(&storage, &observe(&storage)?, array, old, new, &mut tell)?;
        }
    }
    Ok(())
}

/// By hand: all that is left is told.
fn apply(storage: &Storage) -> Result<()> {
    let outcome = system::apply(storage, true, &mut || {})?;
    for sentence in outcome.problems.iter().chain(&outcome.waiting) {
        say::error(&format!("storage: {sentence}"));
    }
    outcome.held.iter().for_each(|sentence| system::note(sentence));
    if !outcome.problems.is_empty() || !outcome.waiting.is_empty() {
        bail!("storage is not as declared: see above");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_understood_and_mistakes_named() {
        let parse =
            |line: &str| Ask::parse(&line.split_ascii_whitespace().collect::<Vec<_>>(), &mut Options::default());
        assert_eq!(parse(""), Ok(Ask::Status { json: false }));
        assert_eq!(parse("scrub data"), Ok(Ask::Scrub("data".to_owned())));
        let [array, old, new] = ["data", "missing", "/dev/vdd"].map(str::to_owned);
        assert_eq!(parse("replace data missing /dev/vdd"), Ok(Ask::Replace { array, old, new }));
        assert_eq!(parse("force data"), Ok(Ask::Force("data".to_owned())));
        assert!(
            parse("force").is_err()
                && parse("replace data a").is_err()
                && parse("scrub").is_err()
                && parse("explode").is_err()
        );
    }
}
