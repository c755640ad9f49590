//! One error type for PID 1: a sentence. Nothing here is matched on; every error ends as a line on the console.

use std::error::Error as _;
use std::io;

use thiserror::Error;

/// What went wrong.
#[derive(Debug, Error)]
pub enum Error {
    /// A system call failed.
    #[error("cannot {doing}")]
    Os {
        /// What was being done, to what.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Something is not as it must be; the sentence says what to do about it.
    #[error("{0}")]
    Said(String),
}

/// Shorthand of the crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The error and what caused it, as one sentence.
    pub fn sentence(&self) -> String {
        match self.source() {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }

    /// The error number, when a system call failed.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Os { source, .. } => source.raw_os_error(),
            Self::Said(_) => None,
        }
    }
}

/// Says what was being done when a system call failed.
pub trait Doing<T> {
    /// `doing` completes "cannot ...".
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Os { doing: doing(), source: source.into() })
    }
}
