//! The socket of a DHCP client: whole IPv4 packets on one interface (packet(7)), whether it has an address or not.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::packet::{self, CLIENT_PORT, SERVER_PORT};

/// The longest packet that is read: an Ethernet frame's.
const LONGEST: usize = 1500;

/// An open socket.
pub struct PacketSocket {
    descriptor: OwnedFd,
    index: i32,
}

/// Instructions of the classic BPF (Documentation/networking/filter.rst in the kernel's tree) that let pass what goes
/// to UDP port 68, so that PID 1 is not woken by all traffic of its host. The code is `tcpdump -dd`'s for
/// `ip and udp dst port 68`, with offsets from the IP header.
const FILTER: [libc::sock_filter; 9] = [
    // A = protocol; UDP?
    instruction(0x30, 0, 0, 9),
    instruction(0x15, 0, 5, 17),
    // A = flags and fragment offset; the first fragment?
    instruction(0x28, 0, 0, 6),
    instruction(0x45, 3, 0, 0x1fff),
    // X = length of the IP header; A = destination port; ours?
    instruction(0xb1, 0, 0, 0),
    instruction(0x48, 0, 0, 2),
    instruction(0x15, 1, 0, CLIENT_PORT as u32),
    // Drop it, or let it pass.
    instruction(0x06, 0, 0, 0),
    instruction(0x06, 0, 0, LONGEST as u32),
];

const fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

impl PacketSocket {
    /// Opens it on the interface with this index.
    pub fn open(index: u32) -> io::Result<Self> {
        let index = i32::try_from(index).map_err(io::Error::other)?;
        let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // Protocol 0: nothing is received before the filter is in place and the socket is bound.
        // SAFETY: socket(2) takes no pointers.
        let descriptor = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new, valid, and owned by nobody else.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        let mut program = FILTER;
        let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        // SAFETY: `filter` and the instructions that it points to live through the call, and the length is theirs.
        check(unsafe {
            libc::setsockopt(
                descriptor.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const filter).cast(),
                size_of_val(&filter) as libc::socklen_t,
            )
        })?;
        let socket = Self { descriptor, index };
        let address = socket.address();
        // SAFETY: `address` is a `sockaddr_ll` of the length that is given.
        check(unsafe {
            libc::bind(
                socket.descriptor.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        })?;
        Ok(socket)
    }

    /// Everybody on the link.
    fn address(&self) -> libc::sockaddr_ll {
        libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: (libc::ETH_P_IP as u16).to_be(),
            sll_ifindex: self.index,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        }
    }

    /// Sends a message to everybody.
    pub fn broadcast(&self, message: &[u8]) -> io::Result<()> {
        let packet = packet::wrap(message).ok_or_else(|| io::Error::from_raw_os_error(libc::EMSGSIZE))?;
        let address = self.address();
        // SAFETY: `packet` and `address` live through the call, each with the length that is given.
        let sent = unsafe {
            libc::sendto(
                self.descriptor.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                0,
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The next message that a server sent, without waiting.
    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut buffer = [0; LONGEST];
        loop {
            match nix::unistd::read(&self.descriptor, &mut buffer) {
                Ok(count) => {
                    if let Some(message) = packet::unwrap(&buffer[..count]) {
                        return Some(message.to_vec());
                    }
                }
                // An interface that went down says so once, and is listened to further.
                Err(nix::Error::EINTR | nix::Error::ENETDOWN) => {}
                Err(_) => return None,
            }
        }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends a message from the address that the lease gave to one server. The answer comes to the packet socket.
pub fn unicast(from: Ipv4Addr, to: Ipv4Addr, message: &[u8]) -> io::Result<()> {
    let socket = UdpSocket::bind((from, CLIENT_PORT))?;
    socket.set_nonblocking(true)?;
    socket.send_to(message, (to, SERVER_PORT)).map(|_| ())
}
