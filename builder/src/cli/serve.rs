//! `thimble serve`.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use crate::build::output;
use crate::error::{Error, Result};
use crate::serve::boot::{self, Loader};
use crate::serve::dhcp::answer::Network;
use crate::serve::dhcp::range::Range;
use crate::serve::place::Place;
use crate::serve::{self, Mode};

/// Let machines boot an appliance from the network.
///
/// Serves what a build left in DIR/netboot by TFTP and HTTP, and tells machines by DHCP what to boot: BIOS and UEFI by PXE,
/// UEFI by HTTP boot, and iPXE. It listens at the one address that --on names and nowhere else, reads and never writes, and
/// shows who boots what and how far. Ctrl-C ends it.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("mode").required(true))]
#[command(after_help = "A bench of its own:      thimble serve rack7 --on eth1 --dhcp 192.168.77.100-192.168.77.199\n\
    Beside a DHCP server:    thimble serve rack7 --on eth0 --proxy\n\
    With your own:           thimble serve rack7 --on eth0 --files-only; see docs/netboot.md")]
pub struct Args {
    /// The output directory of `thimble build`
    dir: PathBuf,
    /// Where to listen: an interface, or an address of this machine
    #[arg(long, value_name = "INTERFACE|ADDRESS")]
    on: String,
    /// Name boot files beside the network's DHCP server, which stays as it is; give no addresses
    #[arg(long, group = "mode")]
    proxy: bool,
    /// Be the network's DHCP server: there must be no other
    #[arg(long, group = "mode", value_name = "FIRST-LAST")]
    dhcp: Option<Range>,
    /// No DHCP at all
    #[arg(long, group = "mode")]
    files_only: bool,
    /// With --dhcp: the way out of the network [default: none]
    #[arg(long, value_name = "ADDRESS", requires = "dhcp")]
    router: Option<Ipv4Addr>,
    /// With --dhcp: a DNS server; may be repeated
    #[arg(long, value_name = "ADDRESS", requires = "dhcp")]
    dns: Vec<Ipv4Addr>,
    /// What firmware loads first
    #[arg(long, value_enum, default_value_t)]
    loader: Loader,
    /// Port for HTTP; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 80)]
    http_port: u16,
    /// Port for TFTP, of which firmware knows 69 only; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 69)]
    tftp_port: u16,
    /// Write each event as a JSON object on a line
    #[arg(long)]
    json: bool,
}

/// Runs it.
///
/// # Errors
/// See [`serve::run`].
pub fn run(args: Args) -> Result<()> {
    let tree = args.dir.join("netboot");
    let dir = args.dir.display();
    if !args.dir.join(output::VMLINUZ).is_file() {
        return Err(Error::Usage(format!(
            "{dir} is not an output directory of thimble build: it has no {}",
            output::VMLINUZ
        )));
    }
    let needed = [boot::IPXE_SCRIPT, boot::IPXE_BIOS, boot::IPXE_UEFI, boot::GRUB_BIOS, boot::GRUB_UEFI];
    if !args.files_only
        && let Some(missing) = needed.into_iter().find(|file| !tree.join(file).is_file())
    {
        return Err(Error::Usage(format!(
            "{dir} has no netboot/{missing}, without which not every machine boots: build it again"
        )));
    }
    let mode = match args.dhcp {
        Some(range) => Mode::Dhcp(range, Network { router: args.router, dns: args.dns }),
        None if args.proxy => Mode::Proxy,
        None => Mode::FilesOnly,
    };
    serve::run(&serve::Request {
        tree: &tree,
        place: Place::find(&args.on)?,
        mode,
        loader: args.loader,
        http_port: args.http_port,
        tftp_port: args.tftp_port,
        json: args.json,
    })
}
