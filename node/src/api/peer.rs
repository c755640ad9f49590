//! Who asks, and what they may.

use anyhow::Result;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use thimble_spec::api::audit::Who;
use thimble_spec::console::one_line;
use tokio::net::UnixStream;

use super::call::Refusal;

/// What somebody may. Each may what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look.
    Read,
    /// Start and stop guests, type on their consoles.
    Operate,
    /// Everything.
    Admin,
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct Peer {
    /// As it is audited.
    pub who: Who,
    /// None: nothing at all.
    role: Option<Role>,
}

impl Peer {
    /// The other end of a Unix socket: root may everything, and nobody else anything.
    ///
    /// # Errors
    /// It is gone.
    pub fn of(stream: &UnixStream) -> Result<Self> {
        let peer = getsockopt(stream, PeerCredentials)?;
        let name = std::fs::read_to_string(format!("/proc/{}/comm", peer.pid())).unwrap_or_default();
        // 16 bytes, and the process chooses them (proc(5)).
        let who = Who { uid: peer.uid(), pid: peer.pid(), program: one_line(name.trim_end(), 16) };
        Ok(Self { role: (who.uid == 0).then_some(Role::Admin), who })
    }

    /// Somebody with this role.
    #[cfg(test)]
    pub fn with(role: Option<Role>) -> Self {
        Self { who: Who { uid: 1, pid: 1, program: "test".to_owned() }, role }
    }

    /// Whether they may what asks for `role`.
    ///
    /// # Errors
    /// They may not.
    pub fn may(&self, role: Role) -> Result<(), Refusal> {
        if self.role.is_some_and(|own| own >= role) {
            return Ok(());
        }
        Err(Refusal::forbidden(format!("user {} may not do this", self.who.uid)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_more_may_less() {
        assert!(Peer::with(Some(Role::Admin)).may(Role::Operate).is_ok());
        assert!(Peer::with(Some(Role::Operate)).may(Role::Operate).is_ok());
        assert!(Peer::with(Some(Role::Read)).may(Role::Operate).is_err());
        assert!(Peer::with(None).may(Role::Read).is_err());
    }
}
