//! `thimble kernel`: only the kernels.

use std::io::Write;
use std::path::PathBuf;

use serde::Serialize;

use thimble_spec::appliance::HostKernelSource;

use crate::apt::{Apt, Pins};
use crate::build::definition::Inputs;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::kernel::{guest, host, source};
use crate::{files, tool};

/// Fetches or compiles the host's kernel, compiles the guests', and says where they are.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The appliance's definition
    config: PathBuf,
    /// Print a compiled kernel's whole configuration instead, checked against the fragments; compiles nothing
    #[arg(long, value_name = "WHOSE", num_args = 0..=1, require_equals = true, default_missing_value = "guest")]
    print_config: Option<Whose>,
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

/// Which of the two kernels.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Whose {
    /// The guests' (if nothing is said)
    Guest,
    /// The host's, if the definition gives it a source
    Host,
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
    tool::require(source::TOOLS)?;
    let context = Context::open(args.quiet)?;
    let apt = Apt::open(&context, Pins::of(inputs.lock.as_ref()))?;
    let (from, guest_source) = (&inputs.appliance.host_kernel.from, &inputs.appliance.guest_kernel.source);
    let configuration = |name: &str, settings| source::configuration(&context, &apt, name, settings);
    match (args.print_config, from) {
        (None, _) => {}
        (Some(Whose::Guest), _) => return print(&configuration(guest_source, &inputs.settings)?),
        (Some(Whose::Host), HostKernelSource::Source { source, .. }) => {
            return print(&configuration(source, &inputs.host_settings)?);
        }
        (Some(Whose::Host), HostKernelSource::Package(package)) => {
            let message = format!("the host's kernel comes from the package {package}: it is configured already");
            return Err(inputs.source.error("kernel.host.package", message));
        }
    }
    let host = host::get(&context, &apt, from, &inputs.host_settings)?;
    let modules = host::modules(&host, &inputs.sets)?;
    let guest = guest::build(&context, &apt, guest_source, &inputs.settings)?;
    let report = Report {
        host: Kernel {
            bytes: files::size(&host.vmlinuz)?,
            path: host.vmlinuz,
            package: host.package.name,
            version: host.package.version,
            reused: host.reused,
            config: host.compiled.map(|compiled| compiled.config),
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
