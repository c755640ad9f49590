//! A node somewhere else: its API over TLS, asked with a certificate of one's own.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use thimble_spec::api::identity::PORT;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::failure::Failure;
use super::words::Where;
use crate::api::tls::{certificates, key, trusting};

/// How long it may take until a node takes the connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Where certificates lie, below the directory of configurations.
const DIRECTORY: &str = "thimble";

/// A node.
#[derive(Clone)]
pub struct Remote {
    /// Name or address, and port.
    authority: String,
    name: ServerName<'static>,
    connector: TlsConnector,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.authority)
    }
}

impl Remote {
    /// The one that the command line names.
    ///
    /// # Errors
    /// A file is not there or wrong.
    pub fn of(host: &str, place: &Where) -> Result<Self, Failure> {
        let authority = authority(host);
        let files = Files::find(host, place)?;
        let wrong = |error: anyhow::Error| Failure::usage(format!("{error:#}"));
        let certificate = certificates(&files.certificate).map_err(wrong)?;
        let config = trusting(&files.ca)
            .map_err(wrong)?
            .with_client_auth_cert(certificate, key(&files.key).map_err(wrong)?)
            .map_err(|error| {
                Failure::usage(format!("{} does not go with its key: {error}", files.certificate.display()))
            })?;
        let name = place.tls_name.clone();
        let name = ServerName::try_from(name)
            .map_err(|_| Failure::usage(format!("--tls-name {}: that is no name", place.tls_name)))?;
        Ok(Self { authority, name, connector: TlsConnector::from(Arc::new(config)) })
    }

    /// Name or address, and port.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Connects.
    ///
    /// # Errors
    /// Nobody is there, or somebody else is.
    pub async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let connected = timeout(CONNECT_LIMIT, async {
            let stream = TcpStream::connect(&self.authority).await?;
            stream.set_nodelay(true)?;
            self.connector.connect(self.name.clone(), stream).await
        });
        connected.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// With the port that nodes have if nothing is said. An IPv6 address with a port stands in brackets.
fn authority(host: &str) -> String {
    if host.parse::<std::net::Ipv6Addr>().is_ok() {
        return format!("[{host}]:{PORT}");
    }
    let with_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if with_port { host.to_owned() } else { format!("{host}:{PORT}") }
}

/// What one shows a node, and knows it by.
#[derive(Debug, PartialEq, Eq)]
struct Files {
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    /// Those that the command line names; else those of a directory: the one that it names, or the first that is there of
    /// `thimble/HOST` and `thimble` in the directory of configurations.
    fn find(host: &str, place: &Where) -> Result<Self, Failure> {
        let directory = || match &place.keys {
            Some(keys) => Ok(keys.clone()),
            None => {
                let base = configurations()?;
                let name = authority(host);
                let name = name.rsplit_once(':').map_or(host, |(name, _)| name);
                let own = base.join(name);
                Ok(if !name.contains('/') && own.join("cert.pem").exists() { own } else { base })
            }
        };
        let file = |given: &Option<PathBuf>, name: &str| match given {
            Some(path) => Ok(path.clone()),
            None => existing(directory()?.join(name)),
        };
        Ok(Self {
            ca: file(&place.ca, "ca.pem")?,
            certificate: file(&place.cert, "cert.pem")?,
            key: file(&place.key, "key.pem")?,
        })
    }
}

fn existing(path: PathBuf) -> Result<PathBuf, Failure> {
    if path.exists() {
        return Ok(path);
    }
    let sentence = format!(
        "{} is not there: put the directory clients/NAME that `thimble build` or `thimble client-cert` made there, or say \
         with --keys where it is",
        path.display()
    );
    Err(Failure::usage(sentence))
}

/// The directory of configurations (XDG Base Directory Specification), and ours in it.
fn configurations() -> Result<PathBuf, Failure> {
    let from = |name: &str| std::env::var_os(name).filter(|path| Path::new(path).is_absolute()).map(PathBuf::from);
    let base = from("XDG_CONFIG_HOME").or_else(|| Some(from("HOME")?.join(".config")));
    base.map(|base| base.join(DIRECTORY))
        .ok_or_else(|| Failure::usage("there is no $HOME: say with --keys where the certificates are".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_a_port() {
        for (host, wanted) in [
            ("web", "web:7443"),
            ("web:80", "web:80"),
            ("10.1.1.2", "10.1.1.2:7443"),
            ("fd00::1", "[fd00::1]:7443"),
            ("[fd00::1]:80", "[fd00::1]:80"),
            ("[fd00::1]", "[fd00::1]:7443"),
        ] {
            assert_eq!(authority(host), wanted);
        }
    }

    #[test]
    fn files_come_from_a_directory_or_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut place = Where { keys: Some(dir.path().to_owned()), ..Where::default() };
        let told = Files::find("web", &place).unwrap_err().to_string();
        assert!(told.contains("ca.pem is not there") && told.contains("thimble client-cert"), "{told}");
        for name in ["ca.pem", "cert.pem", "key.pem"] {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        place.key = Some("/k".into());
        let files = Files::find("web", &place).unwrap();
        assert_eq!((files.ca, files.key), (dir.path().join("ca.pem"), "/k".into()));
        let told = Remote::of("web", &place).unwrap_err().to_string();
        assert!(told.contains("holds no certificate"), "{told}");
    }
}
