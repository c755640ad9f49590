//! The API over the network: TLS 1.3 (RFC 8446), for clients whose certificate the appliance's authority has signed. Nobody
//! else comes as far as a request.
//!
//! Bounded are handshakes ([`HANDSHAKES_MAX`] at a time, [`HANDSHAKES_OF_ONE`] of them from one address, [`HANDSHAKE_TIME`]
//! each, [`HANDSHAKES_RATE`] a second), and, apart from those on the Unix socket, connections.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt::TcpUserTimeout};
use rustls::client::WantsClientCert;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, ServerConfig};
use thimble_spec::appliance::ApiListener;
use thimble_spec::paths;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::patient::{Patient, STILL};
use super::peer::Peer;
use super::rate::Rate;
use super::{AFTER_ERROR, Api, CLIENTS_MAX, converse};
use crate::say;

/// Handshakes at a time: of all that is done here, they alone are done for anybody.
const HANDSHAKES_MAX: usize = 64;
/// So many of them from one address. One more, and its oldest is given up: a browser begins six at once, and who says nothing
/// is the oldest before long, so that nobody is kept out by what others at the same address do not say.
const HANDSHAKES_OF_ONE: usize = HANDSHAKES_MAX / 4;
/// How long one may take: half of what `thimblectl` waits for a connection, so that those who say nothing in all the places
/// do not keep it out.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// So many at once, and so many a second: each takes about a millisecond of a processor.
const HANDSHAKES_RATE: (u32, u32) = (200, 100);
/// The pause before it is tried again to listen at an address that the host does not have yet.
const BIND_AGAIN: Duration = Duration::from_secs(1);

/// Certificates and key in PEM.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// The authority that signs clients' certificates.
    pub ca: &'a Path,
    /// The node's certificate, and those between it and its authority.
    pub certificate: &'a Path,
    /// Its key.
    pub key: &'a Path,
}

impl Files<'static> {
    /// Those that the build has put there.
    pub fn of_the_build() -> Self {
        let [ca, certificate, key] = [paths::API_CA, paths::API_CERTIFICATE, paths::API_KEY].map(Path::new);
        Self { ca, certificate, key }
    }
}

/// All certificates of a file.
///
/// # Errors
/// It cannot be read, or holds none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let all = all.with_context(|| format!("{} holds no certificates in PEM format", path.display()))?;
    anyhow::ensure!(!all.is_empty(), "{} holds no certificate in PEM format", path.display());
    Ok(all)
}

/// The private key of a file.
///
/// # Errors
/// It cannot be read, or holds none.
pub fn key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(path).with_context(|| format!("{} holds no private key in PEM format", path.display()))
}

/// Those who may sign.
///
/// # Errors
/// As [`certificates`].
pub fn roots(path: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).with_context(|| format!("{} is no authority's", path.display()))?;
    }
    Ok(roots)
}

/// One who asks, and believes those that an authority of this file has signed.
///
/// # Errors
/// As [`certificates`].
pub fn trusting(ca: &Path) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    Ok(config.with_safe_default_protocol_versions()?.with_root_certificates(roots(ca)?))
}

/// How clients are met.
///
/// # Errors
/// A file is wrong, or the key is another certificate's.
pub fn config(files: Files<'_>) -> Result<ServerConfig> {
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(files.ca)?), Arc::clone(&provider));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier.build().context("reading the authority's certificate")?)
        .with_single_cert(certificates(files.certificate)?, key(files.key)?)
        .with_context(|| format!("{} does not go with its key", files.certificate.display()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Listens; an address may come later than the daemon.
pub async fn bind(settings: &ApiListener) -> TcpListener {
    // Without an address: at all of both kinds, or of the old kind where the kernel has no other.
    let any = [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
    let one = settings.address.map(|address| [address]);
    let addresses: &[IpAddr] = one.as_ref().map_or(&any, |one| one);
    let mut told = false;
    loop {
        for address in addresses {
            match TcpListener::bind(SocketAddr::new(*address, settings.port)).await {
                Ok(listener) => return listener,
                Err(error) if !told && Some(address) == addresses.last() => {
                    say::error(&format!("nobody can ask the node daemon at {address} yet: {error}"));
                    told = true;
                }
                Err(_) => {}
            }
        }
        sleep(BIND_AGAIN).await;
    }
}

/// Handshakes that are under way, the oldest first.
#[derive(Debug, Default)]
struct UnderWay(VecDeque<(IpAddr, AbortHandle)>);

impl UnderWay {
    /// One more. If that is one too many of its address, the oldest of that is given up.
    fn begin(&mut self, address: IpAddr, handshake: AbortHandle) {
        self.0.retain(|(_, handshake)| !handshake.is_finished());
        let mut of_it = self.0.iter().enumerate().filter(|(_, (other, _))| *other == address);
        let oldest = of_it.next().map(|(place, _)| place);
        if of_it.count() + 1 >= HANDSHAKES_OF_ONE
            && let Some((_, oldest)) = oldest.and_then(|place| self.0.remove(place))
        {
            oldest.abort();
        }
        self.0.push_back((address, handshake));
    }
}

/// Serves until the task is ended.
pub async fn serve(listener: TcpListener, config: ServerConfig, api: Arc<Api>) {
    serve_within(listener, config, api, HANDSHAKE_TIME).await;
}

/// The same, where a handshake may take so long.
async fn serve_within(listener: TcpListener, config: ServerConfig, api: Arc<Api>, limit: Duration) {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let places = Arc::new(Semaphore::new(CLIENTS_MAX));
    let mut under_way = UnderWay::default();
    let mut rate = Rate::new(HANDSHAKES_RATE.0, HANDSHAKES_RATE.1);
    loop {
        while let Err(wait) = rate.take() {
            sleep(wait).await;
        }
        // The semaphore is never closed.
        let Ok(handshake) = Arc::clone(&handshakes).acquire_owned().await else { return };
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(_) => {
                sleep(AFTER_ERROR).await;
                continue;
            }
        };
        let (acceptor, places, api) = (acceptor.clone(), Arc::clone(&places), Arc::clone(&api));
        let begun = tokio::spawn(async move {
            let _handshake = handshake;
            prepare(&stream);
            let Ok(Ok(stream)) = timeout(limit, acceptor.accept(Patient::new(stream))).await else { return };
            let peer = Peer::of_certificate(stream.get_ref().1.peer_certificates().unwrap_or_default(), address);
            // Who has a certificate is not kept waiting in secret.
            let Ok(place) = places.try_acquire_owned() else { return };
            // A task of its own: the handshake is over, and nobody gives it up.
            tokio::spawn(converse(stream, peer, api, place));
        });
        under_way.begin(address.ip().to_canonical(), begun.abort_handle());
    }
}

/// Answers go at once, and whoever takes none of them for [`STILL`] is gone. A kernel that knows neither does without.
fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = setsockopt(stream, TcpUserTimeout, &(STILL.as_millis() as u32));
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
