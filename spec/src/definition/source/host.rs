//! `[log]`, `[watchdog]`, `[time]`, `[sysctl]`, `[access]`, `[api]` and `[[service]]`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Deserializer};
use toml::Spanned;

use crate::appliance::SyslogTransport;
use crate::service::{Ready, Restart, ServiceKind};
use crate::units::ByteSize;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(in crate::definition) struct Log {
    #[serde(default)]
    pub syslog: Option<Spanned<SyslogUrl>>,
    #[serde(default)]
    pub tls_keys: Option<Spanned<String>>,
    #[serde(default)]
    pub tls_name: Option<Spanned<String>>,
}

/// `udp://10.0.0.1:514`: by address, for the host may have no name server when it has the most to tell.
#[derive(Clone, Copy, Debug)]
pub(in crate::definition) struct SyslogUrl {
    pub transport: SyslogTransport,
    pub server: SocketAddr,
}

impl<'de> Deserialize<'de> for SyslogUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = |why: &str| {
            let form = "write \"udp://10.0.0.1:514\", \"tcp://10.0.0.1:601\" or \"tls://10.0.0.1:6514\", an IPv6 address in \
                        brackets";
            serde::de::Error::custom(format!("`{text}` {why}: {form}"))
        };
        let (scheme, server) = text.split_once("://").ok_or_else(|| wrong("is no address of a syslog server"))?;
        let transport = match scheme {
            "udp" => SyslogTransport::Udp,
            "tcp" => SyslogTransport::Tcp,
            "tls" => SyslogTransport::Tls,
            _ => return Err(wrong("is no address of a syslog server")),
        };
        let server = server.parse::<SocketAddr>().map_err(|_| wrong("has no address and port"))?;
        Ok(Self { transport, server })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(in crate::definition) struct Watchdog {
    #[serde(default)]
    pub timeout_s: Option<Spanned<u32>>,
    #[serde(default)]
    pub node_s: Option<Spanned<u32>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::definition) struct Time {
    #[serde(default)]
    pub servers: Vec<Spanned<String>>,
}

/// Names to values, which may be written as numbers.
pub(in crate::definition) type Sysctl = BTreeMap<Spanned<String>, Spanned<SysctlValue>>;

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(in crate::definition) enum SysctlValue {
    Number(i64),
    Text(String),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::definition) struct Access {
    #[serde(default)]
    pub shell: bool,
    #[serde(default)]
    pub ssh: Option<Ssh>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::definition) struct Ssh {
    pub keys: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    pub port: Option<Spanned<u16>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::definition) struct Api {
    #[serde(default)]
    pub address: Option<IpAddr>,
    #[serde(default)]
    pub port: Option<Spanned<u16>>,
    #[serde(default)]
    pub keys: Option<Spanned<String>>,
    #[serde(default)]
    pub names: Vec<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(in crate::definition) struct HostService {
    pub name: Spanned<String>,
    pub exec: Spanned<Vec<String>>,
    #[serde(default)]
    pub feature: Option<Spanned<String>>,
    #[serde(default)]
    pub kind: ServiceKind,
    #[serde(default)]
    pub after: Vec<Spanned<String>>,
    #[serde(default)]
    pub user: Option<Spanned<String>>,
    #[serde(default)]
    pub restart: Restart,
    #[serde(default)]
    pub ready: Option<Spanned<Ready>>,
    #[serde(default)]
    pub memory: Option<Spanned<ByteSize>>,
    #[serde(default)]
    pub cpu_percent: Option<Spanned<u32>>,
    #[serde(default)]
    pub tasks: Option<Spanned<u32>>,
}
