//! What the host itself does beside its network, its storage and its guests.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::service::{Limits, Ready, Restart, ServiceKind};

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSettings {
    /// Where the log is sent, besides being kept.
    pub syslog: Option<Syslog>,
    /// The watchdog, if it is wanted.
    pub watchdog: Option<Watchdog>,
    /// Servers that tell the time.
    pub time_servers: Vec<String>,
    /// Names of sysctls to values, over those that every host has.
    pub sysctl: BTreeMap<String, String>,
    /// Whether the console is a shell.
    pub shell: bool,
    /// Who may log in by ssh; nobody can without it.
    pub ssh: Option<Ssh>,
    /// Where the node daemon answers over the network; nowhere without it.
    pub api: Option<ApiListener>,
    /// Programs that PID 1 keeps, besides its own.
    pub services: Vec<HostService>,
}

/// Where the log is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Syslog {
    /// How.
    pub transport: SyslogTransport,
    /// Where to.
    pub server: SocketAddr,
    /// By TLS: the name that stands in the server's certificate; its address without one.
    pub tls_name: Option<String>,
}

/// How the log is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SyslogTransport {
    /// A datagram a line (RFC 5426).
    Udp,
    /// One stream, each line behind its length (RFC 6587, 3.4.1).
    Tcp,
    /// The same over TLS 1.3 (RFC 5425), with the certificates in [`crate::paths::SYSLOG_KEYS`].
    Tls,
}

/// The watchdog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watchdog {
    /// The machine starts again when PID 1 was silent for so long, in seconds.
    pub timeout_s: u32,
    /// The node daemon is killed and started again when it was silent for so long, in seconds.
    pub node_s: u32,
}

/// Logging in by ssh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ssh {
    /// Public keys as `authorized_keys` has them, a line each.
    pub keys: Vec<String>,
    /// The port.
    pub port: u16,
}

/// Where the node daemon answers over the network, with TLS and to clients with a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiListener {
    /// At this address of the host's; at all without one.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
}

/// A program of the definition's that PID 1 keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostService {
    /// Its name.
    pub name: String,
    /// The program (absolute path) and its arguments.
    pub exec: Vec<String>,
    /// The feature of the host that brings the program, where it is not one of every host's.
    pub feature: Option<String>,
    /// How long it is meant to run.
    pub kind: ServiceKind,
    /// Services that must be ready before.
    pub after: Vec<String>,
    /// A user that the feature brings; root without one.
    pub user: Option<String>,
    /// When it is started again.
    pub restart: Restart,
    /// When it counts as ready.
    pub ready: Option<Ready>,
    /// What it may take.
    pub limits: Limits,
}
