//! `thimble lock`: the packages of a definition, held to their versions.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::apt::{Apt, Pins};
use crate::build::definition::Inputs;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::lock::changes::{self, Change};
use crate::lock::{FILE, Lock, file, path_beside, resolve};
use crate::{files, tool};

/// Pin the packages of a definition: writes thimble.lock beside it.
///
/// A build that finds a thimble.lock takes exactly its packages. What is pinned stays as it is, unless --update asks for
/// what the package sources have today; what is missing is added, what is no longer needed goes. Definitions in one
/// directory share one lock.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 written, or nothing to be written, 1 --check found a change or something failed, \
    2 wrong definition or lock."
)]
pub struct Args {
    /// The appliance's definition; several lie in one directory
    #[arg(value_name = "CONFIG", required = true)]
    configs: Vec<PathBuf>,
    /// Take the versions that the package sources have today, and show what changes
    #[arg(long)]
    update: bool,
    /// Write nothing
    #[arg(long)]
    dry_run: bool,
    /// Write nothing, and fail if something would change: for CI
    #[arg(long)]
    check: bool,
    /// Directory with configs/ and images/ [default: found above CONFIG]
    #[arg(long, value_name = "DIR")]
    library: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    lock: &'a Path,
    packages: usize,
    changes: &'a [Change],
    written: bool,
}

/// Does it.
///
/// # Errors
/// A definition is wrong, a package is missing, --check found a change.
pub fn run(args: Args) -> Result<()> {
    let inputs =
        args.configs.iter().map(|config| Inputs::read(config, args.library.as_deref())).collect::<Result<Vec<_>>>()?;
    let path = one_lock(&args.configs)?;
    tool::require(&["apt-get", "apt-cache", "dpkg-deb", "mkfs.erofs"])?;
    let context = Context::open(args.quiet)?;
    let old = inputs.iter().find_map(|inputs| inputs.lock.clone()).unwrap_or_default();
    let pins = if args.update { Pins::None } else { Pins::Prefer(old.clone()) };
    let apt = Apt::open(&context, pins)?;
    if args.update {
        apt.refresh()?;
    }
    let mut new = old.clone();
    for (config, inputs) in args.configs.iter().zip(&inputs) {
        let name = config.file_name().unwrap_or_default().to_string_lossy();
        new = new.with(&name, &resolve::needed(&context, &apt, inputs)?);
    }

    let changes = changes::between(&old, &new);
    let differs = new != old;
    let written = differs && !args.dry_run && !args.check;
    if written {
        files::write(&path, file::render(&new).as_bytes())?;
    }
    let packages = new.packages.len();
    let text = if args.json {
        let report = Report { lock: &path, packages, changes: &changes, written };
        serde_json::to_string_pretty(&report).map_err(|error| Error::environment(error.to_string()))? + "\n"
    } else {
        render(&path, &new, &changes, written)
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(Error::io("write", "standard output"))?;
    if args.check && differs {
        return Err(Error::environment(format!(
            "{} is not up to date: run `thimble lock{}`",
            path.display(),
            if args.update { " --update" } else { "" }
        )));
    }
    Ok(())
}

/// The lock that all definitions share.
fn one_lock(configs: &[PathBuf]) -> Result<PathBuf> {
    let mut paths = configs.iter().map(|config| path_beside(config));
    let first = paths.next().unwrap_or_else(|| PathBuf::from(FILE));
    let whole = |path: &Path| std::fs::canonicalize(files::parent(path)).ok();
    match paths.find(|path| whole(path) != whole(&first)) {
        None => Ok(first),
        Some(other) => Err(Error::Usage(format!(
            "{} and {} are two locks: name definitions of one directory",
            first.display(),
            other.display()
        ))),
    }
}

fn render(path: &Path, new: &Lock, changes: &[Change], written: bool) -> String {
    let count = new.packages.len();
    let what = match (changes.is_empty(), written) {
        (true, false) => "nothing changes",
        (_, true) => "written",
        (false, false) => "not written",
    };
    format!("{}{}: {count} packages, {what}\n", changes::table(changes), path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_of_two_directories_have_no_lock_in_common() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir(path("b")).unwrap();
        assert!(one_lock(&[path("a.toml"), path("b.toml")]).is_ok());
        let told = one_lock(&[path("a.toml"), path("b/c.toml")]).unwrap_err().to_string();
        assert!(told.contains("two locks"), "{told}");
    }
}
