//! The console as a place to command PID 1: reads lines, carries commands out, answers behind `console: `.

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::{OFlag, open};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::read;
use thimble_spec::paths::{GUEST_RUN_DIR, NODE, VMM};
use thimble_spec::vmm::CONTROL_FILE;

use super::Host;
use super::commands::{Command, HELP};
use crate::clock::since_boot;
use crate::console;
use crate::error::{Doing, Result};
use crate::lines::Lines;
use crate::net;
use crate::power::Ending;
use crate::process;

/// The longest file that `cat` shows.
const CAT_LIMIT: u64 = 64 << 10;

/// The console, open for reading.
pub struct Commander {
    tty: OwnedFd,
    lines: Lines,
}

impl Commander {
    /// Opens it a second time: this description does not wait, and the one that children inherit does.
    pub fn open() -> Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let tty = open(console::CONSOLE, flags, Mode::empty()).doing(|| format!("read {}", console::CONSOLE))?;
        Ok(Self { tty, lines: Lines::default() })
    }

    /// The lines that came; `None` when nothing ever comes again.
    fn read(&mut self) -> Option<Vec<String>> {
        let mut buffer = [0; 256];
        let mut lines = Vec::new();
        loop {
            match read(&self.tty, &mut buffer) {
                Ok(0) => return None,
                Ok(count) => lines.extend(self.lines.feed(&buffer[..count])),
                Err(nix::Error::EAGAIN) => return Some(lines),
                Err(nix::Error::EINTR) => {}
                Err(_) => return None,
            }
        }
    }
}

impl AsFd for Commander {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tty.as_fd()
    }
}

/// Prints an answer, each line behind its prefix.
fn say(text: &str) {
    for line in text.lines() {
        console::relay(&format!("console: {line}"));
    }
}

impl Host<'_> {
    /// Carries out what was typed; says how the machine should end, if that was typed.
    pub fn command(&mut self) -> Option<Ending> {
        let commander = self.commander.as_mut()?;
        let Some(lines) = commander.read() else {
            self.commander = None;
            return None;
        };
        let mut ending = None;
        for line in lines {
            match Command::parse(&line) {
                Ok(Command::Reboot) => ending = Some(Ending::Reboot),
                Ok(Command::PowerOff) => ending = Some(Ending::PowerOff),
                Ok(command) => self.answer(&command),
                Err(sentence) => say(&sentence),
            }
        }
        if let Some(ending) = ending {
            say(&format!("{ending:?} begins"));
        }
        ending
    }

    fn answer(&mut self, command: &Command) {
        match command {
            Command::Help => HELP.iter().for_each(|(word, what)| say(&format!("{word:15} {what}"))),
            Command::Status => self.status(),
            Command::KillNode => match self.node_pid() {
                Some(pid) => {
                    self.node.signal(Signal::SIGKILL);
                    say(&format!("killed the node daemon, process {pid}"));
                }
                None => say("the node daemon does not run"),
            },
            Command::FreezeNode => {
                self.node.freeze();
                say("every node daemon is stopped from now on");
            }
            Command::Hang => {
                say("PID 1 hangs from now on");
                loop {
                    std::thread::sleep(std::time::Duration::from_secs(60));
                }
            }
            Command::Processes => processes(),
            Command::Log(lines) => log(*lines),
            Command::Cat(path) => cat(path),
            Command::Node(words) => {
                let exec: Vec<String> =
                    [NODE].into_iter().chain(words.iter().map(String::as_str)).map(str::to_owned).collect();
                self.child(&exec);
            }
            Command::Ask(guest, words) => self.ask(guest, words),
            // Carried out by the caller.
            Command::Reboot | Command::PowerOff => {}
        }
    }

    fn status(&self) {
        say(&format!("appliance {} up {:.2}", self.appliance.name, since_boot().as_secs_f64()));
        match self.node_pid() {
            Some(pid) => say(&format!("node {pid} {}", if self.node.is_ready() { "ready" } else { "starting" })),
            None => say("node does not run"),
        }
        for client in self.network.clients() {
            let address = client.address().map_or("no address yet".to_owned(), |address| address.to_string());
            say(&format!("dhcp {} {address}", client.interface()));
        }
        for entry in fs::read_dir(net::INTERFACES).into_iter().flatten().flatten() {
            let file = |name: &str| fs::read_to_string(entry.path().join(name)).unwrap_or_default().trim().to_owned();
            let name = entry.file_name();
            // The bonding driver keeps a file of its own there.
            if !entry.path().is_dir() {
                continue;
            }
            say(&format!("link {} {} {}", name.to_string_lossy(), file("operstate"), file("address")));
        }
        say(fs::read_to_string("/proc/net/fib_trie").map(|trie| local_addresses(&trie)).unwrap_or_default().trim());
    }

    /// Has another process do it, for what takes its time must not hold PID 1; it prints the answer.
    fn child(&self, exec: &[String]) {
        if let Err(error) = process::start_as_root(exec, &self.appliance.name) {
            say(&error.sentence());
        }
    }

    /// Has another process ask, for a VMM that does not answer must not hold PID 1.
    fn ask(&self, guest: &str, words: &[String]) {
        let socket = format!("{GUEST_RUN_DIR}/{guest}/{CONTROL_FILE}");
        let mut exec = vec![VMM.to_owned(), "ask".to_owned(), socket];
        exec.extend_from_slice(words);
        self.child(&exec);
    }
}

/// The machine's own addresses in the text of /proc/net/fib_trie: the line before each `/32 host LOCAL`.
fn local_addresses(trie: &str) -> String {
    let mut addresses: Vec<&str> = Vec::new();
    let lines: Vec<&str> = trie.lines().collect();
    for pair in lines.windows(2) {
        if let (Some(address), true) = (pair[0].trim().strip_prefix("|-- "), pair[1].contains("/32 host LOCAL"))
            && !addresses.contains(&address)
        {
            addresses.push(address);
        }
    }
    addresses.iter().map(|address| format!("address {address}\n")).collect()
}

fn processes() {
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let line = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        // Kernel threads have none.
        if !line.is_empty() {
            say(&format!("{pid:6} {}", line.replace('\0', " ").trim()));
        }
    }
}

fn log(lines: usize) {
    let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg");
    let mut records = Vec::new();
    if let Ok(mut file) = file {
        // Each read gives one record, `PRIORITY,NUMBER,TIME,FLAGS;TEXT` (Documentation/ABI/testing/dev-kmsg).
        let mut buffer = [0; 8192];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => records.push(record(&String::from_utf8_lossy(&buffer[..count]))),
                // The record was overwritten before it was read; the next one is there.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(_) => break,
            }
        }
    }
    for text in &records[records.len().saturating_sub(lines)..] {
        say(text);
    }
}

/// One record of /dev/kmsg as people read it.
fn record(record: &str) -> String {
    let (head, text) = record.split_once(';').unwrap_or(("", record));
    let microseconds: u64 = head.split(',').nth(2).and_then(|time| time.parse().ok()).unwrap_or(0);
    format!("[{:5}.{:06}] {}", microseconds / 1_000_000, microseconds % 1_000_000, text.lines().next().unwrap_or(""))
}

fn cat(path: &str) {
    let mut text = Vec::new();
    // Without waiting: a file can be a device or a pipe.
    let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    match file.and_then(|file| file.take(CAT_LIMIT).read_to_end(&mut text)) {
        Ok(_) => say(&String::from_utf8_lossy(&text)),
        Err(error) => say(&format!("cannot read {path}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_machines_addresses() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.1.1.0\n        /24 link UNICAST\n     |-- 10.1.1.50\n        \
            /32 host LOCAL\nLocal:\n     |-- 10.1.1.50\n        /32 host LOCAL\n     |-- 127.0.0.1\n        /32 host LOCAL\n";
        assert_eq!(local_addresses(trie), "address 10.1.1.50\naddress 127.0.0.1\n");
    }

    #[test]
    fn records_become_lines() {
        assert_eq!(record("6,339,5140900,-;NET: Registered\n SUBSYSTEM=x\n"), "[    5.140900] NET: Registered");
        assert_eq!(record("nonsense"), "[    0.000000] nonsense");
    }
}
