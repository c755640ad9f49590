//! `thimble-vmm`: runs one guest.

mod cli;
mod terminal;

use std::io::{Write, stdout};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use thimble_spec::vmm::{Exit, ExitReason};
use thimble_vmm::exit::{self, Ending};

fn main() -> ExitCode {
    let options = match cli::parse() {
        cli::Job::Run(options) => options,
        cli::Job::Ask(ask) => return cli::ask::ask(&ask),
    };
    if options.print_config {
        return print_config(&options);
    }
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

fn print_config(options: &cli::Options) -> ExitCode {
    let text = options.guest().and_then(|guest| Ok(serde_json::to_string_pretty(&guest)?));
    match text.and_then(|text| Ok(writeln!(stdout(), "{text}")?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("thimble-vmm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &cli::Options) -> Result<Exit> {
    let config = options.guest()?;
    let ending = Arc::new(Ending::new().context("cannot prepare for the guest's end")?);
    let (terminal, stream) = match options.console() {
        cli::ConsoleKind::Stdio => {
            let (ours, theirs) = UnixStream::pair().context("cannot make a socket for the console")?;
            let end = ending.clone();
            let quit = Box::new(move |_: &UnixStream| end.end(ExitReason::Killed));
            (Some(terminal::Terminal::start(ours, quit)?), Some(theirs))
        }
        cli::ConsoleKind::None => (None, None),
    };
    let exit = thimble_vmm::run(&config, options.control.as_deref(), stream, ending);
    if let Some(terminal) = terminal {
        terminal.finish();
    }
    Ok(exit)
}
