//! The line between PID 1 and the VMM: `ready SECONDS` out, `shutdown` in.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::termios::{ControlFlags, SetArg, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{read, write};
use thimble_spec::vmm::{AGENT_READY, AGENT_SHUTDOWN, AGENT_TTY};

use crate::console;
use crate::lines::Lines;

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
        let line = format!("{AGENT_READY} {:.2}\n", after.as_secs_f64());
        if let Err(errno) = write(&self.tty, line.as_bytes()) {
            console::error(&format!("cannot tell the VMM that the guest is ready: {errno}"));
        }
    }

    /// Reads what came; says whether a shutdown is wanted. Nothing that can be read any more is `None`.
    pub fn read(&mut self) -> Option<bool> {
        let mut buffer = [0; 256];
        let mut shutdown = false;
        loop {
            match read(&self.tty, &mut buffer) {
                Ok(0) => return None,
                Ok(count) => {
                    for line in self.lines.feed(&buffer[..count]) {
                        if line == AGENT_SHUTDOWN {
                            shutdown = true;
                        } else {
                            console::notice("the VMM said a word that is not known here");
                        }
                    }
                }
                Err(nix::Error::EAGAIN) => return Some(shutdown),
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
        assert_eq!(agent.read(), Some(false), "nothing came yet");
        // When the guest is ready and the VMM says its word,
        agent.ready(Duration::from_millis(1230));
        write(&pair.master, b"nonsense\nshut").unwrap();
        assert_eq!(agent.read(), Some(false));
        write(&pair.master, b"down\n").unwrap();
        // then the word is understood, and the VMM sees the guest's own words only.
        assert_eq!(agent.read(), Some(true));
        let mut seen = [0; 64];
        let count = read(&pair.master, &mut seen).unwrap();
        assert_eq!(&seen[..count], b"ready 1.23\n");
    }

    #[test]
    fn a_machine_without_the_port_is_fine() {
        assert!(Agent::open_at(Path::new("/nonexistent")).is_none());
        assert!(Agent::open_at(Path::new("/dev/null")).is_none());
    }
}
