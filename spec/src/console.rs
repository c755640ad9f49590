//! The lines that other programs wait for on a console: a contract.
//!
//! Each stands at the start of a line, and nothing else that Thimble prints starts with `thimble:`.

use std::fmt;
use std::time::Duration;

use crate::vmm::ExitReason;

/// A line of the host's or a guest's console.
#[derive(Clone, Debug, PartialEq)]
pub enum Line<'a> {
    /// `thimble: host NAME up SECONDS`: network and storage are as declared and the daemon runs.
    HostUp {
        /// The appliance.
        name: &'a str,
        /// Since the kernel started.
        after: Duration,
    },
    /// `thimble: guest NAME running`: the VMM entered the guest's kernel.
    GuestRunning {
        /// The guest.
        name: &'a str,
    },
    /// `thimble: guest NAME ready SECONDS`: the guest's PID 1 says that its services are ready.
    GuestReady {
        /// The guest.
        name: &'a str,
        /// Since its VMM started.
        after: Duration,
    },
    /// `thimble: guest NAME exited REASON`.
    GuestExited {
        /// The guest.
        name: &'a str,
        /// Why.
        reason: &'a ExitReason,
    },
    /// `thimble: error SENTENCE`.
    Error {
        /// What is wrong, where, and what to do.
        sentence: &'a str,
    },
    /// `thimble-guest: NAME ready SECONDS`, on the guest's own console.
    ReadyInGuest {
        /// The guest.
        name: &'a str,
        /// Since the guest's kernel started.
        after: Duration,
    },
}

impl fmt::Display for Line<'_> {
    /// The line without its newline. Line breaks inside a sentence become spaces, so that one event stays one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = Duration::as_secs_f64;
        match self {
            Self::HostUp { name, after } => write!(f, "thimble: host {name} up {:.2}", seconds(after)),
            Self::GuestRunning { name } => write!(f, "thimble: guest {name} running"),
            Self::GuestReady { name, after } => write!(f, "thimble: guest {name} ready {:.2}", seconds(after)),
            Self::GuestExited { name, reason } => write!(f, "thimble: guest {name} exited {reason}"),
            Self::Error { sentence } => {
                f.write_str("thimble: error ")?;
                for (index, line) in sentence.lines().enumerate() {
                    write!(f, "{}{}", if index == 0 { "" } else { " " }, line.trim_end())?;
                }
                Ok(())
            }
            Self::ReadyInGuest { name, after } => write!(f, "thimble-guest: {name} ready {:.2}", seconds(after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_promised() {
        let after = Duration::from_millis(4215);
        for (line, text) in [
            (Line::HostUp { name: "demo", after }, "thimble: host demo up 4.21"),
            (Line::GuestRunning { name: "web1" }, "thimble: guest web1 running"),
            (Line::GuestReady { name: "web1", after }, "thimble: guest web1 ready 4.21"),
            (
                Line::GuestExited { name: "web1", reason: &ExitReason::TripleFault },
                "thimble: guest web1 exited triple-fault",
            ),
            (Line::Error { sentence: "no disk\r\nplug one in" }, "thimble: error no disk plug one in"),
            (Line::ReadyInGuest { name: "web1", after }, "thimble-guest: web1 ready 4.21"),
        ] {
            assert_eq!(line.to_string(), text);
        }
    }
}
