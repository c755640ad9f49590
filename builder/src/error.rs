//! What can go wrong, told in a sentence: what was being done, to what, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use thimble_spec::definition::Mistakes;
use thimble_spec::units::ByteSize;
use thiserror::Error;

/// The builder's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a verb did not do its work.
#[derive(Debug, Error)]
pub enum Error {
    /// The definition, a recipe, a fragment or a hardware set is wrong: each mistake with its file, line and key.
    #[error("{0}")]
    Definition(Mistakes),
    /// The command line asks for something that cannot be: a directory that is no directory, a file that is not there.
    #[error("{0}")]
    Usage(String),
    /// This machine, or what was found on it, does not allow it.
    #[error("{0}")]
    Environment(String),
    /// A file could not be read or written.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// The verb: `read`, `write`, `rename`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// An external program failed.
    #[error("`{command}` failed ({status}){}{}", indented(said), full_log(log.as_deref()))]
    Tool {
        /// Program and arguments, shortened.
        command: String,
        /// How it ended.
        status: String,
        /// Last lines of what it said.
        said: String,
        /// Everything that it said.
        log: Option<PathBuf>,
    },
    /// `flash.img` would be larger than the definition allows.
    #[error(
        "{place}: the appliance needs {needed} bytes and the budget is {budget} ({} bytes): {} bytes too many\n{ledger}",
        budget.bytes(), needed.saturating_sub(budget.bytes())
    )]
    Budget {
        /// Where the budget stands: file, line and key as far as they are known.
        place: String,
        /// The budget.
        budget: ByteSize,
        /// What would be needed.
        needed: u64,
        /// Who spends each byte, a line each.
        ledger: String,
    },
    /// A machine did not say in time what was waited for.
    #[error("{0}")]
    TimeLimit(String),
    /// A machine ended before it said what was waited for.
    #[error("{0}")]
    MachineEnded(String),
    /// The user asked to stop while a disk was written: nothing but writing it again makes it whole.
    #[error("{0}")]
    HalfWritten(String),
    /// The user, or the machine on its way down, asked to stop.
    #[error("interrupted: nothing half-done is left behind")]
    Interrupted,
}

impl Error {
    /// The code that the process ends with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Definition(_) | Self::Usage(_) => 2,
            Self::Environment(_) | Self::Io { .. } | Self::Tool { .. } | Self::Budget { .. } => 1,
            Self::TimeLimit(_) => 3,
            Self::MachineEnded(_) => 4,
            Self::HalfWritten(_) | Self::Interrupted => 130,
        }
    }

    /// For `map_err`: `doing` (a verb) went wrong with `path`.
    pub fn io(doing: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.as_ref().to_owned(), source }
    }

    /// A sentence about this machine or what was found on it.
    pub fn environment(sentence: impl Into<String>) -> Self {
        Self::Environment(sentence.into())
    }
}

fn indented(said: &str) -> String {
    let lines = said.lines().map(|line| format!("\n    {line}"));
    if said.is_empty() { String::new() } else { format!(":{}", lines.collect::<String>()) }
}

fn full_log(log: Option<&Path>) -> String {
    log.map(|log| format!("\n  the whole of what it said: {}", log.display())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_tool_is_told_with_its_last_words() {
        let error = Error::Tool {
            command: "mkfs.erofs -x".to_owned(),
            status: "exit code 1".to_owned(),
            said: "first\nsecond".to_owned(),
            log: Some("/c/logs/mkfs.erofs.log".into()),
        };
        assert_eq!(
            error.to_string(),
            "`mkfs.erofs -x` failed (exit code 1):\n    first\n    second\n  \
             the whole of what it said: /c/logs/mkfs.erofs.log"
        );
        assert_eq!(error.exit_code(), 1);
        assert_eq!(Error::Interrupted.exit_code(), 130);
    }
}
