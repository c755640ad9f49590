//! Who asks, and what they may.

use std::net::SocketAddr;

use anyhow::Result;
use hyper::HeaderMap;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustls::pki_types::CertificateDer;
use thimble_spec::api::audit::Who;
use thimble_spec::api::identity::Identity;
pub use thimble_spec::api::identity::Role;
use thimble_spec::console::one_line;
use tokio::net::UnixStream;
use webpki::EndEntityCert;

use super::call::Refusal;

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
        let who = Who::Process { uid: peer.uid(), pid: peer.pid(), program: one_line(name.trim_end(), 16) };
        Ok(Self { role: (peer.uid() == 0).then_some(Role::Admin), who })
    }

    /// The other end of a TLS connection, whose certificate is verified: what the one name in it says that is ours. One that
    /// says nothing of the kind, or two things, may nothing.
    pub fn of_certificate(chain: &[CertificateDer<'_>], address: SocketAddr) -> Self {
        let certificate = chain.first().and_then(|first| EndEntityCert::try_from(first).ok());
        let names = certificate.iter().flat_map(|it| it.valid_uri_names());
        let identities: Vec<Identity> = names.filter_map(|name| name.parse().ok()).collect();
        let identity = match &identities[..] {
            [one] => Some(one),
            _ => None,
        };
        let who = Who::Client {
            certificate: identity.map(Identity::to_string).unwrap_or_default(),
            address: SocketAddr::new(address.ip().to_canonical(), address.port()).to_string(),
        };
        Self { role: identity.map(Identity::role), who }
    }

    /// Somebody with this role.
    #[cfg(test)]
    pub fn with(role: Option<Role>) -> Self {
        Self { who: Who::Process { uid: 1, pid: 1, program: "test".to_owned() }, role }
    }

    /// Whether they may what asks for `role`.
    ///
    /// # Errors
    /// They may not.
    pub fn may(&self, role: Role) -> Result<(), Refusal> {
        if self.role.is_some_and(|own| own >= role) {
            return Ok(());
        }
        Err(Refusal::forbidden(format!("{} may not do this: it takes the role {}", self.who, role.name())))
    }
}

/// A page of another site may send requests in the name of whoever looks at it, for browsers show their certificate unasked. It
/// cannot hide where they come from (Fetch Metadata; RFC 6454, 7): those that change something are refused.
///
/// # Errors
/// It comes from there.
pub fn of_this_site(headers: &HeaderMap) -> Result<(), Refusal> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let own = match (text("sec-fetch-site"), text("origin")) {
        (Some(site), _) => matches!(site, "same-origin" | "none"),
        (None, Some(origin)) => {
            let authority = origin.split_once("://").map(|(_, authority)| authority);
            authority.is_some() && authority == text("host")
        }
        (None, None) => true,
    };
    if own {
        return Ok(());
    }
    Err(Refusal::forbidden("a page of another site asks for this in your name, and is refused".to_owned()))
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

    #[test]
    fn another_site_changes_nothing() {
        let asked = |pairs: &[(&'static str, &'static str)]| {
            let pairs = pairs.iter().map(|(name, value)| ((*name).parse().unwrap(), value.parse().unwrap()));
            of_this_site(&pairs.collect::<HeaderMap>()).is_ok()
        };
        assert!(asked(&[]) && asked(&[("sec-fetch-site", "same-origin")]) && asked(&[("sec-fetch-site", "none")]));
        assert!(!asked(&[("sec-fetch-site", "cross-site")]) && !asked(&[("sec-fetch-site", "same-site")]));
        assert!(asked(&[("host", "web:7443"), ("origin", "https://web:7443")]));
        assert!(!asked(&[("host", "web:7443"), ("origin", "https://evil")]));
        assert!(!asked(&[("host", "web:7443"), ("origin", "null")]) && !asked(&[("origin", "null")]));
    }
}
