//! `8081:web1:80`: a port of this machine that leads to one of a guest.

use std::fmt;
use std::str::FromStr;

/// The name that means the node itself.
pub const HOST: &str = "host";

/// A forwarded port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Port of 127.0.0.1.
    pub port: u16,
    /// A guest, or [`HOST`].
    pub name: String,
    /// Its port.
    pub guest_port: u16,
}

impl FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = || format!("`{text}` is not a forwarded port: write PORT:GUEST:PORT, such as 8081:web1:80");
        let port = |text: &str| text.parse().ok().filter(|port| *port != 0);
        let mut parts = text.split(':');
        let (Some(left), Some(name), Some(right), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(error());
        };
        match (port(left), port(right)) {
            (Some(port), Some(guest_port)) if !name.is_empty() => Ok(Self { port, name: name.to_owned(), guest_port }),
            _ => Err(error()),
        }
    }
}

impl fmt::Display for Forward {
    /// Where to look, as users read it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.guest_port {
            80 => write!(f, "{}: http://127.0.0.1:{}/", self.name, self.port),
            port => write!(f, "{}: 127.0.0.1:{} is its port {port}", self.name, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        let forward: Forward = "8081:web1:80".parse().unwrap();
        assert_eq!(forward, Forward { port: 8081, name: "web1".to_owned(), guest_port: 80 });
        assert_eq!(forward.to_string(), "web1: http://127.0.0.1:8081/");
        assert_eq!("2222:host:22".parse::<Forward>().unwrap().to_string(), "host: 127.0.0.1:2222 is its port 22");
    }

    #[test]
    fn refuses_what_is_no_forward() {
        for text in ["", "8081", "8081:web1", "0:web1:80", "8081::80", "8081:web1:80:1", "99999:web1:80", "-1:a:80"] {
            assert!(text.parse::<Forward>().unwrap_err().contains("PORT:GUEST:PORT"), "{text}");
        }
    }
}
