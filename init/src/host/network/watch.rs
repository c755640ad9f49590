//! The kernel's announcements about links and addresses: that something changed, and which carriers came and went.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_packet_core::{NetlinkBuffer, Parseable};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use crate::error::{Doing, Result};

/// Groups of route netlink: links and IPv4 addresses (`RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR`, linux/rtnetlink.h).
const GROUPS: u32 = 0x1 | 0x10;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
/// Length of `struct nlmsghdr` (linux/netlink.h).
const HEADER: usize = 16;
/// So many announcements at once; the rest comes at the next look.
const AT_ONCE: usize = 256;

/// The socket that hears them.
pub struct Watch {
    socket: Socket,
    carriers: BTreeMap<String, bool>,
}

/// What was heard.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Something changed, or may have.
    pub changed: bool,
    /// Links whose carrier came (true) or went.
    pub carriers: Vec<(String, bool)>,
}

impl Watch {
    /// Starts to listen.
    pub fn listen() -> Result<Self> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.set_non_blocking(true)?;
            socket.bind(&SocketAddr::new(0, GROUPS))?;
            Ok::<_, std::io::Error>(Self { socket, carriers: BTreeMap::new() })
        };
        open().doing(|| "listen to the kernel's announcements about links".to_owned())
    }

    /// Takes what was announced, without waiting.
    pub fn hear(&mut self) -> Heard {
        let mut heard = Heard::default();
        for _ in 0..AT_ONCE {
            let mut datagram = Vec::with_capacity(32 << 10);
            match self.socket.recv_from(&mut datagram, 0) {
                Ok((_, from)) if from.port_number() == 0 => {
                    heard.changed = true;
                    self.read(&datagram, &mut heard);
                }
                Ok(_) => {}
                // Some were lost.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => heard.changed = true,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        heard
    }

    fn read(&mut self, datagram: &[u8], heard: &mut Heard) {
        let Ok(buffer) = NetlinkBuffer::new_checked(datagram) else { return };
        let kind = buffer.message_type();
        if !matches!(kind, RTM_NEWLINK | RTM_DELLINK) {
            return;
        }
        let Some(Ok(message)) = datagram.get(HEADER..).map(LinkMessage::parse) else { return };
        let name = message.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        });
        let Some(name) = name else { return };
        if kind == RTM_DELLINK {
            // A port that leaves its bridge is announced as deleted there, too.
            if message.header.interface_family != netlink_packet_route::AddressFamily::Bridge {
                self.carriers.remove(&name);
            }
            return;
        }
        let carrier = message.header.flags.contains(LinkFlags::LowerUp);
        let before = self.carriers.insert(name.clone(), carrier);
        if before.is_some_and(|before| before != carrier) || (before.is_none() && carrier) {
            heard.carriers.push((name, carrier));
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor belongs to `self.socket`, which lives as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }
}
