//! How the log comes to its server: datagrams, a stream, or a stream inside TLS.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use thimble_spec::appliance::{Syslog, SyslogTransport};

use crate::api::tls::{certificates, key, trusting};

/// How long a server may take to accept a connection, and to read.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long after the handshake a server may take to say that it refuses the host's certificate: in TLS 1.3 the host may write
/// before that (RFC 8446, 4.4.2.4), and what it wrote would be lost. Most servers send a ticket at once, which says yes.
const VERDICT: Duration = Duration::from_secs(3);
/// What a server must take in a datagram (RFC 5426, 3.2); the rest of a longer line is cut off.
const DATAGRAM_MAX: usize = 2048;
/// So many datagrams are sent in a row, and then none for a moment. A boot's log at once would overrun the queue of a network
/// card, and that of a neighbour whose address is not known yet (101 packets of this size: `unres_qlen_bytes` in Linux'
/// Documentation/networking/ip-sysctl.rst), and what others send at that time would be lost with it.
const BURST: (usize, Duration) = (16, Duration::from_millis(10));

/// A way to the server.
pub enum Way {
    /// A datagram a line.
    Udp(UdpSocket),
    /// Lines behind their lengths.
    Tcp(TcpStream),
    /// The same, inside.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Way {
    /// Connects; `keys` is the directory with the certificates for TLS.
    ///
    /// # Errors
    /// The server is not there, or one of the two does not believe the other.
    pub fn to(syslog: &Syslog, keys: &Path) -> Result<Self> {
        match syslog.transport {
            SyslogTransport::Udp => {
                let any: SocketAddr = match syslog.server {
                    SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                    SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
                };
                let socket = UdpSocket::bind(any).context("opening a socket")?;
                // What the server refuses is told by the next call.
                socket.connect(syslog.server).with_context(|| format!("sending to {}", syslog.server))?;
                Ok(Self::Udp(socket))
            }
            SyslogTransport::Tcp => Ok(Self::Tcp(stream(syslog.server)?)),
            SyslogTransport::Tls => {
                let connection = connection(syslog, keys)?;
                Ok(Self::Tls(Box::new(handshake(connection, stream(syslog.server)?)?)))
            }
        }
    }

    /// Sends lines.
    ///
    /// # Errors
    /// The server is gone or takes nothing.
    pub fn send(&mut self, messages: &[String]) -> Result<()> {
        match self {
            Self::Udp(socket) => {
                for burst in messages.chunks(BURST.0) {
                    for message in burst {
                        let cut = message.floor_char_boundary(DATAGRAM_MAX);
                        socket.send(&message.as_bytes()[..cut])?;
                    }
                    if burst.len() == BURST.0 {
                        sleep(BURST.1);
                    }
                }
            }
            // A server never says anything but that it is gone; what is written after that would be lost.
            Self::Tcp(stream) => {
                stream.set_nonblocking(true)?;
                let gone = matches!(stream.read(&mut [0; 16]), Ok(0));
                stream.set_nonblocking(false)?;
                anyhow::ensure!(!gone, "the server closed the connection");
                stream.write_all(&counted(messages))?;
            }
            Self::Tls(stream) => {
                stream.sock.set_nonblocking(true)?;
                let heard = still_there(stream);
                stream.sock.set_nonblocking(false)?;
                heard?;
                stream.write_all(&counted(messages))?;
                stream.flush()?;
            }
        }
        Ok(())
    }
}

fn stream(server: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&server, PATIENCE).with_context(|| format!("connecting to {server}"))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// What the host shows, and whom it believes.
fn connection(syslog: &Syslog, keys: &Path) -> Result<ClientConnection> {
    let [ca, certificate, private] = ["ca.pem", "cert.pem", "key.pem"].map(|name| keys.join(name));
    let config = trusting(&ca)?;
    let config = if certificate.exists() {
        let config = config.with_client_auth_cert(certificates(&certificate)?, key(&private)?);
        config.with_context(|| format!("{} does not go with its key", certificate.display()))?
    } else {
        config.with_no_client_auth()
    };
    let name = match &syslog.tls_name {
        Some(name) => ServerName::try_from(name.clone()).with_context(|| format!("{name} is no name"))?,
        None => ServerName::from(syslog.server.ip()),
    };
    Ok(ClientConnection::new(Arc::new(config), name)?)
}

fn handshake(
    mut connection: ClientConnection,
    mut stream: TcpStream,
) -> Result<StreamOwned<ClientConnection, TcpStream>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).context("the TLS handshake")?;
    }
    stream.set_read_timeout(Some(VERDICT))?;
    while connection.tls13_tickets_received() == 0 {
        match connection.complete_io(&mut stream) {
            Ok((0, _)) => anyhow::bail!("the server closed the connection"),
            Ok(_) => {}
            Err(error) if silent(&error) => break,
            Err(error) => return Err(error).context("the server refuses"),
        }
    }
    Ok(StreamOwned::new(connection, stream))
}

/// Reads what the server may have said: that it is gone or refuses.
fn still_there(stream: &mut StreamOwned<ClientConnection, TcpStream>) -> Result<()> {
    match stream.read(&mut [0; 16]) {
        Ok(0) => anyhow::bail!("the server closed the connection"),
        Ok(_) => Ok(()),
        Err(error) if silent(&error) => Ok(()),
        Err(error) => Err(error).context("the server ended the connection"),
    }
}

fn silent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Each behind its length in bytes and a space (RFC 6587, 3.4.1; RFC 5425, 4.3).
fn counted(messages: &[String]) -> Vec<u8> {
    messages.iter().flat_map(|message| format!("{} {message}", message.len()).into_bytes()).collect()
}

#[cfg(test)]
#[path = "way_tests.rs"]
mod tests;
