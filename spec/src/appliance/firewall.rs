//! Who may reach the host.

use serde::{Deserialize, Serialize};

use crate::ip::IpNet;

/// The host takes in nothing but what is said here, and guests send under no name but their own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firewall {
    /// It answers echo requests.
    pub ping: bool,
    /// Ports that it takes connections at, that of ssh among them if there is ssh.
    pub open: Vec<Opening>,
}

/// A port of the host that can be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// How.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
    /// From where; none is from everywhere.
    pub from: Vec<IpNet>,
}

/// What has ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Connections.
    #[default]
    Tcp,
    /// Datagrams.
    Udp,
}

impl Protocol {
    /// As definitions write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}
