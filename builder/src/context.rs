//! What every phase of a build has at hand.

use crate::cache::Cache;
use crate::error::Result;
use crate::progress::Progress;

/// Where things are kept and how progress is told.
#[derive(Debug)]
pub struct Context {
    /// What was made before.
    pub cache: Cache,
    /// What the user sees.
    pub progress: Progress,
}

impl Context {
    /// The user's cache, and progress on standard error.
    ///
    /// # Errors
    /// There is no place for the cache.
    pub fn open(quiet: bool) -> Result<Self> {
        Ok(Self { cache: Cache::open()?, progress: Progress::new(quiet) })
    }
}
