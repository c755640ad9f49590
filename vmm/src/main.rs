//! `thimble-vmm`: runs one guest.

mod cli;
mod inherited;
mod terminal;

use std::io::{Write, stdout};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use anyhow::{Context, Result};
use thimble_spec::vmm::{Exit, ExitReason};
use thimble_vmm::phases::{self, Phase};
use thimble_vmm::{exit, minder};

use terminal::Terminal;

fn main() -> ExitCode {
    phases::mark(Phase::Program);
    let options = match cli::parse() {
        cli::Job::Run(options) => options,
        cli::Job::Ask(ask) => return cli::ask::ask(&ask),
    };
    if options.print_config {
        return print_config(&options);
    }
    let exit = run(&options).unwrap_or_else(|error| Exit::new(ExitReason::Error(format!("{error:#}")), 0.0));
    if let ExitReason::Error(sentence) = &exit.reason {
        // The minder has seen to it that this is one line.
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
    // Before anything is open: what was inherited, and is not wanted, shall not be inherited again.
    let hold = inherited::close_all_but(options.hold).context("cannot close what was inherited")?;
    let streams = match options.console() {
        cli::ConsoleKind::Stdio => Some(UnixStream::pair().context("cannot make a socket for the console")?),
        cli::ConsoleKind::None => None,
    };
    let (ours, theirs) = streams.unzip();
    let minder = minder::start(&config, minder::Start { control: options.control.as_deref(), console: theirs, hold })?;
    let kill = minder.killer();
    let terminal = ours.map(|ours| Terminal::start(ours, Box::new(move |_| kill()))).transpose()?;
    let exit = minder.wait();
    if let Some(terminal) = terminal {
        terminal.finish();
    }
    Ok(exit)
}
