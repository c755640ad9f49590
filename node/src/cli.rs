//! The command line: the daemon, and what an administrator or PID 1 asks of a node beside it.

use std::path::PathBuf;

use thimble_spec::paths;

/// The verbs and what they do.
pub const USAGE: &str = "usage: thimble-node [APPLIANCE.json]
       thimble-node update SOURCE [--reboot | --live] [--json]
       thimble-node slots [--json]
       thimble-node guests [--json]
       thimble-node services [start|stop|restart NAME] [--json]
       thimble-node firewall [--json]
       thimble-node network [show] [--json]
       thimble-node network apply FILE [--confirm-within=SECONDS] [--reach=ADDRESS]
       thimble-node network confirm|rollback
       thimble-node logs [--follow] [--level=LEVEL] [--source=SOURCE] [--json]
       thimble-node power off|reboot|kexec
       thimble-node storage [status|plan] [--json]
       thimble-node storage apply | scrub ARRAY | replace ARRAY OLD NEW | force ARRAY
       thimble-node confirm
       thimble-node syslog

Without a verb, supervises the guests of the appliance until SIGTERM: then it shuts them down and ends. PID 1 starts it.

update   installs a thimble.update into the slot of the flash disk that is not in use. SOURCE is the file, a block device
         that holds it from its first byte on, or - for standard input. Nothing is written of an update that is not signed
         with the appliance's key. It starts at the next boot; --reboot shuts the guests down and boots it now. If its
         guests do not get ready in time, the machine goes back to this release by itself. --live, of an update that
         changes nothing but the guests' kernel and initramfs: guests that run keep theirs, and each takes the new one when
         it starts the next time; the slot has it for the next boot.
slots    what both slots of the flash disk hold, and which one is started next
guests   what each guest does, and the hashes of the kernel and the initramfs that it runs and will run next
services what the programs do that PID 1 keeps; or start, stop or restart one
firewall what the firewall counted: packets for the host that are not allowed (denied), and what a guest sent under another
         name than its own (NAME mac, arp, ip), or that no guest sends (NAME other)
network  links and addresses; or makes them what another definition says: FILE, or - for standard input, is the appliance.json
         that `thimble build` writes, of which [network] and [firewall] count; its guests must be those of this host. Unless `network confirm` follows within 120 seconds, or as
         many as are said, or while ADDRESS does not answer for 15 seconds, the network before comes back by itself
logs     what the kernel, PID 1 and its services wrote; --level: so grave or graver (emergency, alert, critical, error,
         warning, notice, info, debug); --source: kernel, init, node or a service; --follow: and what comes
power    shuts the guests down, then ends the host; kexec starts the running release again without the firmware
storage  how disks, arrays, volumes and file systems are; plan: what would be done to make them what is declared; apply: do
         it, as PID 1 has it done at the boot and whenever disks come and go; scrub: read an array as a whole, in the
         background; replace: have a member of an array (or `missing`) replaced by another device, in the background;
         force: start an array that Linux refuses, for it was written to without a member when the power failed
syslog   sends the log to the server that the appliance names; PID 1 does so
confirm  tells the boot loader that this release works; PID 1 does so

--json   one JSON object on standard output, and no progress

Exit code: 0 done, or nothing to do; 1 it could not be done; 2 the command line is wrong; 3 the update is refused.
An update that is interrupted, by whatever, has changed nothing of the release in use: start it again.";

/// The options that nobody has taken yet.
#[derive(Debug, Default)]
pub struct Options<'a>(Vec<&'a str>);

impl Options<'_> {
    /// Takes one without a value; says whether it was there.
    pub fn flag(&mut self, name: &str) -> bool {
        let place = self.0.iter().position(|option| *option == name);
        place.map(|place| self.0.remove(place)).is_some()
    }

    /// Takes one with a value: `--name=value`.
    pub fn value(&mut self, name: &str) -> Option<String> {
        let of = |option: &str| option.strip_prefix(name)?.strip_prefix('=').map(str::to_owned);
        let place = self.0.iter().position(|option| of(option).is_some())?;
        of(self.0.remove(place))
    }
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Supervise the guests.
    Daemon {
        /// The appliance.
        appliance: PathBuf,
    },
    /// Install an update.
    Update {
        /// A file, a block device, or `-`.
        source: PathBuf,
        /// Reboot into it.
        reboot: bool,
        /// Let guests that start have its kernel and initramfs now.
        live: bool,
        /// For programs.
        json: bool,
    },
    /// Show the slots.
    Slots {
        /// For programs.
        json: bool,
    },
    /// Show the guests.
    Guests {
        /// For programs.
        json: bool,
    },
    /// Ask PID 1.
    Host(crate::host::Ask),
    /// The running slot works.
    Confirm,
    /// About the storage.
    Storage(crate::storage::Ask),
    /// Send the log to a server.
    Syslog,
    /// Show [`USAGE`].
    Help,
}

impl Verb {
    /// Reads the arguments behind the program's name.
    ///
    /// # Errors
    /// A sentence.
    pub fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Vec::new();
        let mut words = Vec::new();
        for argument in arguments {
            match argument.as_str() {
                "-h" | "--help" => return Ok(Self::Help),
                option if option.starts_with("--") => options.push(option),
                word => words.push(word),
            }
        }
        let mut options = Options(options);
        let verb = match words[..] {
            [] => Self::Daemon { appliance: paths::APPLIANCE.into() },
            ["update", source] => {
                let (reboot, live) = (options.flag("--reboot"), options.flag("--live"));
                if reboot && live {
                    return Err("--live is there to go without --reboot: say one of them".to_owned());
                }
                Self::Update { source: source.into(), reboot, live, json: options.flag("--json") }
            }
            ["update", ..] => return Err("update takes one file, block device or -".to_owned()),
            ["slots"] => Self::Slots { json: options.flag("--json") },
            ["guests"] => Self::Guests { json: options.flag("--json") },
            ["confirm"] => Self::Confirm,
            ["syslog"] => Self::Syslog,
            ["storage", ref words @ ..] => Self::Storage(crate::storage::Ask::parse(words, &mut options)?),
            ["services" | "firewall" | "network" | "power" | "logs", ..] => {
                Self::Host(crate::host::Ask::parse(&words, &mut options)?)
            }
            [appliance] => Self::Daemon { appliance: appliance.into() },
            [word, ..] => return Err(format!("`{}` takes nothing more", word.escape_debug())),
        };
        match options.0.first() {
            Some(option) => Err(format!("the option {} has no meaning here", option.escape_debug())),
            None => Ok(verb),
        }
    }
}

/// What the program's exit code says.
pub mod exit {
    use std::fmt;

    /// It could not be done.
    pub const FAILED: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 2;
    /// The update is refused.
    pub const REFUSED: u8 = 3;

    /// The mark of a refusal.
    #[derive(Debug)]
    struct Refused(String);

    impl fmt::Display for Refused {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(&self.0)
        }
    }

    impl std::error::Error for Refused {}

    /// The error that says why an update is refused.
    pub fn refused(sentence: &str) -> anyhow::Error {
        anyhow::Error::new(Refused(sentence.to_owned()))
    }

    /// Of an error.
    pub fn code(error: &anyhow::Error) -> u8 {
        let by_store = matches!(error.downcast_ref(), Some(thimble_store::Error::Refused(_)));
        if by_store || error.is::<Refused>() { REFUSED } else { FAILED }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(line: &str) -> Result<Verb, String> {
        Verb::parse(&line.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn verbs_are_understood() {
        assert_eq!(parse(""), Ok(Verb::Daemon { appliance: paths::APPLIANCE.into() }));
        assert_eq!(parse("/x.json"), Ok(Verb::Daemon { appliance: "/x.json".into() }));
        let update = |reboot, live, json| Ok(Verb::Update { source: "/dev/vdb".into(), reboot, live, json });
        assert_eq!(parse("update /dev/vdb"), update(false, false, false));
        assert_eq!(parse("update --json /dev/vdb --reboot"), update(true, false, true));
        assert_eq!(parse("update /dev/vdb --live"), update(false, true, false));
        assert!(parse("update /dev/vdb --live --reboot").is_err());
        assert_eq!(parse("update -"), Ok(Verb::Update { source: "-".into(), reboot: false, live: false, json: false }));
        assert_eq!(parse("slots --json"), Ok(Verb::Slots { json: true }));
        assert_eq!(parse("guests"), Ok(Verb::Guests { json: false }));
        assert_eq!(parse("confirm"), Ok(Verb::Confirm));
        for line in ["storage", "storage plan --json", "storage scrub data"] {
            assert!(matches!(parse(line), Ok(Verb::Storage(_))), "{line}");
        }
        for line in ["services --json", "logs --follow --level=error --source=kernel --json", "power kexec"] {
            assert!(matches!(parse(line), Ok(Verb::Host(_))), "{line}");
        }
        assert_eq!(parse("slots --help"), Ok(Verb::Help));
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(parse("update"), Err("update takes one file, block device or -".to_owned()));
        assert_eq!(parse("slots --reboot"), Err("the option --reboot has no meaning here".to_owned()));
        assert_eq!(parse("slots a"), Err("`slots` takes nothing more".to_owned()));
    }

    proptest! {
        #[test]
        fn any_words_are_safe(words in proptest::collection::vec(".*", 0..5)) {
            let _ = Verb::parse(&words);
        }
    }
}
