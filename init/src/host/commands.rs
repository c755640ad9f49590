//! The words that PID 1 understands on the console, when the kernel command line allows it: for tests and for rescue.

use thimble_spec::names::check_name;

/// On the kernel command line, it lets the console command PID 1. Whoever can write there owns the node anyway.
pub const ALLOWED: &str = "thimble.console-commands";

/// How much of the kernel's log is shown.
const LOG_LINES: usize = 60;

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Lists the commands.
    Help,
    /// What runs, and which addresses there are.
    Status,
    /// Ends in order, and starts again.
    Reboot,
    /// Ends in order.
    PowerOff,
    /// Kills the node daemon, which PID 1 starts again.
    KillNode,
    /// Stops the node daemon, and each that comes after it, without ending it.
    FreezeNode,
    /// Does nothing any more.
    Hang,
    /// Processes.
    Processes,
    /// So many of the last lines of the kernel's log.
    Log(usize),
    /// A file.
    Cat(String),
    /// What `thimble-node` does, with these words.
    Node(Vec<String>),
    /// A guest's VMM: the guest, and the words of `thimble-vmm ask`.
    Ask(String, Vec<String>),
}

/// Word and explanation of each command.
pub const HELP: [(&str, &str); 17] = [
    ("help", "this list"),
    ("status", "what runs, and which addresses there are"),
    ("reboot", "stop the guests, then start the host again"),
    ("poweroff", "stop the guests, then switch the host off"),
    ("kill-node", "kill the node daemon; it is started again, guests keep running"),
    ("freeze-node", "stop the node daemon by SIGSTOP, and each one that comes after it: what the watchdog is for"),
    ("hang", "PID 1 does nothing any more: the same"),
    ("ps", "processes"),
    ("log [LINES]", "the end of the kernel's log, 60 lines if nothing is said"),
    ("cat FILE", "the text of a file"),
    ("guests", "what each guest does, and which kernel and initramfs it runs"),
    ("services", "what the programs do that PID 1 keeps; further words as thimble-node --help has them"),
    ("firewall", "what the firewall counted"),
    ("network", "links and addresses; with apply FILE, confirm or rollback another network on trial"),
    ("slots", "what the slots of the flash disk hold"),
    ("update FILE", "install an update from a file or a block device; with --reboot, start it too"),
    ("ask GUEST VERB", "what thimble-vmm ask does: status, stats, pause, resume, ..."),
];

impl Command {
    /// Reads a line.
    ///
    /// # Errors
    /// A sentence.
    pub fn parse(line: &str) -> Result<Self, String> {
        let line = line.trim();
        let (word, argument) =
            line.split_once(char::is_whitespace).map_or((line, ""), |(word, rest)| (word, rest.trim()));
        let command = match (word, argument) {
            ("help", "") => Self::Help,
            ("status", "") => Self::Status,
            ("reboot", "") => Self::Reboot,
            ("poweroff", "") => Self::PowerOff,
            ("kill-node", "") => Self::KillNode,
            ("freeze-node", "") => Self::FreezeNode,
            ("hang", "") => Self::Hang,
            ("ps", "") => Self::Processes,
            ("log", "") => Self::Log(LOG_LINES),
            ("log", lines) => Self::Log(lines.parse().map_err(|_| format!("log takes a number, not `{lines}`"))?),
            ("cat", path) if path.starts_with('/') => Self::Cat(path.to_owned()),
            ("cat", _) => return Err("cat takes the absolute path of a file".to_owned()),
            ("update", "") => return Err("update takes a file or a block device".to_owned()),
            ("update", words) => Self::Node(["update"].into_iter().chain(split(words)).map(str::to_owned).collect()),
            ("guests" | "slots", "") => Self::Node(vec![word.to_owned()]),
            // What thimble-node asks PID 1.
            ("services" | "firewall" | "network" | "power" | "logs", words) => {
                Self::Node([word].into_iter().chain(split(words)).map(str::to_owned).collect())
            }
            ("ask", words) => {
                let mut words = split(words).map(str::to_owned);
                match (words.next(), words.collect::<Vec<_>>()) {
                    // A guest's name is part of a path.
                    (Some(guest), words) if !words.is_empty() && check_name(&guest).is_ok() => Self::Ask(guest, words),
                    _ => return Err("ask takes the name of a guest and a verb, such as status".to_owned()),
                }
            }
            (
                "help" | "status" | "reboot" | "poweroff" | "kill-node" | "freeze-node" | "hang" | "ps" | "guests"
                | "slots",
                _,
            ) => {
                return Err(format!("{word} stands alone"));
            }
            _ => return Err(format!("`{}` is no command, try help", word.escape_debug())),
        };
        Ok(command)
    }
}

fn split(words: &str) -> impl Iterator<Item = &str> {
    words.split_ascii_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_command_in_the_help_is_understood() {
        for (word, _) in HELP {
            assert!(
                Command::parse(&word.replace("FILE", "/etc/hosts").replace("GUEST", "web1").replace("[LINES]", "9"))
                    .is_ok(),
                "{word}"
            );
        }
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(Command::parse(" cat  /proc/cmdline \r"), Ok(Command::Cat("/proc/cmdline".to_owned())));
        assert_eq!(Command::parse("cat etc").unwrap_err(), "cat takes the absolute path of a file");
        assert_eq!(Command::parse("reboot now").unwrap_err(), "reboot stands alone");
        assert_eq!(Command::parse("rm -rf").unwrap_err(), "`rm` is no command, try help");
        assert!(Command::parse("").is_err());
        let asked = Command::parse("ask web1 balloon  64MiB");
        assert_eq!(asked, Ok(Command::Ask("web1".to_owned(), vec!["balloon".to_owned(), "64MiB".to_owned()])));
        let node = |words: &[&str]| Ok(Command::Node(words.iter().map(|word| (*word).to_owned()).collect()));
        assert_eq!(Command::parse("update  /dev/vdb --reboot"), node(&["update", "/dev/vdb", "--reboot"]));
        assert_eq!(Command::parse("slots"), node(&["slots"]));
        assert_eq!(Command::parse("guests x").unwrap_err(), "guests stands alone");
        for line in ["ask", "ask web1", "ask ../web1 stats"] {
            assert!(Command::parse(line).unwrap_err().starts_with("ask takes the name of a guest"), "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_safe(line in ".*") {
            let _ = Command::parse(&line);
        }
    }
}
