//! `thimble run`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use regex::Regex;
use thimble_spec::units::ByteSize;

use crate::build;
use crate::error::{Error, Result};
use crate::files;
use crate::progress::Progress;
use crate::run::accel::Wish;
use crate::run::artefacts::Artefacts;
use crate::run::forward::Forward;
use crate::run::qemu::OVMF_VENDOR_VARS;
use crate::run::{self, Boot, Request};

/// How long a line is waited for unless the user says it.
const TIMEOUT: u64 = 600;

/// Boot an appliance in QEMU.
///
/// Without --until, the console is yours: Ctrl-C powers the machine off (guests first), Ctrl-A x ends it at once, Ctrl-A c
/// is a Ctrl-C for the machine. Each guest with an address gets a port of 127.0.0.1, which is printed.
///
/// The flash disk is not modified: what the machine writes is gone when it ends, unless --disk names a file for it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 the line came, or the machine was powered off; 1 failed; 2 wrong usage; \
    3 time is up; 4 the machine ended before the line came; 130 interrupted.")]
pub struct Args {
    /// The output directory of `thimble build`, or a definition, which is built first
    #[arg(value_name = "DIR|CONFIG")]
    what: PathBuf,
    /// How to boot
    #[arg(long, value_enum, default_value_t)]
    boot: Boot,
    /// Enforce Secure Boot, with the keys in a file of OVMF's variables [default: those of vendors' machines]
    #[arg(long, value_name = "VARS", num_args = 0..=1, require_equals = true, default_missing_value = OVMF_VENDOR_VARS)]
    secure_boot: Option<PathBuf>,
    /// Who runs the machine's code
    #[arg(long, value_enum, default_value_t)]
    accel: Wish,
    /// End when a line of the console matches, with exit code 0
    #[arg(long, value_name = "REGEX")]
    until: Option<Regex>,
    /// How long to wait for that line
    #[arg(long, value_name = "SECONDS", default_value_t = TIMEOUT, requires = "until")]
    timeout: u64,
    /// Lead a port of 127.0.0.1 to a guest's (`host`: the node's own); may be repeated
    #[arg(long, value_name = "PORT:GUEST:PORT")]
    forward: Vec<Forward>,
    /// Write the console to a file, too
    #[arg(long, value_name = "FILE")]
    serial: Option<PathBuf>,
    /// Memory of the machine [default: the definition's, else what its guests need and 384MiB]
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteSize>,
    /// Processors of the machine
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..))]
    cpus: u8,
    /// Keep the disk in this file, which is made from flash.img if it is not there
    #[arg(long, value_name = "FILE")]
    disk: Option<PathBuf>,
    /// One more disk with what is in this file, such as a thimble.update; the machine can only read it. May be repeated
    #[arg(long, value_name = "FILE")]
    attach: Vec<PathBuf>,
    /// Give the machine a watchdog (i6300esb), which resets it when it hangs
    #[arg(long)]
    watchdog: bool,
    /// Let QEMU listen for QMP on this socket
    #[arg(long, value_name = "SOCKET")]
    qmp: Option<PathBuf>,
    /// Let the machine reach what this one reaches; without it, only the forwarded ports work
    #[arg(long)]
    internet: bool,
    /// More words for the host's kernel (only with --boot direct and --boot nfs)
    #[arg(long, value_name = "WORDS", default_value = "", hide_default_value = true, allow_hyphen_values = true)]
    append: String,
    /// With CONFIG: keep here what was built [default: it goes away with the machine]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// With CONFIG: see `thimble build`
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// With CONFIG: see `thimble build`
    #[arg(long, value_name = "DIR")]
    library: Option<PathBuf>,
    /// More words for QEMU, behind `--`: other disks and cards, as `-device` has them
    #[arg(last = true, value_name = "QEMU OPTION")]
    qemu: Vec<String>,
}

/// Runs it.
///
/// # Errors
/// See [`build::build`] and [`run::run`].
pub fn run(args: Args) -> Result<()> {
    if !args.append.is_empty() && !args.boot.is_direct() {
        return Err(Error::Usage(
            "--append goes with --boot direct and --boot nfs: all others have a command line of their own".to_owned(),
        ));
    }
    if args.what.is_file() {
        return build_and_start(args);
    }
    let what = args.what.display();
    if !args.what.exists() {
        return Err(Error::Usage(format!("{what}: there is no such directory or definition")));
    }
    if args.out.is_some() || args.programs.is_some() || args.library.is_some() {
        return Err(Error::Usage(format!("--out, --programs and --library go with a definition, and {what} is built")));
    }
    let dir = args.what.clone();
    start(args, &dir, &Progress::new(false))
}

/// Builds the definition, and runs that.
fn build_and_start(args: Args) -> Result<()> {
    let temp = files::temp_dir_in(&std::env::temp_dir(), "thimble-run-")?;
    let out = args.out.clone().unwrap_or_else(|| temp.path().join("out"));
    let request = build::Request {
        config: &args.what,
        out: &out,
        programs: args.programs.as_deref(),
        formats: Some(args.boot.formats()),
        sign: None,
        library: args.library.as_deref(),
        quiet: false,
    };
    build::build(&request)?;
    start(args, &out, &Progress::new(false))
}

fn start(args: Args, dir: &Path, progress: &Progress) -> Result<()> {
    let artefacts = Artefacts::open(dir)?;
    let request = Request {
        boot: args.boot,
        accel: args.accel,
        secure_boot: args.secure_boot,
        until: args.until.map(|pattern| (pattern, Duration::from_secs(args.timeout))),
        forwards: args.forward,
        serial: args.serial,
        memory: args.memory,
        cpus: args.cpus,
        disk: args.disk,
        attach: args.attach,
        watchdog: args.watchdog,
        qmp: args.qmp,
        internet: args.internet,
        append: args.append,
        qemu: args.qemu,
    };
    run::run(&artefacts, request, progress)
}
