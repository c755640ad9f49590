//! Between the node daemon and one VMM process: how a guest is described, what the control socket says, how it ended.
//!
//! # Files of a guest, in `/run/thimble/guests/NAME/`
//! | file | written by | what |
//! | --- | --- | --- |
//! | [`CONFIG_FILE`] | the daemon | a [`GuestConfig`] |
//! | [`CONTROL_FILE`] | the VMM | the control socket |
//! | [`EXIT_FILE`] | the VMM, as its last act | an [`Exit`]; whoever was not there learns the reason from it |
//!
//! # The control socket
//! A Unix stream socket. Each side writes lines of JSON of at most [`LINE_MAX`] bytes; a longer line, or one that is not
//! a [`Request`], gets an error [`Reply`] and the connection is closed. Requests are answered in order. After
//! [`Verb::Watch`] the VMM writes an [`Event`] a line until either side closes. After [`Verb::Console`] and its reply
//! the connection carries raw bytes: first what the ring holds, then what the guest writes; what the client writes is
//! the guest's input.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::names::Mac;

/// Version of the control protocol; a request with another one is refused.
pub const VERSION: u32 = 1;

/// Longest line on the control socket, in bytes, its newline included.
pub const LINE_MAX: usize = 64 * 1024;

/// The guest's description in its run directory.
pub const CONFIG_FILE: &str = "config.json";
/// The control socket in its run directory.
pub const CONTROL_FILE: &str = "control.sock";
/// How it ended, in its run directory.
pub const EXIT_FILE: &str = "exit.json";

/// I/O port at which a guest powers itself off: where ACPI's PM1a control register stands on PCs since the PIIX4, so
/// that a guest with ACPI and one without take the same way.
pub const POWER_PORT: u16 = 0x604;
/// What a guest writes (16 bits) to [`POWER_PORT`] to power off: `SLP_EN` with sleep type 5 (ACPI 6.5, 4.8.3.2.1).
pub const POWER_OFF: u16 = (1 << 13) | (5 << 10);

/// Serial port of the guest, as its kernel names it, over which its PID 1 and the VMM talk in lines: the guest writes
/// `ready SECONDS`, the VMM writes `shutdown`.
pub const AGENT_TTY: &str = "/dev/ttyS1";
/// The guest's word for "my services are ready"; behind it a space and the seconds since its kernel started.
pub const AGENT_READY: &str = "ready";
/// The VMM's word for "stop your services, unmount and power off".
pub const AGENT_SHUTDOWN: &str = "shutdown";

/// One guest, as its VMM is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestConfig {
    /// The guest.
    pub name: String,
    /// Number of vCPUs, at least 1.
    pub vcpus: u8,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// An ELF `vmlinux` with a PVH note, or a `bzImage`.
    pub kernel: PathBuf,
    /// Its initramfs.
    #[serde(default)]
    pub initrd: Option<PathBuf>,
    /// Kernel command line; the VMM adds what names its devices.
    pub cmdline: String,
    /// Block devices: the first is `/dev/vda` in the guest.
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// Network interfaces: the first is `eth0` in the guest.
    #[serde(default)]
    pub nets: Vec<Net>,
}

/// A block device of a guest: a raw file or a block device of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Where it is on the host.
    pub path: PathBuf,
    /// Writes are refused.
    #[serde(default)]
    pub read_only: bool,
}

/// A network interface of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Net {
    /// A tap interface of the host, made beforehand and up.
    pub tap: String,
    /// The guest's Ethernet address.
    pub mac: Mac,
}

/// What a client asks, a line of JSON: `{"v":1,"verb":"status"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`].
    pub v: u32,
    /// What to do.
    #[serde(flatten)]
    pub verb: Verb,
}

/// The verbs of the control socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Verb {
    /// Replies with a [`Status`].
    Status,
    /// Asks the guest's PID 1 to stop its services and power off. The reply says only that the guest was asked.
    Shutdown,
    /// Ends the guest at once, as if its power were cut; the reply comes before the end.
    Kill,
    /// Stops the vCPUs between two instructions. Paused twice is paused.
    Pause,
    /// Lets them run again.
    Resume,
    /// Streams [`Event`]s, the current state first.
    Watch,
    /// Turns the connection into the guest's console.
    Console,
}

/// The answer to a [`Request`], a line of JSON: `{"v":1,"ok":{...}}` or `{"v":1,"error":"..."}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// [`VERSION`].
    pub v: u32,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was done.
    Ok(Answer),
    /// It was not, and why: one sentence.
    Error(String),
}

/// What a successful request gives back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Nothing but that it was done.
    Done,
    /// To [`Verb::Status`].
    Status(Status),
}

/// How a guest does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The guest.
    pub name: String,
    /// Process id of the VMM.
    pub pid: u32,
    /// What it does.
    pub state: State,
    /// Seconds since the VMM started.
    pub uptime_s: f64,
    /// Seconds from the VMM's start to the guest's word that its services are ready.
    pub ready_s: Option<f64>,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// Guest memory in MiB.
    pub memory_mib: u32,
}

/// The states of a running VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The vCPUs run.
    Running,
    /// They are stopped and can go on.
    Paused,
    /// The guest was asked to power off.
    ShuttingDown,
}

/// A line that the VMM writes after [`Verb::Watch`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// It is in this state now.
    State {
        /// Which.
        state: State,
    },
    /// The guest's services are ready.
    Ready {
        /// Seconds since the VMM started.
        seconds: f64,
    },
    /// It ends; the connection is closed behind this.
    Exited {
        /// Why.
        exit: Exit,
    },
}

/// What a VMM leaves behind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exit {
    /// Why it ended.
    pub reason: ExitReason,
    /// How long it ran, in seconds.
    pub after_s: f64,
}

/// Why a guest is no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "detail", rename_all = "kebab-case")]
pub enum ExitReason {
    /// It powered itself off.
    PowerOff,
    /// It asked for a reset.
    Reboot,
    /// A fault in the handling of a fault in the handling of a fault (Intel SDM volume 3, 6.15): a real machine resets.
    TripleFault,
    /// Somebody ended it through the control socket or by a signal.
    Killed,
    /// The VMM could not go on: one sentence.
    Error(String),
    /// The VMM vanished without a word.
    Lost,
}

impl ExitReason {
    /// Exit code of the VMM's process.
    pub fn code(&self) -> u8 {
        match self {
            Self::PowerOff => 0,
            Self::Error(_) | Self::Lost => 1,
            Self::Reboot => 10,
            Self::TripleFault => 11,
            Self::Killed => 12,
        }
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => f.write_str("power-off"),
            Self::Reboot => f.write_str("reboot"),
            Self::TripleFault => f.write_str("triple-fault"),
            Self::Killed => f.write_str("killed"),
            Self::Error(sentence) => write!(f, "error: {sentence}"),
            Self::Lost => f.write_str("lost"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_is_a_contract() {
        let reply = Reply { v: VERSION, outcome: Outcome::Ok(Answer::Done) };
        let error = Reply { v: VERSION, outcome: Outcome::Error("no".to_owned()) };
        let exit = Event::Exited { exit: Exit { reason: ExitReason::TripleFault, after_s: 1.5 } };
        for (json, text) in [
            (serde_json::to_string(&Request { v: VERSION, verb: Verb::Status }), r#"{"v":1,"verb":"status"}"#),
            (serde_json::to_string(&reply), r#"{"v":1,"ok":"done"}"#),
            (serde_json::to_string(&error), r#"{"v":1,"error":"no"}"#),
            (
                serde_json::to_string(&exit),
                r#"{"event":"exited","exit":{"reason":{"kind":"triple-fault"},"after_s":1.5}}"#,
            ),
        ] {
            assert_eq!(json.unwrap(), text);
        }
        let request: Request = serde_json::from_str(r#"{"v":1,"verb":"shutdown"}"#).unwrap();
        assert_eq!(request.verb, Verb::Shutdown);
        assert!(serde_json::from_str::<Request>(r#"{"v":1,"verb":"explode"}"#).is_err());
        assert_eq!(serde_json::from_str::<Reply>(r#"{"v":1,"ok":"done"}"#).unwrap(), reply);
    }
}
