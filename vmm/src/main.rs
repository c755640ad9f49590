//! `thimble-vmm`: runs one guest.

mod cli;
mod terminal;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use thimble_spec::vmm::{Exit, ExitReason};
use thimble_vmm::exit::{self, Ending};

fn main() -> ExitCode {
    let options = cli::parse();
    let exit =
        run(&options).unwrap_or_else(|error| Exit { reason: ExitReason::Error(format!("{error:#}")), after_s: 0.0 });
    if let ExitReason::Error(sentence) = &exit.reason {
        eprintln!("thimble-vmm: {sentence}");
    }
    if let Some(path) = &options.exit_file
        && let Err(error) = exit::write(path, &exit)
    {
        eprintln!("thimble-vmm: {}", error.sentence());
    }
    ExitCode::from(exit.reason.code())
}

fn run(options: &cli::Options) -> Result<Exit> {
    let config = options.guest()?;
    let ending = Arc::new(Ending::new().context("cannot prepare for the guest's end")?);
    let terminal = match options.console() {
        cli::ConsoleKind::Stdio => Some(terminal::Terminal::start(&ending)?),
        cli::ConsoleKind::None => None,
    };
    let (terminal, stream) = terminal.unzip();
    let exit = thimble_vmm::run(&config, options.control.as_deref(), stream, ending);
    if let Some(terminal) = terminal {
        terminal.finish();
    }
    Ok(exit)
}
