//! Why something was not done, and the exit code that says so.

use std::fmt;
use std::process::ExitCode;

/// A failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    code: u8,
    sentence: String,
    stale: bool,
}

impl Failure {
    /// It was refused, or did not come about.
    pub fn failed(sentence: String) -> Self {
        Self { code: 1, sentence, stale: false }
    }

    /// The command line is wrong.
    pub fn usage(sentence: String) -> Self {
        Self { code: 2, ..Self::failed(sentence) }
    }

    /// It did not come about in time.
    pub fn late(sentence: &str) -> Self {
        Self { code: 3, ..Self::failed(sentence.to_owned()) }
    }

    /// There is no node to ask.
    pub fn nobody(sentence: String) -> Self {
        Self { code: 4, ..Self::failed(sentence) }
    }

    /// It did not come to run, and this is the status for that.
    pub fn status(code: u8, sentence: String) -> Self {
        Self { code, ..Self::failed(sentence) }
    }

    /// The same, for whom other statuses are those of a command.
    #[must_use]
    pub fn of_command(self) -> Self {
        Self { code: self.code.max(125), ..self }
    }

    /// It was refused, for somebody else was faster.
    pub fn stale(sentence: String) -> Self {
        Self { stale: true, ..Self::failed(sentence) }
    }

    /// Whether somebody else was faster.
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// Whether there was no node to ask.
    pub fn is_nobody(&self) -> bool {
        self.code == 4
    }

    /// For the shell.
    pub fn code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}
