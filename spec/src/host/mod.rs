//! Between PID 1 of a host and whoever asks it: what its control socket says.
//!
//! [`crate::paths::HOST_CONTROL`] is a Unix stream socket that only root is answered on. Each side writes lines of JSON of
//! at most [`LINE_MAX`] bytes: a [`Request`], and a [`Reply`] to it. A line that is too long or no request gets an error
//! and the connection is closed. Requests are answered in order, and at once: what takes its time is begun, and asked for
//! again. PID 1 keeps [`CLIENTS_MAX`] connections; one more closes the one that was quiet the longest.
//!
//! One file for each concern's verbs.

mod firewall;
mod logs;
mod network;
mod power;
mod services;

pub use firewall::{Counted, FirewallVerb};
pub use logs::{Level, LogLine, Logs, LogsVerb};
pub use network::{CONFIRM_S, CONFIRM_S_DEFAULT, LinkStatus, NetworkStatus, NetworkVerb, Proposal};
pub use power::Power;
pub use services::{ServiceState, ServiceStatus, ServicesVerb};

use serde::{Deserialize, Serialize};

/// Version of the protocol; a request with another one is refused.
pub const VERSION: u32 = 1;

/// Longest line, in bytes, its newline included.
pub const LINE_MAX: usize = 256 * 1024;

/// So many connections are held at once.
pub const CLIENTS_MAX: usize = 16;

/// What a client asks, a line of JSON: `{"v":1,"services":"list"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`].
    pub v: u32,
    /// What to do.
    #[serde(flatten)]
    pub verb: Verb,
}

/// The verbs, by concern.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// About the programs that PID 1 keeps. Replies with [`Answer::Services`] to a question, else with [`Answer::Done`].
    Services(ServicesVerb),
    /// About the firewall. Replies with [`Answer::Firewall`].
    Firewall(FirewallVerb),
    /// About links and addresses. Replies with [`Answer::Network`] to a question, else with [`Answer::Done`].
    Network(NetworkVerb),
    /// Asks for the log. Replies with [`Answer::Logs`].
    Logs(LogsVerb),
    /// The node daemon is well: it says so every few seconds.
    Heartbeat,
    /// Ends the host. The reply comes before the end.
    Power(Power),
}

/// The answer to a [`Request`].
pub type Reply = crate::reply::Reply<Answer>;

/// What came of a request.
pub type Outcome = crate::reply::Outcome<Answer>;

/// What a successful request gives back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Nothing but that it was done, or begun.
    Done,
    /// To [`ServicesVerb::List`].
    Services(Vec<ServiceStatus>),
    /// To [`Verb::Firewall`].
    Firewall(Vec<Counted>),
    /// To [`NetworkVerb::Show`].
    Network(NetworkStatus),
    /// To [`Verb::Logs`].
    Logs(Logs),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protocol_is_written_like_this() {
        let request = |text: &str| serde_json::from_str::<Request>(text).unwrap().verb;
        assert_eq!(request(r#"{"v":1,"services":"list"}"#), Verb::Services(ServicesVerb::List));
        let stop = ServicesVerb::Stop { name: "ntp".to_owned() };
        assert_eq!(request(r#"{"v":1,"services":{"stop":{"name":"ntp"}}}"#), Verb::Services(stop));
        assert_eq!(request(r#"{"v":1,"power":"reboot"}"#), Verb::Power(Power::Reboot));
        let said = |outcome| serde_json::to_string(&Reply { v: VERSION, outcome }).unwrap();
        assert_eq!(said(Outcome::Ok(Answer::Done)), r#"{"v":1,"ok":"done"}"#);
        assert_eq!(said(Outcome::Error("no".to_owned())), r#"{"v":1,"error":"no"}"#);
    }
}
