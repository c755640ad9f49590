//! The line between PID 1 and the VMM: `ready SECONDS` and answers out; `shutdown`, `freeze NUMBER`, `thaw`, `look NUMBER` and
//! `time MILLISECONDS` in.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::termios::{ControlFlags, SetArg, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{read, write};
use thimble_spec::inside::Inside;
use thimble_spec::vmm::{
    AGENT_FREEZE, AGENT_FROZEN, AGENT_LOOK, AGENT_NOT_FROZEN, AGENT_READY, AGENT_SEEN, AGENT_SHUTDOWN, AGENT_THAW,
    AGENT_TIME, AGENT_TTY,
};

use super::freeze::Freeze;
use super::look;
use crate::console;
use crate::lines::Lines;

/// What the VMM asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// That the guest ends.
    Shutdown,
    /// That the file system of its disk is frozen; the answer has this number.
    Freeze(u32),
    /// That it is thawed again.
    Thaw,
    /// What the guest is like; the answer has this number.
    Look(u32),
    /// That it is so many milliseconds since 1970.
    Time(u64),
}

impl Word {
    fn parse(line: &str) -> Option<Self> {
        match line.split_once(' ').unwrap_or((line, "")) {
            (AGENT_SHUTDOWN, "") => Some(Self::Shutdown),
            (AGENT_THAW, "") => Some(Self::Thaw),
            (AGENT_FREEZE, number) => number.parse().ok().map(Self::Freeze),
            (AGENT_LOOK, number) => number.parse().ok().map(Self::Look),
            (AGENT_TIME, number) => number.parse().ok().map(Self::Time),
            _ => None,
        }
    }
}

/// The open serial port.
pub struct Agent {
    tty: OwnedFd,
    lines: Lines,
}

impl Agent {
    /// Opens the port and makes it carry bytes as they are. A machine without it is none of our VMM's: that is fine.
    pub fn open() -> Option<Self> {
        Self::open_at(Path::new(AGENT_TTY))
    }

    fn open_at(path: &Path) -> Option<Self> {
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let tty = open(path, flags, Mode::empty()).ok()?;
        // A port that is not there opens too, but is no terminal: tcgetattr gives EIO.
        let mut settings = tcgetattr(&tty).ok()?;
        cfmakeraw(&mut settings);
        // The VMM's end has no modem lines that could drop.
        settings.control_flags |= ControlFlags::CLOCAL | ControlFlags::CREAD;
        tcsetattr(&tty, SetArg::TCSANOW, &settings).ok()?;
        Some(Self { tty, lines: Lines::default() })
    }

    /// Says that the services are ready.
    pub fn ready(&self, after: Duration) {
        self.say(&format!("{AGENT_READY} {:.2}\n", after.as_secs_f64()), "that the guest is ready");
    }

    /// Answers the request of this number to freeze.
    fn frozen(&self, number: u32, done: bool) {
        let word = if done { AGENT_FROZEN } else { AGENT_NOT_FROZEN };
        self.say(&format!("{word} {number}\n"), "whether the disk is frozen");
    }

    /// Answers the request of this number to say what the guest is like.
    fn seen(&self, number: u32, inside: &Inside) {
        self.say(&format!("{AGENT_SEEN} {number} {inside}\n"), "what the guest is like");
    }

    fn say(&self, line: &str, what: &str) {
        if let Err(errno) = write(&self.tty, line.as_bytes()) {
            console::error(&format!("cannot tell the VMM {what}: {errno}"));
        }
    }

    /// Does what came, in its order, `own` being what is to be frozen; says whether the guest is to end, which is the caller's
    /// matter. Nothing that can be read any more is `None`.
    pub fn heed(&mut self, freeze: &mut Freeze, own: Option<&File>) -> Option<bool> {
        let mut ends = false;
        for word in self.read()? {
            match word {
                Word::Shutdown => ends = true,
                Word::Freeze(number) => self.frozen(number, freeze.freeze(own)),
                Word::Thaw => freeze.thaw(),
                Word::Look(number) => self.seen(number, &look::look()),
                Word::Time(milliseconds) => look::set_clock(milliseconds),
            }
        }
        Some(ends)
    }

    /// Reads what came, in its order. Nothing that can be read any more is `None`.
    fn read(&mut self) -> Option<Vec<Word>> {
        let mut buffer = [0; 256];
        let mut words = Vec::new();
        loop {
            match read(&self.tty, &mut buffer) {
                Ok(0) => return None,
                Ok(count) => {
                    for line in self.lines.feed(&buffer[..count]) {
                        match Word::parse(&line) {
                            Some(word) => words.push(word),
                            None => console::notice("the VMM said a word that is not known here"),
                        }
                    }
                }
                Err(nix::Error::EAGAIN) => return Some(words),
                Err(nix::Error::EINTR) => {}
                Err(_) => return None,
            }
        }
    }
}

impl AsFd for Agent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tty.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::pty::openpty;
    use nix::unistd::ttyname;

    #[test]
    fn talks_in_lines_without_echo() {
        // Given a terminal as it is by default: it echoes, and turns line ends into others.
        let pair = openpty(None, None).unwrap();
        let mut agent = Agent::open_at(&ttyname(&pair.slave).unwrap()).unwrap();
        assert_eq!(agent.read(), Some(vec![]), "nothing came yet");
        // When the guest is ready and the VMM says its word,
        agent.ready(Duration::from_millis(1230));
        write(&pair.master, b"nonsense\nfreeze\nfreeze 7\nthaw\nlook 8\nlook\ntime 1763900000123\ntime soon\nshut")
            .unwrap();
        let words = vec![Word::Freeze(7), Word::Thaw, Word::Look(8), Word::Time(1_763_900_000_123)];
        assert_eq!(agent.read(), Some(words));
        agent.frozen(7, true);
        write(&pair.master, b"down\n").unwrap();
        // then the word is understood, and the VMM sees the guest's own words only.
        assert_eq!(agent.read(), Some(vec![Word::Shutdown]));
        let mut seen = [0; 64];
        let count = read(&pair.master, &mut seen).unwrap();
        assert_eq!(&seen[..count], b"ready 1.23\nfrozen 7\n");
    }

    #[test]
    fn a_machine_without_the_port_is_fine() {
        assert!(Agent::open_at(Path::new("/nonexistent")).is_none());
        assert!(Agent::open_at(Path::new("/dev/null")).is_none());
    }
}
