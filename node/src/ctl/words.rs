//! The command line.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use thimble_spec::api::guest::Verb;
use thimble_spec::api::identity;
use thimble_spec::names::check_name;
use thimble_spec::paths;
use thimble_spec::units::ByteSize;

/// Exit codes, for --help.
const CODES: &str = "Exit code: 0 done; 1 it was refused or failed; 2 the command line is wrong; 3 it took longer than \
                     --timeout; 4 there is no node daemon to ask.";

/// Asks a node of Thimble what its guests do, and has them do something else
#[derive(Debug, Parser)]
#[command(name = "thimblectl", bin_name = "thimblectl", version, after_help = CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub word: Word,
    /// Print JSON, as the node's API has it
    #[arg(long, global = true)]
    pub json: bool,
    /// Wait so long at most [default: 60; clone, snapshots, update, event, top and console: for ever]
    #[arg(long, global = true, value_name = "SECONDS")]
    pub timeout: Option<u64>,
    /// Which node.
    #[command(flatten)]
    pub place: Where,
}

/// A copy of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct CloneOf {
    /// The guest
    #[arg(value_parser = guest)]
    pub guest: String,
    /// The new one
    #[arg(value_parser = guest)]
    pub name: String,
    /// The new one's address
    #[arg(long, value_name = "ADDRESS/PREFIX")]
    pub address: Option<String>,
    /// The new one's MAC address [default: one made from its name]
    #[arg(long)]
    pub mac: Option<String>,
}

/// Which node, and with which certificate.
#[derive(Clone, Debug, Default, Args)]
pub struct Where {
    /// Ask this host over the network, not the one that this runs on
    #[arg(long, global = true, value_name = "NAME[:PORT]", env = "THIMBLE_HOST")]
    pub host: Option<String>,
    /// Ask all hosts of this file, one a line, several at a time
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "host")]
    pub hosts: Option<PathBuf>,
    /// Directory with ca.pem, cert.pem and key.pem [default: ~/.config/thimble/NAME if it is there, else ~/.config/thimble]
    #[arg(long, global = true, value_name = "DIR", env = "THIMBLE_KEYS")]
    pub keys: Option<PathBuf>,
    /// The certificate to show
    #[arg(long, global = true, value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// Its key
    #[arg(long, global = true, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// The authority that has signed the host's certificate
    #[arg(long, global = true, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The name that the host's certificate must have, for one that the build has not made
    #[arg(long, global = true, value_name = "NAME", default_value = identity::NODE_NAME)]
    pub tls_name: String,
    /// The socket of this host's API
    #[arg(long, global = true, value_name = "PATH", default_value = paths::NODE_API, hide = true)]
    pub socket: PathBuf,
}

/// A guest's name, which becomes a part of a path.
fn guest(name: &str) -> Result<String, String> {
    check_name(name).map(|()| name.to_owned()).map_err(|error| error.to_string())
}

/// Guests, and whether to wait for them.
#[derive(Clone, Debug, Args)]
pub struct Guests {
    /// The guests
    #[arg(required = true, value_name = "GUEST", value_parser = guest)]
    pub names: Vec<String>,
    /// Wait until it has come about
    #[arg(long)]
    pub wait: bool,
}

/// A command in a guest.
#[derive(Clone, Debug, Args)]
pub struct Exec {
    /// Give it a terminal [default: if there is one here]
    #[arg(long, short = 't')]
    pub terminal: bool,
    /// Give it none
    #[arg(long, conflicts_with = "terminal")]
    pub no_terminal: bool,
    /// A variable for it
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = variable)]
    pub env: Vec<(String, String)>,
    /// The guest
    #[arg(value_parser = guest)]
    pub guest: String,
    /// The command, by a path or a name, and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

impl Exec {
    /// Its variables.
    pub fn environment(&self) -> BTreeMap<String, String> {
        self.env.iter().cloned().collect()
    }
}

/// `NAME=VALUE`.
fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

/// The words.
#[derive(Debug)]
pub enum Word {
    /// Something that is asked of guests.
    Act(Verb, Guests),
    /// The guests.
    List { all: bool },
    /// One.
    Dominfo { guest: String },
    /// What it does.
    Domstate { guest: String, reason: bool },
    /// What it did.
    Domstats { guests: Vec<String> },
    /// Its disks.
    Domblklist { guest: String },
    /// Its interfaces.
    Domiflist { guest: String },
    /// Its addresses.
    Domifaddr { guest: String },
    /// What it takes of the host's memory.
    Dommemstat { guest: String },
    /// What it says of itself.
    Guestinfo { guest: String },
    /// Its processors.
    Vcpuinfo { guest: String },
    /// Its definition.
    Dumpconfig { guest: String, inactive: bool },
    /// Another definition of it.
    Define { file: PathBuf },
    /// None of this node's.
    Undefine { guest: String },
    /// A copy of it.
    Clone(CloneOf),
    /// The disks that the node made.
    VolList,
    /// One more.
    VolCreate { volume: String, size: ByteSize },
    /// One of them no more.
    VolDelete { volume: String },
    /// Its disk, kept.
    SnapshotCreate { guest: String, snapshot: Option<String> },
    /// What is kept of it.
    SnapshotList { guest: String },
    /// Its disk as it was.
    SnapshotRevert { guest: String, snapshot: String },
    /// One kept no longer.
    SnapshotDelete { guest: String, snapshot: String },
    /// In an editor.
    Edit { guest: String },
    /// Whether the host starts it.
    Autostart { guest: String, disable: bool },
    /// Its memory.
    Setmem { guest: String, size: String },
    /// A disk of its own.
    AttachDisk { guest: String, source: String },
    /// None.
    DetachDisk { guest: String },
    /// The size of its disk.
    Blockresize { guest: String, size: String },
    /// How many processors it has.
    Setvcpus { guest: String, count: u64 },
    /// Where they run.
    Vcpupin { guest: String, vcpu: u64, processors: String },
    /// The host.
    Nodeinfo,
    /// What its kernel found.
    Hardware,
    /// What the machine is.
    Sysinfo,
    /// What guests are plugged into.
    NetList { all: bool },
    /// What happens.
    Event { after: Option<String>, count: Option<u64> },
    /// What all do, again and again.
    Top { delay: u64, count: Option<u64> },
    /// Its console.
    Console { guest: String, read_only: bool, force: bool },
    /// A command in it.
    Exec(Exec),
    /// What was written.
    Log { guest: Option<String> },
    /// What takes its time.
    Tasks { cancel: Option<String> },
    /// Who changed what.
    Audit,
    /// All that it tells.
    Report { output: Option<PathBuf> },
    /// A newer release for it.
    Update { file: PathBuf, reboot: bool, live: bool },
    /// For a shell.
    Completion { shell: Shell },
}

impl Word {
    /// Whether it changes what a guest is.
    pub fn defines(&self) -> bool {
        matches!(
            self,
            Self::Define { .. }
                | Self::Undefine { .. }
                | Self::Autostart { .. }
                | Self::Setmem { .. }
                | Self::AttachDisk { .. }
                | Self::DetachDisk { .. }
                | Self::Blockresize { .. }
                | Self::Setvcpus { .. }
                | Self::Vcpupin { .. }
        )
    }

    /// Whether its answer for programs is an object a line, not one object.
    pub fn has_lines(&self) -> bool {
        match self {
            Self::Log { .. } => true,
            Self::Act(_, Guests { names, .. }) | Self::Domstats { guests: names } => names.len() != 1,
            _ => false,
        }
    }
}

/// [`Word`] as clap reads it: each verb is a word of its own.
#[derive(Debug, Subcommand)]
enum Typed {
    /// Show the guests that run
    List {
        /// Those that are off too
        #[arg(long)]
        all: bool,
    },
    /// Start guests
    Start(Guests),
    /// Ask guests to power off
    Shutdown(Guests),
    /// Cut the power of guests
    Destroy(Guests),
    /// Ask guests to power off, and start them again
    Reboot(Guests),
    /// Press the reset button of guests
    Reset(Guests),
    /// Stop the processors of guests
    Suspend(Guests),
    /// Let the processors of guests go on
    Resume(Guests),
    /// Show what a guest is and does
    Dominfo {
        /// The guest
        #[arg(value_parser = guest)]
        guest: String,
    },
    /// Show what a guest does
    Domstate {
        /// The guest
        #[arg(value_parser = guest)]
        guest: String,
        /// And why
        #[arg(long)]
        reason: bool,
    },
    /// Show what guests did so far
    Domstats {
        /// The guests; all that run, if none is named
        #[arg(value_name = "GUEST", value_parser = guest)]
        guests: Vec<String>,
    },
    /// Show the block devices of a guest
    Domblklist {
        /// The guest
        #[arg(value_parser = guest)]
        guest: String,
    },
    /// Show the network interfaces of a guest
    Domiflist {
        /// The guest
        #[arg(value_parser = guest)]
        guest: String,
    },
    /// Show the addresses of a guest, as its definition gives them
    Domifaddr {
        /// The guest
        #[arg(value_parser = guest)]
        guest: String,
    },
    /// Show the memory of a guest, and what it takes of the host's, in KiB
    Dommemstat {
        /// The guest
        #[arg(value_parser = guest)]
        guest: String,
    },
    /// Ask a guest for its load, its free memory, its clock and its addresses
    Guestinfo {
        /// The guest
        #[arg(value_parser = guest)]
        guest: String,
    },
    /// Show the processors of a guest
    Vcpuinfo {
        /// The guest
        #[arg(value_parser = guest)]
        guest: String,
    },
    /// Print the definition of a guest, as JSON
    Dumpconfig {
        /// The guest
        #[arg(value_parser = guest)]
        guest: String,
        /// What its next start goes by, not what it runs by
        #[arg(long)]
        inactive: bool,
    },
    /// Define a guest, or define it anew: its next start goes by it
    Define {
        /// A definition, as dumpconfig prints it; - is standard input
        file: PathBuf,
    },
    /// Forget what was defined on the node: a guest is what the image says, or no more
    Undefine {
        /// The guest
        #[arg(value_parser = guest)]
        guest: String,
    },
    /// Make a guest on a copy of the disk of another, which is off, with host keys and a machine id of its own
    Clone(CloneOf),
    /// List the disks that the node has made for guests
    VolList,
    /// Make a disk for a guest that is to be defined
    VolCreate {
        /// Its name: that of the guest
        #[arg(value_parser = guest)]
        volume: String,
        /// How large, with its unit: 2GiB
        size: ByteSize,
    },
    /// Delete a disk that no guest has, and its snapshots
    VolDelete {
        /// Its name: the guest that it was made for
        #[arg(value_parser = guest)]
        volume: String,
    },
    /// Make a snapshot of the disk of a guest; one that runs stands still meanwhile, its file system frozen
    #[command(alias = "snapshot-create-as")]
    SnapshotCreate {
        /// The guest
        #[arg(value_parser = guest)]
        guest: String,
        /// The snapshot's name [default: the seconds since 1970]
        #[arg(value_name = "NAME", value_parser = guest)]
        snapshot: Option<String>,
    },
    /// List the snapshots of a guest's disk
    SnapshotList {
        /// The guest
        #[arg(value_parser = guest)]
        guest: String,
    },
    /// Make the disk of a guest, which is off, what it was; what was written since is lost
    SnapshotRevert {
        /// The guest
        #[arg(value_parser = guest)]
        guest: String,
        /// The snapshot
        #[arg(value_name = "NAME", value_parser = guest)]
        snapshot: String,
    },
    /// Delete a snapshot of a guest's disk
    SnapshotDelete {
        /// The guest
        #[arg(value_parser = guest)]
        guest: String,
        /// The snapshot
        #[arg(value_name = "NAME", value_parser = guest)]
        snapshot: String,
    },
    /// Edit the definition of a guest, with $VISUAL or $EDITOR
    Edit {
        /// The guest
        #[arg(value_parser = guest)]
        guest: String,
    },
    /// Have a guest started with the host
    Autostart {
        /// The guest
        #[arg(value_parser = guest)]
        guest: String,
        /// Or no longer
        #[arg(long)]
        disable: bool,
    },
    /// Change the memory of a guest
    Setmem {
        /// The guest
        #[arg(value_parser = guest)]
        guest: String,
        /// How much, with its unit: 128MiB
        size: String,
        /// In its definition: the next start goes by it
        #[arg(long, required = true)]
        config: bool,
    },
    /// Give a guest a disk of its own
    AttachDisk {
        /// The guest
        #[arg(value_parser = guest)]
        guest: String,
        /// A device or a file of the host, or a size with its unit, 2GiB, for a disk that the node makes
        source: String,
        /// In its definition: the next start goes by it
        #[arg(long, required = true)]
        config: bool,
    },
    /// Take its own disk away from a guest; what is on it stays
    DetachDisk {
        /// The guest
        #[arg(value_parser = guest)]
        guest: String,
        /// In its definition: the next start goes by it
        #[arg(long, required = true)]
        config: bool,
    },
    /// Let the disk of a guest grow, while it runs too
    Blockresize {
        /// The guest
        #[arg(value_parser = guest)]
        guest: String,
        /// To what, with its unit: 2GiB
        size: String,
    },
    /// Change the number of processors of a guest
    Setvcpus {
        /// The guest
        #[arg(value_parser = guest)]
        guest: String,
        /// How many
        count: u64,
        /// In its definition: the next start goes by it
        #[arg(long, required = true)]
        config: bool,
    },
    /// Say on which of the host's processors one of a guest's runs
    Vcpupin {
        /// The guest
        #[arg(value_parser = guest)]
        guest: String,
        /// Which of its processors, from 0 on
        vcpu: u64,
        /// Where: 0-3,7; r for all
        #[arg(value_name = "CPULIST")]
        processors: String,
        /// In its definition: the next start goes by it
        #[arg(long, required = true)]
        config: bool,
    },
    /// Show the host
    Nodeinfo,
    /// List the devices of the host, for `thimble hardware` to read
    Hardware,
    /// Show what the machine is, as its firmware says
    Sysinfo,
    /// Show the networks of the host that are switched on, and how many guests are plugged into each
    NetList {
        /// Those that are off or not there too
        #[arg(long)]
        all: bool,
    },
    /// Print what happens, as it happens
    Event {
        /// What came after this event, too; `begin` is the oldest that is known
        #[arg(long, value_name = "ID")]
        after: Option<String>,
        /// End after so many
        #[arg(long, value_name = "NUMBER")]
        count: Option<u64>,
    },
    /// Show what the guests take, again and again
    Top {
        /// Seconds between two looks
        #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
        delay: u64,
        /// End after so many looks
        #[arg(long, value_name = "NUMBER")]
        count: Option<u64>,
    },
    /// Connect to the console of a guest; Ctrl-] leaves it
    Console {
        /// The guest
        #[arg(value_parser = guest)]
        guest: String,
        /// Look on, and type nothing
        #[arg(long, conflicts_with = "force")]
        read_only: bool,
        /// Whoever types there may only look on from now on
        #[arg(long)]
        force: bool,
    },
    /// Run a command in a guest, as its root, where its definition says `commands = true`; the exit status is the command's, or
    /// 125 when it was not run
    Exec(Exec),
    /// Print what a guest wrote to its console, or what the host logged
    Log {
        /// The guest; the host, if none is named
        #[arg(value_parser = guest)]
        guest: Option<String>,
    },
    /// Show what takes its time
    Tasks {
        /// Give this one up
        #[arg(long, value_name = "ID", value_parser = task)]
        cancel: Option<String>,
    },
    /// Show who changed what
    Audit,
    /// Write all that the node tells of itself to one file, without secrets and without consoles
    Report {
        /// The file, which must not be there yet; `-` is the standard output [default: NAME-report.json]
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Install a release, a thimble.update, into the slot of the host's flash disk that is not in use
    Update {
        /// The thimble.update
        file: PathBuf,
        /// Shut the guests down and start it now; else the host's next boot does
        #[arg(long, conflicts_with = "live")]
        reboot: bool,
        /// Guests have its kernel and initramfs from their next start on, if nothing else in it is new
        #[arg(long)]
        live: bool,
    },
    /// Print what a shell needs to complete these words
    Completion {
        /// The shell
        shell: Shell,
    },
}

/// A task's name, which becomes a part of a path.
fn task(id: &str) -> Result<String, String> {
    let fits = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'));
    fits.then(|| id.to_owned()).ok_or_else(|| "this is no task's name: thimblectl tasks shows them".to_owned())
}

impl From<Typed> for Word {
    fn from(typed: Typed) -> Self {
        match typed {
            Typed::List { all } => Self::List { all },
            Typed::Start(guests) => Self::Act(Verb::Start, guests),
            Typed::Shutdown(guests) => Self::Act(Verb::Shutdown, guests),
            Typed::Destroy(guests) => Self::Act(Verb::Destroy, guests),
            Typed::Reboot(guests) => Self::Act(Verb::Reboot, guests),
            Typed::Reset(guests) => Self::Act(Verb::Reset, guests),
            Typed::Suspend(guests) => Self::Act(Verb::Suspend, guests),
            Typed::Resume(guests) => Self::Act(Verb::Resume, guests),
            Typed::Dominfo { guest } => Self::Dominfo { guest },
            Typed::Domstate { guest, reason } => Self::Domstate { guest, reason },
            Typed::Domstats { guests } => Self::Domstats { guests },
            Typed::Domblklist { guest } => Self::Domblklist { guest },
            Typed::Domiflist { guest } => Self::Domiflist { guest },
            Typed::Domifaddr { guest } => Self::Domifaddr { guest },
            Typed::Guestinfo { guest } => Self::Guestinfo { guest },
            Typed::Dommemstat { guest } => Self::Dommemstat { guest },
            Typed::Vcpuinfo { guest } => Self::Vcpuinfo { guest },
            Typed::Dumpconfig { guest, inactive } => Self::Dumpconfig { guest, inactive },
            Typed::Define { file } => Self::Define { file },
            Typed::Undefine { guest } => Self::Undefine { guest },
            Typed::Clone(clone) => Self::Clone(clone),
            Typed::VolList => Self::VolList,
            Typed::VolCreate { volume, size } => Self::VolCreate { volume, size },
            Typed::VolDelete { volume } => Self::VolDelete { volume },
            Typed::SnapshotCreate { guest, snapshot } => Self::SnapshotCreate { guest, snapshot },
            Typed::SnapshotList { guest } => Self::SnapshotList { guest },
            Typed::SnapshotRevert { guest, snapshot } => Self::SnapshotRevert { guest, snapshot },
            Typed::SnapshotDelete { guest, snapshot } => Self::SnapshotDelete { guest, snapshot },
            Typed::Edit { guest } => Self::Edit { guest },
            Typed::Autostart { guest, disable } => Self::Autostart { guest, disable },
            Typed::Setmem { guest, size, .. } => Self::Setmem { guest, size },
            Typed::AttachDisk { guest, source, .. } => Self::AttachDisk { guest, source },
            Typed::DetachDisk { guest, .. } => Self::DetachDisk { guest },
            Typed::Blockresize { guest, size } => Self::Blockresize { guest, size },
            Typed::Setvcpus { guest, count, .. } => Self::Setvcpus { guest, count },
            Typed::Vcpupin { guest, vcpu, processors, .. } => Self::Vcpupin { guest, vcpu, processors },
            Typed::Nodeinfo => Self::Nodeinfo,
            Typed::Hardware => Self::Hardware,
            Typed::Sysinfo => Self::Sysinfo,
            Typed::NetList { all } => Self::NetList { all },
            Typed::Event { after, count } => Self::Event { after, count },
            Typed::Top { delay, count } => Self::Top { delay, count },
            Typed::Console { guest, read_only, force } => Self::Console { guest, read_only, force },
            Typed::Exec(exec) => Self::Exec(exec),
            Typed::Log { guest } => Self::Log { guest },
            Typed::Tasks { cancel } => Self::Tasks { cancel },
            Typed::Audit => Self::Audit,
            Typed::Report { output } => Self::Report { output },
            Typed::Update { file, reboot, live } => Self::Update { file, reboot, live },
            Typed::Completion { shell } => Self::Completion { shell },
        }
    }
}

impl clap::FromArgMatches for Word {
    fn from_arg_matches(matches: &clap::ArgMatches) -> Result<Self, clap::Error> {
        Typed::from_arg_matches(matches).map(Self::from)
    }

    fn update_from_arg_matches(&mut self, matches: &clap::ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Subcommand for Word {
    fn augment_subcommands(command: clap::Command) -> clap::Command {
        Typed::augment_subcommands(command)
    }

    fn augment_subcommands_for_update(command: clap::Command) -> clap::Command {
        Typed::augment_subcommands_for_update(command)
    }

    fn has_subcommand(name: &str) -> bool {
        Typed::has_subcommand(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_words_are_understood() {
        Cli::command().debug_assert();
        let parse = |line: &str| Cli::try_parse_from(["thimblectl"].into_iter().chain(line.split(' ')));
        for verb in Verb::ALL {
            let cli = parse(&format!("{} web1 web2 --wait --timeout 5 --json", verb.name())).unwrap();
            assert!(cli.json && cli.timeout == Some(5));
            assert!(
                matches!(cli.word, Word::Act(found, guests) if found == verb && guests.wait && guests.names.len() == 2)
            );
        }
        for line in [
            "setmem web1 64MiB --config",
            "vcpupin web1 0 0-3 --config",
            "blockresize web1 2GiB",
            "attach-disk web1 /dev/vg/web1 --config",
            "detach-disk web1 --config",
            "define -",
            "autostart web1 --disable",
            "domifaddr web1 --json",
            "dommemstat web1 --timeout 5",
            "guestinfo web1",
            "exec web1 ls -l --color",
            "exec -t -e A=b=c web1 -- sh -c x",
            "net-list --all",
            "sysinfo",
            "vol-create web9 64MiB",
            "snapshot-create web1",
            "snapshot-create-as web1 before --timeout 5",
            "snapshot-revert web1 before",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
        for line in [
            "start",
            "start ../web1",
            "dominfo",
            "console web1 --force --read-only",
            "domifaddr ../x",
            "guestinfo",
            "exec web1",
            "exec -e A web1 ls",
            "exec ../x ls",
            "exec -t --no-terminal web1 ls",
            "dommemstat",
            "net-list br0",
            "tasks --cancel ../x",
            "explode",
            "undefine ../x",
            "edit",
            "define",
            "setmem web1 64MiB",
            "setvcpus web1 -1 --config",
            "blockresize web1",
            "vcpupin web1 0 --config",
            "vol-create web9 much",
            "vol-create ../web9 64MiB",
            "snapshot-create web1 ../x",
            "snapshot-revert web1",
            "snapshot-delete web1 a.b",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
