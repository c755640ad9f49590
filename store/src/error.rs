//! What can go wrong, in sentences' ends: the caller says which disk or file it was.

use std::io;

use thimble_spec::slot::Slot;
use thiserror::Error;

/// The store's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something was not done.
#[derive(Debug, Error)]
pub enum Error {
    /// The device.
    #[error("the boot partition cannot be {0}: {1}")]
    Device(&'static str, io::Error),
    /// The FAT, or what Thimble keeps in it.
    #[error("the boot partition is damaged: {0}")]
    Damaged(String),
    /// A sound FAT, but none with slots.
    #[error("there are no slots on it: {0}")]
    NoStore(String),
    /// A slot without a release.
    #[error("slot {0} is empty")]
    Empty(Slot),
    /// A slot whose objects are not what its release says.
    #[error("slot {slot} is damaged: {reason}")]
    Slot {
        /// Which.
        slot: Slot,
        /// What is wrong.
        reason: String,
    },
    /// More than there is room for.
    #[error(
        "the boot partition has no room for it: {needed} bytes are needed and {free} are free beside the good slot"
    )]
    Full {
        /// Bytes that would be written.
        needed: u64,
        /// Bytes that can be.
        free: u64,
    },
    /// The update is not what it should be: nothing of it will be started.
    #[error("the update is refused: {0}")]
    Refused(String),
    /// The update could not be read to its end.
    #[error("the update cannot be read: {0}")]
    Source(io::Error),
    /// The caller asked for what must not be.
    #[error("{0}")]
    Wrong(String),
    /// The caller's progress function asked to stop.
    #[error("stopped")]
    Stopped,
}

impl Error {
    pub(crate) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged(what.into())
    }
}
