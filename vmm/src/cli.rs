//! The command line.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{ArgGroup, CommandFactory, Parser, ValueEnum, error::ErrorKind};
use thimble_spec::names::Mac;
use thimble_spec::units::{ByteSize, MIB};
use thimble_spec::vmm::{Disk, GuestConfig, Net};

/// Runs one guest on the host's KVM, in this process, until it ends.
///
/// A daemon describes the guest in a file (--config); a developer on the command line (--kernel and the options behind
/// it). The exit code says how the guest ended: 0 it powered off, 10 it asked for a reboot, 11 a triple fault, 12 it
/// was killed, 1 the VMM could not go on, 2 the command line was wrong.
///
/// SIGTERM asks the guest to power off; a second one, or SIGINT, ends it at once.
#[derive(Debug, Parser)]
#[command(version, group = ArgGroup::new("guest").required(true).args(["config", "kernel"]))]
pub struct Options {
    /// The guest's description, as JSON
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "initrd", "cmdline", "memory", "vcpus", "disks", "nets"])]
    config: Option<PathBuf>,

    /// Where to make the control socket
    #[arg(long, value_name = "SOCKET")]
    pub control: Option<PathBuf>,

    /// Where to leave, as the last act, how the guest ended, as JSON
    #[arg(long, value_name = "FILE")]
    pub exit_file: Option<PathBuf>,

    /// Where the guest's console goes, besides the control socket [default: none with --config, else stdio]
    #[arg(long, value_enum)]
    console: Option<ConsoleKind>,

    /// The guest's kernel: an ELF vmlinux with a PVH note, or a bzImage
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,

    /// Its initramfs
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,

    /// Its command line; the VMM adds what names the devices
    #[arg(long, value_name = "WORDS", default_value = "console=ttyS0 panic=-1 reboot=k")]
    cmdline: String,

    /// Its memory
    #[arg(long, value_name = "SIZE", default_value = "128MiB")]
    memory: ByteSize,

    /// Its number of virtual processors
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=254))]
    vcpus: u8,

    /// A raw file or a block device, /dev/vda for the first; with :ro, read-only
    #[arg(long = "disk", value_name = "PATH[:ro]", value_parser = parse_disk)]
    disks: Vec<Disk>,

    /// An existing tap interface, eth0 for the first
    #[arg(long = "net", value_name = "tap=NAME[,mac=ADDRESS]", value_parser = parse_net)]
    nets: Vec<NetArg>,

    /// Its name
    #[arg(long, default_value = "guest")]
    name: String,
}

/// Where the console goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ConsoleKind {
    /// To standard input and output; Ctrl-A x ends the guest.
    Stdio,
    /// Nowhere.
    None,
}

/// A `--net`, whose address may be made up.
#[derive(Clone, Debug, PartialEq, Eq)]
struct NetArg {
    tap: String,
    mac: Option<Mac>,
}

fn parse_disk(text: &str) -> Result<Disk, String> {
    let (path, read_only) = match text.strip_suffix(":ro") {
        Some(path) => (path, true),
        None => (text, false),
    };
    if path.is_empty() {
        Err("name a file".to_owned())
    } else {
        Ok(Disk { path: path.into(), read_only, ..Disk::default() })
    }
}

fn parse_net(text: &str) -> Result<NetArg, String> {
    let (mut tap, mut mac) = (None, None);
    for part in text.split(',') {
        match part.split_once('=') {
            Some(("tap", name)) => tap = Some(name.to_owned()),
            Some(("mac", address)) => {
                mac = Some(address.parse().map_err(|error: thimble_spec::names::MacError| error.to_string())?)
            }
            _ => return Err(format!("`{part}` is neither tap=NAME nor mac=ADDRESS")),
        }
    }
    Ok(NetArg { tap: tap.ok_or("say which interface: tap=NAME")?, mac })
}

/// The options of this process; a wrong command line, and `--help`, end it here.
pub fn parse() -> Options {
    let options = Options::parse();
    if let Err(error) = thimble_spec::names::check_name(&options.name) {
        usage(&error.to_string());
    }
    if !options.memory.bytes().is_multiple_of(MIB) || options.memory.bytes() / MIB > u32::MAX.into() {
        usage("--memory takes whole MiB, such as 128MiB");
    }
    options
}

fn usage(sentence: &str) -> ! {
    Options::command().error(ErrorKind::ValueValidation, sentence).exit()
}

impl Options {
    /// The guest that they describe.
    pub fn guest(&self) -> Result<GuestConfig> {
        if let Some(path) = &self.config {
            let text =
                std::fs::read(path).with_context(|| format!("cannot read the description {}", path.display()))?;
            return serde_json::from_slice(&text)
                .with_context(|| format!("{} does not describe a guest", path.display()));
        }
        let net = |(index, net): (usize, &NetArg)| {
            let derived = || Mac::derived("thimble-vmm", &format!("{}-{index}", self.name));
            Net::new(&net.tap, net.mac.unwrap_or_else(derived))
        };
        Ok(GuestConfig {
            name: self.name.clone(),
            vcpus: self.vcpus,
            memory_mib: (self.memory.bytes() / MIB) as u32,
            kernel: self.kernel.clone().context("no kernel is given")?,
            initrd: self.initrd.clone(),
            cmdline: self.cmdline.clone(),
            disks: self.disks.clone(),
            nets: self.nets.iter().enumerate().map(net).collect(),
            ..GuestConfig::default()
        })
    }

    /// Where the console goes.
    pub fn console(&self) -> ConsoleKind {
        self.console.unwrap_or(if self.config.is_some() { ConsoleKind::None } else { ConsoleKind::Stdio })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Options::command().debug_assert();
    }

    #[test]
    fn one_line_describes_a_guest() {
        let words = "thimble-vmm --kernel k --initrd i --memory 64MiB --vcpus 2 --disk a --disk b:ro \
                     --net tap=tap0,mac=02:00:00:00:00:01 --net tap=tap1 --name web1";
        let options = Options::try_parse_from(words.split_ascii_whitespace()).unwrap();
        let guest = options.guest().unwrap();
        assert_eq!((guest.vcpus, guest.memory_mib, guest.name.as_str()), (2, 64, "web1"));
        assert_eq!(guest.disks[1], Disk { path: "b".into(), read_only: true, ..Disk::default() });
        assert_eq!(guest.nets[0].mac.to_string(), "02:00:00:00:00:01");
        assert_ne!(guest.nets[0].mac, guest.nets[1].mac);
        assert_eq!(options.console(), ConsoleKind::Stdio);
    }

    #[test]
    fn contradictions_are_refused() {
        for words in [
            "x",
            "x --config c --kernel k",
            "x --config c --vcpus 2",
            "x --kernel k --net mac=02:00:00:00:00:01",
            "x --kernel k --vcpus 0",
            "x --kernel k --disk :ro",
        ] {
            assert!(Options::try_parse_from(words.split_ascii_whitespace()).is_err(), "{words}");
        }
    }
}
