//! `thimble kernel`: only the kernels.

use std::io::Write;
use std::path::PathBuf;

use serde::Serialize;

use crate::apt::{Apt, Pins};
use crate::build::definition::Inputs;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::kernel::{guest, host};
use crate::{files, tool};

/// Fetches the host's kernel and compiles the guests', and says where they are.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The appliance's definition
    config: PathBuf,
    /// Print the guest kernel's whole configuration instead, checked against the fragments; compiles nothing
    #[arg(long)]
    print_config: bool,
    /// Directory with configs/ and images/ [default: found above CONFIG]
    #[arg(long, value_name = "DIR")]
    library: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Serialize)]
struct Report {
    host: Kernel,
    guest: Kernel,
}

#[derive(Serialize)]
struct Kernel {
    path: PathBuf,
    bytes: u64,
    package: String,
    version: String,
    /// Whether it was there before.
    reused: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    modules: Option<usize>,
}

/// Does it.
///
/// # Errors
/// The definition is wrong, a package cannot be fetched, the kernel cannot be compiled.
pub fn run(args: Args) -> Result<()> {
    let inputs = Inputs::read(&args.config, args.library.as_deref())?;
    tool::require(guest::TOOLS)?;
    let context = Context::open(args.quiet)?;
    let apt = Apt::open(&context, Pins::of(inputs.lock.as_ref()))?;
    let source = &inputs.appliance.guest_kernel.source;
    if args.print_config {
        let package = apt.find(&[source])?.remove(0);
        let tree = guest::source_tree(&context, &apt, &package)?;
        let dir = files::temp_dir_in(&context.cache.temp_dir(), "config-")?;
        return print(&guest::configure(&context, &tree, &inputs.settings, dir.path())?);
    }
    let package = host::resolve(&apt, &inputs.appliance.host_kernel.package)?;
    let host_reused = context.cache.find("packages", &package.sha256).is_some();
    let host = host::fetch(&context, &apt, package)?;
    let modules = host::modules(&host, &inputs.sets)?;
    let guest = guest::build(&context, &apt, source, &inputs.settings)?;
    let report = Report {
        host: Kernel {
            bytes: files::size(&host.vmlinuz)?,
            path: host.vmlinuz,
            package: host.package.name,
            version: host.package.version,
            reused: host_reused,
            config: None,
            modules: Some(modules.files.len()),
        },
        guest: Kernel {
            bytes: files::size(&guest.vmlinux)?,
            path: guest.vmlinux,
            package: guest.package.name,
            version: guest.package.version,
            reused: guest.reused,
            config: Some(guest.config),
            modules: None,
        },
    };
    if args.json {
        let json = serde_json::to_string_pretty(&report).map_err(|error| Error::Environment(error.to_string()))?;
        return print(&(json + "\n"));
    }
    let line = |what: &str, kernel: &Kernel| {
        let reused = if kernel.reused { ", reused from the cache" } else { "" };
        format!(
            "{what}  {}  ({} bytes, {} {}{reused})\n",
            kernel.path.display(),
            kernel.bytes,
            kernel.package,
            kernel.version
        )
    };
    print(&(line("host ", &report.host) + &line("guest", &report.guest)))
}

fn print(text: &str) -> Result<()> {
    std::io::stdout().write_all(text.as_bytes()).map_err(Error::io("write to", "standard output"))
}
