//! Sockets that are bound to one address and nothing else, and the sentence where that cannot be.

use std::io;
use std::net::{SocketAddr, SocketAddrV4, TcpListener as StdListener};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt};
use tokio::net::{TcpListener, UdpSocket};

use crate::error::{Error, Result};

/// A pause after an error of a listening socket, which may come again at once.
pub const AFTER_ERROR: Duration = Duration::from_millis(50);

/// A datagram socket, prepared by `prepare` before it gets its address.
///
/// # Errors
/// The port is taken, a privilege is missing.
pub fn udp(
    at: SocketAddrV4,
    what: &str,
    prepare: impl FnOnce(&std::os::fd::OwnedFd) -> nix::Result<()>,
) -> Result<UdpSocket> {
    let make = || -> io::Result<UdpSocket> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
        prepare(&fd)?;
        bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &SockaddrIn::from(at))?;
        UdpSocket::from_std(fd.into())
    };
    make().map_err(|error| sentence(&error, at, what))
}

/// A listening socket.
///
/// # Errors
/// The port is taken, a privilege is missing.
pub fn tcp(at: SocketAddrV4, what: &str) -> Result<TcpListener> {
    let make = || -> io::Result<TcpListener> {
        let listener = StdListener::bind(at)?;
        listener.set_nonblocking(true)?;
        // A burst of machines that are switched on together; the kernel caps it at net.core.somaxconn.
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(1024)?)?;
        TcpListener::from_std(listener)
    };
    make().map_err(|error| sentence(&error, at, what))
}

/// A socket for one client at `peer`, at any port of `own`.
///
/// # Errors
/// There are no ports or descriptors left.
pub fn for_client(own: SocketAddrV4, peer: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(SocketAddrV4::new(*own.ip(), 0))?;
    socket.connect(peer)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// Lets this process have as many descriptors as it may: two for each machine that is served.
pub fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    const ENOUGH: u64 = 8192;
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < ENOUGH
    {
        // Without it, fewer machines are served at once.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(ENOUGH), hard);
    }
}

/// A larger receive buffer, for the requests of a rack that is switched on at once. The kernel caps it.
///
/// # Errors
/// None that matter: what the kernel allows is taken.
pub fn many_requests(socket: &std::os::fd::OwnedFd) -> nix::Result<()> {
    setsockopt(socket, sockopt::RcvBuf, &(1 << 20))
}

fn sentence(error: &io::Error, at: SocketAddrV4, what: &str) -> Error {
    let port = at.port();
    match error.kind() {
        io::ErrorKind::AddrInUse => Error::environment(format!(
            "port {port} ({what}) is taken by another program{}",
            match what {
                "HTTP" => ": --http-port chooses another",
                "TFTP" => ": `ss -lunp` tells which, firmware knows no other port",
                _ => ": `ss -lunp` tells which, and there is one DHCP server on one machine",
            }
        )),
        io::ErrorKind::PermissionDenied => Error::environment(format!(
            "port {port} ({what}) needs a privilege: run it as root, or with CAP_NET_BIND_SERVICE and CAP_NET_RAW"
        )),
        _ => Error::environment(format!("cannot listen at {at} ({what}): {error}")),
    }
}
