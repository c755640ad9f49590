//! `thimble flash`: an image onto a disk.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::flashing::contents::{self, Content};
use crate::flashing::disk::{Disk, size};
use crate::flashing::guard::{self, Objection};
use crate::flashing::image::{Image, Kind};
use crate::flashing::system::System;
use crate::flashing::{backup, device, write};
use crate::progress::Progress;

/// Write an appliance to a disk, and read it back.
///
/// Refuses what is mounted or in use, what is no whole disk, what is too small, and the disk that this system runs from.
/// Shows what will be lost, and asks.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 written and compared, 1 refused or failed, 2 wrong usage, 130 interrupted.")]
pub struct Args {
    /// A flash.img, a hybrid ISO, or the output directory of `thimble build`
    #[arg(required_unless_present = "list")]
    image: Option<PathBuf>,
    /// The disk, such as /dev/sdb or a link in /dev/disk/by-id
    #[arg(required_unless_present = "list")]
    device: Option<PathBuf>,
    /// Show the disks of this machine, and what speaks against writing to each
    #[arg(long, conflicts_with_all = ["image", "device", "yes", "force"])]
    list: bool,
    /// Write to a disk that is not removable, too
    #[arg(long)]
    force: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

/// A disk of `--list`.
#[derive(Serialize)]
struct Candidate {
    device: String,
    #[serde(flatten)]
    disk: Disk,
    /// `yes`, `force` (with --force), `no`.
    writable: &'static str,
    /// What speaks against it.
    objections: Vec<String>,
}

/// What was done.
#[derive(Serialize)]
struct Report<'a> {
    image: &'a Image,
    device: String,
    disk: &'a Disk,
    lost: &'a [Content],
    /// The disk's bytes behind the image.
    unused: u64,
    /// Whether the kernel sees the new partitions already.
    reread: bool,
    seconds: f64,
}

/// Does it.
///
/// # Errors
/// Something speaks against it; the user does not want it; writing fails; what is read back differs.
pub fn run(args: Args) -> Result<()> {
    let system = System::this();
    let (Some(image), Some(path)) = (&args.image, &args.device) else { return list(&system, args.json) };
    let progress = Progress::new(args.quiet);
    let image = Image::open(image, &progress)?;
    let name = device::name(&system, path)?;
    let disk = guard::whole_disk(&system, &name).map_err(|objection| Error::environment(objection.sentence))?;
    refuse(&guard::objections(&system, &disk, image.bytes), args.force)?;
    let lost = contents::of(&system, &disk);
    confirm(&args, &image, &disk, &lost)?;

    let started = Instant::now();
    let reread = put(&image, &disk, &progress)?;
    let seconds = started.elapsed().as_secs_f64();
    let unused = disk.bytes - image.bytes;
    let text = if args.json {
        let (lost, image) = (lost.as_slice(), &image);
        json(&Report { image, device: disk.path(), disk: &disk, lost, unused, reread, seconds })?
    } else {
        summary(&image, &disk, unused, reread, seconds)
    };
    print(&text)
}

/// Everything that speaks against it, at once.
fn refuse(objections: &[Objection], force: bool) -> Result<()> {
    let left: Vec<&str> = objections
        .iter()
        .filter(|objection| !(objection.yields && force))
        .map(|objection| objection.sentence.as_str())
        .collect();
    if left.is_empty() { Ok(()) } else { Err(Error::environment(left.join("\n"))) }
}

/// Shows what will be lost and asks for the disk's name: a habitual "y" is no answer.
fn confirm(args: &Args, image: &Image, disk: &Disk, lost: &[Content]) -> Result<()> {
    if args.yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Error::Usage("nobody can be asked, for the standard input is no terminal: say --yes".to_owned()));
    }
    let told = format!(
        "{}: {}\n{}will be replaced by {}, {}.\nType {} to go on: ",
        disk.path(),
        disk.describe(),
        contents::table(lost),
        image.path.display(),
        size(image.bytes),
        disk.name
    );
    let mut answer = String::new();
    io::stderr()
        .write_all(told.as_bytes())
        .and_then(|()| io::stdin().lock().read_line(&mut answer))
        .map_err(Error::io("ask on", "the terminal"))?;
    if answer.trim() == disk.name { Ok(()) } else { Err(Error::environment("nothing was written")) }
}

/// Writes and compares. Says whether the kernel sees the new partitions.
fn put(image: &Image, disk: &Disk, progress: &Progress) -> Result<bool> {
    let path = disk.path();
    let path = Path::new(&path);
    let source = std::fs::File::open(&image.path).map_err(Error::io("read", &image.path))?;
    let device = device::open(path)?;

    let step = progress.step(format!("writing {}", path.display()));
    let written = write::write(&source, &device, path, image.bytes, disk.bytes, &mut write::reporter(&step));
    written.map_err(|error| half_written(error, path))?;
    step.done();

    let step = progress.step(format!("reading back {}", path.display()));
    write::verify(&source, path, image.bytes, &mut write::reporter(&step)).map_err(|error| match error {
        Error::Interrupted => Error::HalfWritten(format!(
            "interrupted: {} is written as a whole, and was not compared to its end",
            path.display()
        )),
        other => other,
    })?;
    if image.kind == Kind::Flash && disk.bytes > image.bytes {
        backup::to_the_end(&device, path, disk.bytes)?;
    }
    step.done();
    Ok(device::reread(&device))
}

fn half_written(error: Error, path: &Path) -> Error {
    let half = format!("{} is half-written and does not boot: write it again", path.display());
    match error {
        Error::Interrupted => Error::HalfWritten(format!("interrupted: {half}")),
        other => Error::environment(format!("{}; {half}", with_cause(&other))),
    }
}

fn with_cause(error: &Error) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}

fn summary(image: &Image, disk: &Disk, unused: u64, reread: bool, seconds: f64) -> String {
    let (from, to) = (image.path.display(), disk.path());
    let mut text = format!("{from} is on {to}, {} written and compared in {seconds:.1} s\n", size(image.bytes));
    if unused > 0 {
        text.push_str(&format!("{} behind it are unused", size(unused)));
        text.push_str(match image.kind {
            Kind::Flash => "; the backup partition table is at the disk's end\n",
            Kind::Iso => "\n",
        });
    }
    if !reread {
        text.push_str("the kernel still sees the old partitions: take the disk out and put it in again\n");
    }
    text
}

fn list(system: &System, as_json: bool) -> Result<()> {
    let candidates: Vec<Candidate> = Disk::all(system).into_iter().map(|disk| candidate(system, disk)).collect();
    print(&if as_json { json(&candidates)? } else { table(&candidates) })
}

fn candidate(system: &System, disk: Disk) -> Candidate {
    let objections = guard::objections(system, &disk, 0);
    let writable = match (objections.is_empty(), objections.iter().all(|objection| objection.yields)) {
        (true, _) => "yes",
        (false, true) => "force",
        (false, false) => "no",
    };
    let objections = objections.into_iter().map(|objection| objection.sentence).collect();
    Candidate { device: disk.path(), disk, writable, objections }
}

fn table(candidates: &[Candidate]) -> String {
    if candidates.is_empty() {
        return "this machine has no disks that can be seen here\n".to_owned();
    }
    let mut text = String::new();
    for Candidate { device, disk, objections, .. } in candidates {
        text.push_str(&format!("{device:<14} {}\n", disk.describe()));
        for objection in objections {
            text.push_str(&format!("{:14} {objection}\n", ""));
        }
    }
    text
}

fn json(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::environment(error.to_string()))?;
    Ok(text + "\n")
}

fn print(text: &str) -> Result<()> {
    io::stdout().write_all(text.as_bytes()).map_err(Error::io("write", "standard output"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn force_overrules_only_what_yields() {
        let one = |sentence: &str, yields| Objection { sentence: sentence.to_owned(), yields };
        let objections = [one("mounted", false), one("not removable", true)];
        assert_eq!(refuse(&objections, false).unwrap_err().to_string(), "mounted\nnot removable");
        assert_eq!(refuse(&objections, true).unwrap_err().to_string(), "mounted");
        assert!(refuse(&objections[1..], true).is_ok());
    }

    #[test]
    fn an_interrupted_write_says_that_the_disk_is_half_written() {
        let error = half_written(Error::Interrupted, Path::new("/dev/sdb"));
        assert_eq!(error.to_string(), "interrupted: /dev/sdb is half-written and does not boot: write it again");
        assert_eq!(error.exit_code(), 130);
        let failed = Error::io("write", "/dev/sdb")(io::Error::from_raw_os_error(libc::EIO));
        assert!(
            half_written(failed, Path::new("/dev/sdb")).to_string().contains("(os error 5); /dev/sdb is half-written")
        );
    }
}
