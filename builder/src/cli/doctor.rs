//! `thimble doctor`.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use nix::sys::statvfs::statvfs;
use serde::Serialize;
use thimble_spec::units::GIB;

use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::run::accel::{self, Accel, Wish};
use crate::tool;

/// What compiling a guest kernel takes of the disk, its source included.
const DISK: u64 = 6 * GIB;
/// What compiling and running take of the memory.
const MEMORY: u64 = 2 * GIB;
/// The Rust that Thimble's own programs are compiled by.
const RUST: &str = env!("CARGO_PKG_RUST_VERSION");
/// What only `thimble run`, some formats and some recipes need.
const OPTIONAL: [&str; 5] = ["qemu-system-x86", "ovmf", "xorriso", "osslsigncode", "squashfs-tools"];

/// Say what this machine lacks for building and running appliances, and how to install it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 everything that building needs is here, 1 something is missing.")]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Something that was looked at.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Check {
    name: String,
    ok: bool,
    /// Whether building fails without it.
    required: bool,
    /// What it is for, or what was found.
    note: String,
    /// The package that has it.
    package: Option<&'static str>,
}

/// Looks, prints, and fails if something is missing.
///
/// # Errors
/// Something that building needs is missing.
pub fn run(args: Args) -> Result<()> {
    let mut checks = tools(|name| tool::find(name).is_some());
    checks.extend([rust(), acceleration(), disk(), memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default())]);
    let text = if args.json {
        serde_json::to_string_pretty(&checks).map_err(|error| Error::environment(error.to_string()))? + "\n"
    } else {
        render(&checks)
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(Error::io("write", "standard output"))?;
    let missing: Vec<&str> =
        checks.iter().filter(|check| check.required && !check.ok).map(|check| check.name.as_str()).collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(Error::environment(format!("this machine lacks what building needs: {}", missing.join(", "))))
    }
}

fn tools(is_there: impl Fn(&str) -> bool) -> Vec<Check> {
    let check = |(name, package, why): &(&str, &'static str, &str)| Check {
        name: (*name).to_owned(),
        ok: is_there(name),
        required: !OPTIONAL.contains(package),
        note: (*why).to_owned(),
        package: Some(*package),
    };
    tool::PACKAGES.iter().map(check).collect()
}

fn rust() -> Check {
    let version = |text: &str| -> Option<(u32, u32)> {
        let mut numbers = text.split(['.', ' ']).filter_map(|part| part.parse().ok());
        Some((numbers.next()?, numbers.next()?))
    };
    let output = tool::find("cargo").and_then(|path| Command::new(path).arg("--version").output().ok());
    let found = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let ok = found.as_deref().and_then(version) >= version(RUST);
    let found = found.unwrap_or_else(|| "not found".to_owned());
    let note =
        if ok { found } else { format!("{found}; compiling Thimble's own programs takes Rust {RUST}: rustup.rs") };
    Check { name: "cargo".to_owned(), ok, required: false, note, package: None }
}

fn acceleration() -> Check {
    let choice = accel::choose(Wish::Auto);
    let (ok, name) = match choice.accel {
        Accel::Kvm => (true, "kvm"),
        Accel::Tcg => (false, "tcg, which is slow"),
    };
    let note = format!("thimble run uses {name}: {}", choice.reason);
    Check { name: "KVM".to_owned(), ok, required: false, note, package: None }
}

fn disk() -> Check {
    let name = "disk".to_owned();
    let measured = Cache::open().and_then(|cache| {
        let root = cache.root().to_owned();
        let stat = statvfs(&root).map_err(|error| Error::io("ask for free space of", &root)(error.into()))?;
        Ok((root, stat.blocks_available() * stat.fragment_size()))
    });
    match measured {
        Ok((root, free)) => Check { name, ok: free >= DISK, required: true, note: space(&root, free), package: None },
        Err(error) => Check { name, ok: false, required: true, note: error.to_string(), package: None },
    }
}

fn space(root: &Path, free: u64) -> String {
    format!("the cache {} has {} GiB free, compiling a kernel takes {} GiB", root.display(), free / GIB, DISK / GIB)
}

fn memory(meminfo: &str) -> Check {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix("kB")).and_then(|number| number.trim().parse::<u64>().ok());
    let bytes = kib.unwrap_or_default() * 1024;
    let note = format!("{} MiB free, building and running take {} MiB", bytes >> 20, MEMORY >> 20);
    Check { name: "memory".to_owned(), ok: bytes >= MEMORY, required: false, note, package: None }
}

/// A line each, and a command for what is missing.
fn render(checks: &[Check]) -> String {
    let mut text = String::new();
    for Check { name, ok, note, .. } in checks {
        text.push_str(&format!("{} {name}: {note}\n", if *ok { '✓' } else { '✗' }));
    }
    let missing: BTreeSet<&str> = checks.iter().filter(|check| !check.ok).filter_map(|check| check.package).collect();
    if !missing.is_empty() {
        let missing: Vec<&str> = missing.into_iter().collect();
        text.push_str(&format!("\napt-get install {}\n", missing.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_command_installs_what_is_missing() {
        let checks = tools(|name| !matches!(name, "ld" | "strip" | "qemu-system-x86_64"));
        let text = render(&checks);
        assert!(text.contains("✓ flex: compiles the guests' kernel\n"), "{text}");
        assert!(text.contains("✗ strip: "), "{text}");
        assert!(text.ends_with("\napt-get install binutils qemu-system-x86\n"), "{text}");
        assert!(!checks.iter().any(|check| check.name == "qemu-system-x86_64" && check.required));
        assert!(!render(&tools(|_| true)).contains("apt-get install"));
    }

    #[test]
    fn memory_is_what_is_available() {
        assert!(memory("MemTotal: 9 kB\nMemAvailable:    4194304 kB\n").ok);
        assert!(!memory("MemAvailable: 1024 kB\n").ok);
        assert!(!memory("").ok);
    }
}
