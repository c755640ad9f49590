//! `thimble update`: a newer release into the other slot of a disk, or of a host that runs.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::ops::ControlFlow;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;
use thimble_spec::release::{Part, Release};
use thimble_store::update::{Report, apply, check, holds};
use thimble_store::{Device, Envelope, Error as StoreError, Key, Partition, Step, Store};

use crate::build::output::UPDATE;
use crate::build::programs::Programs;
use crate::error::{Error, Result};
use crate::flash::read;
use crate::interrupt;
use crate::progress::{self, Progress};

/// Put a newer build onto a flash disk, beside the one that it starts.
///
/// What the other slot lacks is written into it, read back, and put on trial: the boot loader starts it as often as its
/// definition says, until the running system confirms that it works; if that never happens, it goes back to what was there.
/// The disk's own release says whose signature an update must have. Whatever goes wrong, and when, the disk starts what it
/// started before, and the same command can be given again.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A machine that runs from the disk must be down: one that runs is asked with --host, or updates itself.\n\
    Exit codes: 0 done or nothing to do, 1 refused or failed, 2 wrong usage, 4 no host answers, 130 interrupted."
)]
pub struct Args {
    /// A flash.img, or the device of a whole disk that has one; nothing of it may be mounted
    #[arg(value_name = "IMAGE|DISK")]
    target: PathBuf,
    /// A thimble.update, or the directory of a build with one
    #[arg(value_name = "FILE|DIR", required_unless_present = "host", conflicts_with = "host")]
    update: Option<PathBuf>,
    /// Install an update on a host that runs, by its API: `thimble update --host NAME FILE|DIR`
    #[arg(long, value_name = "NAME[:PORT]", conflicts_with = "dry_run")]
    host: Option<String>,
    /// Directory with ca.pem, cert.pem and key.pem for that host [default: as thimblectl has it]
    #[arg(long, value_name = "DIR", requires = "host")]
    keys: Option<PathBuf>,
    /// Have that host shut its guests down and start it now
    #[arg(long, requires = "host")]
    reboot: bool,
    /// Check the update, say what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

/// What was done, or would be.
#[derive(Serialize)]
struct Outcome<'a> {
    target: &'a Path,
    appliance: &'a str,
    dry_run: bool,
    #[serde(flatten)]
    report: &'a Report,
}

/// Does it.
///
/// # Errors
/// The update or the disk is not what it should be, is in use or too small; the user interrupts.
pub fn run(args: Args) -> Result<()> {
    // For a host, what is named is the update.
    let update = args.update.as_ref().unwrap_or(&args.target);
    let source = if update.is_dir() { update.join(UPDATE) } else { update.clone() };
    if !source.is_file() {
        let shown = source.display();
        return Err(Error::Usage(format!("{shown}: there is no such file: `thimble build --sign KEY` makes one")));
    }
    match &args.host {
        Some(host) => Err(onto_host(&args, host, &source)?),
        None => onto_disk(&args, &args.target, &source),
    }
}

/// Becomes `thimblectl`, which is the daemon's program by another name; gives why it does not.
fn onto_host(args: &Args, host: &str, source: &Path) -> Result<Error> {
    let program = Programs::find(None)?.node;
    let mut command = Command::new(&program);
    command.arg0("thimblectl").args(["update", "--host", host]).arg(source);
    if let Some(keys) = &args.keys {
        command.arg("--keys").arg(keys);
    }
    command.args(args.reboot.then_some("--reboot")).args(args.json.then_some("--json"));
    Ok(Error::io("run", &program)(command.exec()))
}

fn onto_disk(args: &Args, target: &Path, source: &Path) -> Result<()> {
    let (start, bytes) = read::boot_partition(target)?;
    let told = |error: StoreError| told(target, error);
    let progress = Progress::new(args.quiet);
    let step = progress.step("update");
    let (appliance, report) = if args.dry_run {
        let file = File::open(target).map_err(Error::io("read", target))?;
        let store = Store::open(Partition::of_file(file, start, bytes)).map_err(told)?;
        let (envelope, _, appliance) = checked(&store, target, source)?;
        (appliance, dry(&store, envelope.release(), &step).map_err(told)?)
    } else {
        let partition = Partition::open_part(target, start, bytes).map_err(|error| busy(target, error))?;
        let mut store = Store::open(partition).map_err(told)?;
        let (_, key, appliance) = checked(&store, target, source)?;
        let file = open(source)?;
        (appliance.clone(), apply(&mut store, file, &key, &appliance, &mut |now| show(&step, now)).map_err(told)?)
    };
    step.done();
    let text = if args.json {
        let outcome = Outcome { target, appliance: &appliance, dry_run: args.dry_run, report: &report };
        serde_json::to_string_pretty(&outcome).map_err(|error| Error::environment(error.to_string()))? + "\n"
    } else {
        summary(args, target, &appliance, &report)
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(Error::io("write to", "standard output"))
}

/// Who may sign for the disk, and whose appliance it has: its good release says it.
fn owner<D: Device>(store: &Store<D>, target: &Path) -> Result<(Key, String)> {
    let good = store.state().and_then(|state| {
        let empty = || StoreError::Empty(state.good);
        store.release(state.good)?.ok_or_else(empty)
    });
    let good = good.map_err(|error| told(target, error))?;
    let release = good.release();
    let Some(key) = &release.key else {
        return Err(Error::environment(format!(
            "{}: {} takes no updates: its definition has no [update] key; write a new image onto the disk",
            target.display(),
            release.appliance
        )));
    };
    Ok((Key::from_hex(key).map_err(|error| told(target, error))?, release.appliance.clone()))
}

/// The update, read to its end before anything is written, with the key and the appliance that it is right for.
fn checked<D: Device>(store: &Store<D>, target: &Path, source: &Path) -> Result<(Envelope, Key, String)> {
    let (key, appliance) = owner(store, target)?;
    let envelope = check(open(source)?, &key, &appliance).map_err(|error| told(target, error))?;
    Ok((envelope, key, appliance))
}

/// The update's file. Who asks to stop is heard at each piece that is read.
fn open(source: &Path) -> Result<impl Read> {
    struct Stoppable(BufReader<File>);
    impl Read for Stoppable {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if interrupt::requested() {
                return Err(std::io::Error::other("interrupted"));
            }
            self.0.read(buffer)
        }
    }
    Ok(Stoppable(BufReader::new(File::open(source).map_err(Error::io("read", source))?)))
}

/// What [`apply`] would do.
fn dry<D: Device>(
    store: &Store<D>,
    release: &Release,
    step: &progress::Step,
) -> std::result::Result<Report, StoreError> {
    let manifest = release.manifest.clone();
    if let Some(slot) = holds(store, release, &mut |now| show(step, now))? {
        return Ok(Report { slot, manifest, plan: None });
    }
    let plan = store.plan(release, &mut |now| show(step, now))?;
    if plan.needed > plan.free {
        return Err(StoreError::Full { needed: plan.needed, free: plan.free });
    }
    Ok(Report { slot: plan.into, manifest, plan: Some(plan) })
}

fn show(view: &progress::Step, now: Step<'_>) -> ControlFlow<()> {
    match now {
        Step::Checking { part, done } => view.position(done, part.size, &format!("comparing {}", part.name)),
        Step::Writing { part, done } => view.position(done, part.size, &format!("writing {}", part.name)),
        Step::Sharing { part } => view.position(part.size, part.size, &format!("{} is there", part.name)),
    }
    if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

fn told(target: &Path, error: StoreError) -> Error {
    match error {
        StoreError::Stopped => Error::Interrupted,
        StoreError::Source(_) if interrupt::requested() => Error::Interrupted,
        error => Error::environment(format!("{}: {error}", target.display())),
    }
}

fn busy(target: &Path, error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::ResourceBusy => {
            let shown = target.display();
            Error::environment(format!("{shown} is in use: unmount what is mounted of it; `lsof {shown}` may say more"))
        }
        _ => Error::io("open", target)(error),
    }
}

fn summary(args: &Args, target: &Path, appliance: &str, report: &Report) -> String {
    let (target, slot) = (target.display(), report.slot);
    let manifest = &report.manifest[..report.manifest.len().min(12)];
    let Some(plan) = &report.plan else {
        return format!("{target}: slot {slot} is {appliance} {manifest} already, and is started next\n");
    };
    let lines = |parts: &[Part], what| -> String {
        parts.iter().map(|part| format!("{:>12}  {what:<8} {}\n", part.size, part.name)).collect()
    };
    let (written, shared) = if args.dry_run { ("missing", "shared") } else { ("written", "shared") };
    let end = if args.dry_run {
        let (needed, free) = (plan.needed, plan.free);
        format!(
            "{target}: {appliance} {manifest} would go into slot {slot}: {needed} bytes of {free}; nothing was done"
        )
    } else {
        format!("{target}: slot {slot} is {appliance} {manifest} and is started next, on trial")
    };
    format!("       bytes           object\n{}{}\n{end}\n", lines(&plan.missing, written), lines(&plan.shared, shared))
}
