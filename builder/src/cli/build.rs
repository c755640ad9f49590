//! `thimble build`: the definition becomes artefacts.

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;
use thimble_spec::manifest::{Manifest, Room};

use crate::build::{self, Outcome, Request, output};
use crate::error::{Error, Result};
use crate::{formats, ledger};

/// Builds an appliance: kernels, images, initramfs, and from these the artefacts.
///
/// What did not change since an earlier build comes from the cache. DIR is replaced when everything is whole, and stays
/// as it is when anything fails.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The appliance's definition
    config: PathBuf,
    /// Where the artefacts go
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Make these artefacts, whatever the definition names; several with commas
    #[arg(long, value_name = "FORMAT", value_delimiter = ',', value_parser = formats::words())]
    format: Vec<String>,
    /// Directory with init, init-guest, thimble-node and thimble-vmm [default: beside this program]
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Sign the release, and make a thimble.update: the private half of the definition's key [default: $THIMBLE_SIGN]
    #[arg(long, value_name = "KEY")]
    sign: Option<PathBuf>,
    /// Directory with configs/ and images/ [default: found above CONFIG]
    #[arg(long, value_name = "DIR")]
    library: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Show no progress, and of the result one line
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    out: &'a PathBuf,
    seconds: f64,
    /// Bytes of `flash.img` by who spends them.
    flash: Vec<Line<'a>>,
    manifest: &'a Manifest,
}

#[derive(Serialize)]
struct Line<'a> {
    room: Room,
    name: &'a str,
    bytes: u64,
}

/// Does it.
///
/// # Errors
/// See [`build::build`].
pub fn run(args: Args) -> Result<()> {
    let started = Instant::now();
    let formats = formats::named(&args.format);
    let sign = args.sign.clone().or_else(sign_by_default);
    let request = Request {
        config: &args.config,
        out: &args.out,
        formats: formats.as_deref(),
        programs: args.programs.as_deref(),
        sign: sign.as_deref(),
        library: args.library.as_deref(),
        quiet: args.quiet,
    };
    let outcome = build::build(&request)?;
    let seconds = started.elapsed().as_secs_f64();
    let text = if args.json { json(&args.out, &outcome, seconds)? } else { summary(&args, &outcome, seconds) };
    std::io::stdout().write_all(text.as_bytes()).map_err(Error::io("write to", "standard output"))
}

fn sign_by_default() -> Option<PathBuf> {
    std::env::var_os("THIMBLE_SIGN").filter(|key| !key.is_empty()).map(PathBuf::from)
}

fn json(out: &PathBuf, outcome: &Outcome, seconds: f64) -> Result<String> {
    let flash = outcome.spaces.iter().map(|space| Line { room: space.room, name: &space.name, bytes: space.bytes });
    let report = Report { out, seconds, flash: flash.collect(), manifest: &outcome.manifest };
    let text = serde_json::to_string_pretty(&report)
        .map_err(|error| Error::environment(format!("cannot write JSON: {error}")))?;
    Ok(text + "\n")
}

/// The artefacts, then who spends the flash.
fn summary(args: &Args, outcome: &Outcome, seconds: f64) -> String {
    let Outcome { manifest, spaces } = outcome;
    let built = format!("{} {} built in {seconds:.1} s\n", manifest.appliance, &manifest.hash[..12]);
    if args.quiet {
        return built;
    }
    let mut text = String::new();
    for artefact in &manifest.artefacts {
        text.push_str(&format!("{:>12}  {}\n", artefact.size, args.out.join(&artefact.name).display()));
    }
    text.push_str(&format!("{:>12}  {}\n\n", "", args.out.join(output::MANIFEST).display()));
    if !spaces.is_empty() {
        text.push_str(&ledger::table(spaces, manifest.budget));
        text.push('\n');
    }
    text + &built
}
