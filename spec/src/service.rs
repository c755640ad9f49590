//! What PID 1 starts: for a guest, the builder resolves a recipe into this and packs it at [`crate::paths::SERVICES`]; a
//! host makes it out of its appliance.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// All that an image tells PID 1.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Services {
    /// `/proc/sys` paths with dots (`net.core.somaxconn`) to values, written before anything starts.
    #[serde(default)]
    pub sysctl: BTreeMap<String, String>,
    /// Whether nothing but `directories` can be written once they are made: on them alone the guest's disk is mounted to be
    /// written. What lives in memory (`/run`, `/tmp`, `/dev`) is not touched by this.
    #[serde(default)]
    pub read_only_root: bool,
    /// Directories to make before anything starts; those that exist keep their content and get owner and mode.
    #[serde(default)]
    pub directories: Vec<Directory>,
    /// What makes a machine itself: files, and directories of which the content goes, when it becomes another one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identity: Vec<String>,
    /// In an order in which each stands behind those that it names in `after`.
    #[serde(default)]
    pub services: Vec<Service>,
}

/// A directory that services write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Absolute path.
    pub path: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

/// One program that PID 1 starts and watches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name in messages and in `after`.
    pub name: String,
    /// Program (absolute path) and arguments; no shell reads them.
    pub exec: Vec<String>,
    /// Whether it stays.
    #[serde(default)]
    pub kind: ServiceKind,
    /// Services that must be ready (or done, if they run once) before it starts.
    #[serde(default)]
    pub after: Vec<String>,
    /// User to run as.
    #[serde(default)]
    pub uid: u32,
    /// Group to run as.
    #[serde(default)]
    pub gid: u32,
    /// Environment, besides `PATH`, `HOME` and `HOSTNAME`.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// When it is started again.
    #[serde(default)]
    pub restart: Restart,
    /// When it counts as ready; without one, as soon as it runs.
    #[serde(default)]
    pub ready: Option<Ready>,
    /// What it may take; only a host limits it.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
}

/// Names of services that a host has by itself when its definition asks for what they do.
pub const BUILT_IN: [&str; 7] = ["iscsi", "netserve", "ntp", "shell", "ssh", "storage", "syslog"];

/// What a service may take, itself and all that it starts; none is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory in MiB; beyond it the kernel takes back what it can, and kills.
    pub memory_mib: Option<u64>,
    /// Percent of one processor.
    pub cpu_percent: Option<u32>,
    /// Processes and threads.
    pub tasks: Option<u32>,
}

impl Limits {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How long a service is meant to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceKind {
    /// Until it is stopped.
    #[default]
    Daemon,
    /// Once, to its end; whoever comes after it waits for that.
    Once,
}

/// When a service that ended is started again; always with a growing pause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Whenever it ends (a service that runs once: when it fails).
    #[default]
    Always,
    /// When it ends with another code than 0 or by a signal.
    OnFailure,
    /// Never.
    Never,
}

/// What tells that a service is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ready {
    /// A TCP port of the guest accepts a connection.
    Port(u16),
    /// A file (or socket) exists.
    File(String),
}
