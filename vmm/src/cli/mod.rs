//! The command line.
//!
//! | file | what |
//! | --- | --- |
//! | `guest` | the options that describe a guest |
//! | `ask` | the verbs for a guest that runs |
//! | `words` | options of several parts |

pub mod ask;
mod guest;
mod words;

use std::os::fd::RawFd;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{ArgGroup, CommandFactory, Parser, Subcommand, ValueEnum, error::ErrorKind};
use thimble_spec::vmm::GuestConfig;

/// Runs one guest on the host's KVM, in this process, until it ends.
///
/// A daemon describes the guest in a file (--config); a developer on the command line (--kernel and the options behind
/// it). The exit code says how the guest ended: 0 it powered off, 10 it asked for a reboot, 11 a triple fault, 12 it
/// was killed, 1 the VMM could not go on, 2 the command line was wrong.
///
/// SIGTERM asks the guest to power off; a second one, or SIGINT, ends it at once.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct CommandLine {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    action: Option<Action>,
}

/// What is done instead of running a guest.
#[derive(Debug, Subcommand)]
enum Action {
    /// Asks something of a guest that runs, through its control socket
    Ask(ask::Ask),
}

/// What is to be done.
#[derive(Debug)]
pub enum Job {
    /// A guest is run.
    Run(Box<Options>),
    /// A guest that runs is asked.
    Ask(ask::Ask),
}

/// How a guest is run.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("guest").required(true).args(["config", "kernel"]))]
pub struct Options {
    /// The guest's description, as JSON
    #[arg(long, value_name = "FILE", conflicts_with_all = OF_A_DESCRIPTION)]
    config: Option<PathBuf>,

    /// Print the guest's description as JSON, and run nothing
    #[arg(long)]
    pub print_config: bool,

    /// Where to make the control socket
    #[arg(long, value_name = "SOCKET")]
    pub control: Option<PathBuf>,

    /// Where to leave, as the last act, how the guest ended, as JSON
    #[arg(long, value_name = "FILE")]
    pub exit_file: Option<PathBuf>,

    /// Where the guest's console goes, besides the control socket [default: none with --config, else stdio]
    #[arg(long, value_enum)]
    console: Option<ConsoleKind>,

    /// An inherited descriptor that stays open as long as the guest lives, such as one that is locked; others are closed
    #[arg(long, value_name = "FD")]
    pub hold: Option<RawFd>,

    #[command(flatten)]
    guest: guest::GuestOptions,
}

/// The options that a description stands for.
const OF_A_DESCRIPTION: [&str; 14] = [
    "name",
    "initrd",
    "cmdline",
    "acpi",
    "memory",
    "vcpus",
    "cpu",
    "pins",
    "disks",
    "nets",
    "virtio_console",
    "balloon",
    "vsock",
    "jail",
];

/// Where the console goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ConsoleKind {
    /// To standard input and output; Ctrl-A x ends the guest.
    Stdio,
    /// Nowhere.
    None,
}

/// What this process is to do; a wrong command line, and `--help`, end it here.
pub fn parse() -> Job {
    let line = CommandLine::parse();
    if let Some(Action::Ask(ask)) = line.action {
        return Job::Ask(ask);
    }
    if let Err(error) = thimble_spec::names::check_name(&line.options.guest.name) {
        CommandLine::command().error(ErrorKind::ValueValidation, error).exit();
    }
    Job::Run(Box::new(line.options))
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
        let kernel = self.guest.kernel.clone().context("no kernel is given")?;
        self.guest.config(kernel).map_err(anyhow::Error::msg)
    }

    /// Where the console goes.
    pub fn console(&self) -> ConsoleKind {
        self.console.unwrap_or(if self.config.is_some() { ConsoleKind::None } else { ConsoleKind::Stdio })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_spec::vmm::{CpuModel, Discovery, Disk, DiskFormat, NetBackend, Pages};

    fn options(words: &str) -> Result<Options, clap::Error> {
        CommandLine::try_parse_from(words.split_ascii_whitespace()).map(|line| line.options)
    }

    #[test]
    fn the_command_line_is_sound() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn one_line_describes_a_guest() {
        let options = options(
            "thimble-vmm --kernel k --initrd i --memory 64MiB,pages=huge --vcpus 2 --disk a --disk b:ro --acpi \
             --disk c,format=qcow2,backing=/images --disk d,direct \
             --net tap=tap0,mac=02:00:00:00:00:01,backend=user --net tap=tap1 --name web1 \
             --cpu x86-64-v2,nested --pin 1=0-2,5 --jail none",
        )
        .unwrap();
        let guest = options.guest().unwrap();
        assert_eq!((guest.vcpus, guest.memory_mib, guest.name.as_str()), (2, 64, "web1"));
        assert_eq!((guest.memory.pages, guest.discovery), (Pages::Huge, Discovery::Acpi));
        assert_eq!(guest.jail, None);
        assert_eq!(guest.disks[1], Disk { path: "b".into(), read_only: true, ..Disk::default() });
        assert_eq!((guest.disks[2].format, &guest.disks[2].backing), (DiskFormat::Qcow2, &Some("/images".into())));
        assert!(guest.disks[3].direct);
        assert_eq!(
            (guest.nets[0].mac.to_string().as_str(), guest.nets[0].backend),
            ("02:00:00:00:00:01", NetBackend::User)
        );
        assert_ne!(guest.nets[0].mac, guest.nets[1].mac);
        assert_eq!((guest.cpu.model, guest.cpu.nested), (CpuModel::V2, true));
        assert_eq!(guest.cpu.pins, [vec![], vec![0, 1, 2, 5]]);
        assert_eq!(options.console(), ConsoleKind::Stdio);
        let text = serde_json::to_string(&guest).unwrap();
        assert_eq!(serde_json::from_str::<GuestConfig>(&text).unwrap(), guest);
    }

    #[test]
    fn contradictions_are_refused() {
        for words in [
            "x",
            "x --config c --kernel k",
            "x --config c --vcpus 2",
            "x --config c --jail none",
            "x --kernel k --net mac=02:00:00:00:00:01",
            "x --kernel k --vcpus 0",
            "x --kernel k --disk :ro",
            "x --kernel k --disk a,format=vhd",
            "x --kernel k --memory 1KiB",
            "x --kernel k --vsock cid=2,path=p",
            "x --kernel k --pin 0=",
            "x ask",
            "x ask s explode",
            "x --kernel k ask s status",
        ] {
            assert!(CommandLine::try_parse_from(words.split_ascii_whitespace()).is_err(), "{words}");
        }
        let pinned = options("x --kernel k --pin 1=0").unwrap();
        assert!(pinned.guest().unwrap_err().to_string().contains("has 1 vCPUs"));
    }
}
