//! The log.

use thimble_spec::host::{Answer, LogsVerb};

use super::Done;
use crate::host::Host;

impl Host<'_> {
    /// Lines of the log.
    pub fn obey_logs(&self, asked: &LogsVerb) -> Done {
        Ok(Answer::Logs(self.journal.answer(asked)))
    }
}
