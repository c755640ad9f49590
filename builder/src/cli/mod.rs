//! The command line: a verb a file. Each has `Args` and `run`.

pub mod build;
pub mod client_cert;
pub mod doctor;
pub mod flash;
pub mod hardware;
pub mod inspect;
pub mod kernel;
pub mod key;
pub mod lock;
pub mod run;
pub mod serve;
pub mod update;

use std::error::Error as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::{Error, Result};
use crate::interrupt;

/// One TOML file in, a bootable KVM appliance out.
#[derive(Debug, Parser)]
#[command(name = "thimble", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "The cache is $THIMBLE_CACHE, else $XDG_CACHE_HOME/thimble, else ~/.cache/thimble.\n\
    Exit codes: 0 done, 1 failed, 2 wrong definition or usage, 130 interrupted.")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Build(build::Args),
    Kernel(kernel::Args),
    Key(key::Args),
    ClientCert(client_cert::Args),
    Run(run::Args),
    Flash(flash::Args),
    Serve(serve::Args),
    Update(update::Args),
    Inspect(inspect::Args),
    Hardware(hardware::Args),
    Lock(lock::Args),
    Doctor(doctor::Args),
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = interrupt::install()
        .map_err(|error| Error::environment(format!("cannot listen for signals: {error}")))
        .and_then(|()| dispatch(cli.verb));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

fn dispatch(verb: Verb) -> Result<()> {
    match verb {
        Verb::Build(args) => build::run(args),
        Verb::Kernel(args) => kernel::run(args),
        Verb::Key(args) => key::run(args),
        Verb::ClientCert(args) => client_cert::run(args),
        Verb::Run(args) => run::run(args),
        Verb::Flash(args) => flash::run(args),
        Verb::Serve(args) => serve::run(args),
        Verb::Update(args) => update::run(args),
        Verb::Inspect(args) => inspect::run(args),
        Verb::Hardware(args) => hardware::run(args),
        Verb::Lock(args) => lock::run(args),
        Verb::Doctor(args) => doctor::run(args),
    }
}

/// Mistakes in files stand alone, `FILE:LINE: KEY: ...`, as editors read them; everything else says who speaks.
fn report(error: &Error) {
    let mut text = match error {
        Error::Definition(mistakes) => mistakes.to_string(),
        other => format!("thimble: {other}"),
    };
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    // A closed standard error is no reason to panic.
    let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{text}\n"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
