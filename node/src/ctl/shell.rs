//! `thimblectl completion`.

use std::io::stdout;

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use super::failure::Failure;
use super::words::Cli;

/// Prints what a shell needs.
#[expect(clippy::unnecessary_wraps, reason = "as all words do")]
pub fn completion(shell: Shell) -> Result<(), Failure> {
    generate(shell, &mut Cli::command(), "thimblectl", &mut stdout());
    Ok(())
}
