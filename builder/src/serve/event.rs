//! What happens, one thing after the other: a line of text each, or a JSON object with `--json`.

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Serialize, Serializer};

use crate::serve::boot::Arch;

/// The hardware address of an Ethernet card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        f.pad(&format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}"))
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A way by which files go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TFTP.
    Tftp,
    /// HTTP.
    Http,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tftp => "TFTP",
            Self::Http => "HTTP",
        })
    }
}

/// Who: the hardware address where it is known, the network address where there is one yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Who {
    /// From DHCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// From DHCP, or from where a request came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<Ipv4Addr>,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.mac, self.ip) {
            (Some(mac), Some(ip)) => write!(f, "{mac} {ip}"),
            (Some(mac), None) => write!(f, "{mac}"),
            (None, Some(ip)) => write!(f, "{ip}"),
            (None, None) => f.write_str("somebody"),
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The server listens.
    Serving {
        /// Where.
        at: String,
    },
    /// A machine was offered a boot file (and with `--dhcp`, an address).
    Offered {
        /// The machine.
        #[serde(flatten)]
        who: Who,
        /// Its architecture.
        #[serde(skip_serializing_if = "Option::is_none")]
        arch: Option<Arch>,
        /// What it is to boot.
        #[serde(skip_serializing_if = "Option::is_none")]
        file: Option<String>,
    },
    /// A machine has an address of ours.
    Leased {
        /// The machine.
        #[serde(flatten)]
        who: Who,
    },
    /// A file goes out.
    Began {
        /// To whom.
        #[serde(flatten)]
        who: Who,
        /// How.
        by: Protocol,
        /// Its name as it was asked for.
        file: String,
        /// Bytes to be sent.
        bytes: u64,
    },
    /// How far it is; every few seconds.
    Progress {
        /// To whom.
        #[serde(flatten)]
        who: Who,
        /// Its name.
        file: String,
        /// Of the bytes to be sent.
        percent: u64,
        /// In the mean, since it began.
        megabytes_per_second: f64,
    },
    /// It is there.
    Sent {
        /// To whom.
        #[serde(flatten)]
        who: Who,
        /// How.
        by: Protocol,
        /// Its name.
        file: String,
        /// How many bytes.
        bytes: u64,
        /// In how long.
        seconds: f64,
        /// In the mean.
        megabytes_per_second: f64,
    },
    /// It is not.
    Failed {
        /// To whom.
        #[serde(flatten)]
        who: Who,
        /// How.
        by: Protocol,
        /// Its name.
        file: String,
        /// How far it was.
        percent: u64,
        /// The reason.
        why: String,
    },
    /// A request that gets nothing.
    Refused {
        /// From whom.
        #[serde(flatten)]
        who: Who,
        /// What was asked for.
        what: String,
        /// The reason.
        why: String,
    },
    /// More happened than was written down.
    Omitted {
        /// How many events.
        events: u64,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serving { at } => write!(f, "serving {at}"),
            Self::Offered { who, arch, file } => {
                write!(f, "{who} asks")?;
                arch.map_or(Ok(()), |arch| write!(f, " ({arch})"))?;
                file.as_ref().map_or(Ok(()), |file| write!(f, ": boot {file}"))
            }
            Self::Leased { who } => write!(f, "{who} has its address"),
            Self::Began { who, by, file, bytes } => {
                write!(f, "{who} fetches {file} by {by}, {:.1} MB", megabytes(*bytes))
            }
            Self::Progress { who, file, percent, megabytes_per_second } => {
                write!(f, "{who} {file} {percent}%, {megabytes_per_second:.1} MB/s")
            }
            Self::Sent { who, by, file, seconds, megabytes_per_second, .. } => {
                write!(f, "{who} has {file} by {by}: {seconds:.2} s, {megabytes_per_second:.1} MB/s")
            }
            Self::Failed { who, by, file, percent, why } => {
                write!(f, "{who} does not get {file} by {by}: at {percent}%: {why}")
            }
            Self::Refused { who, what, why } => write!(f, "{who} is refused {what}: {why}"),
            Self::Omitted { events } => write!(f, "({events} more)"),
        }
    }
}

/// Bytes as megabytes.
pub fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// What a stranger sent, made fit for a terminal and a line: short, and without control characters.
pub fn printable(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut shown: String = text.chars().take(LONGEST).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line_or_an_object() {
        let who = Who { mac: Some(Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56])), ip: Some(Ipv4Addr::new(10, 0, 0, 9)) };
        let event = Event::Sent {
            who,
            by: Protocol::Http,
            file: "vmlinuz".to_owned(),
            bytes: 8_000_000,
            seconds: 0.5,
            megabytes_per_second: 16.0,
        };
        assert_eq!(event.to_string(), "52:54:00:12:34:56 10.0.0.9 has vmlinuz by HTTP: 0.50 s, 16.0 MB/s");
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"event":"sent","mac":"52:54:00:12:34:56","ip":"10.0.0.9","by":"http","file":"vmlinuz","bytes":8000000,"seconds":0.5,"megabytes_per_second":16.0}"#
        );
    }

    #[test]
    fn a_hostile_name_writes_nothing_but_itself() {
        assert_eq!(printable("a\x1b[2Jb\nc"), "a\u{fffd}[2Jb\u{fffd}c");
        assert_eq!(printable(&"x".repeat(1000)).chars().count(), 81);
    }
}
