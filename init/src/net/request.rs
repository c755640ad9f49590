//! The requests that both roles make: links, addresses, routes. Each is idempotent: what is as wanted already is left alone.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkFlags, LinkHeader};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use nix::sys::socket::{AddressFamily as Family, SockFlag, SockType, socket};
use thimble_spec::names::Ipv4Net;

use super::interface;
use super::socket::RouteSocket;
use crate::error::{Doing, Result};

// Kinds of requests (linux/rtnetlink.h).
pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_NEWADDR: u16 = 20;
pub(super) const RTM_NEWROUTE: u16 = 24;

// Flags of requests (linux/netlink.h).
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
pub(super) const NLM_F_REPLACE: u16 = 0x100;
pub(super) const NLM_F_CREATE: u16 = 0x400;
/// A change to what exists.
pub(super) const CHANGE: u16 = NLM_F_REQUEST | NLM_F_ACK;

/// The network of this thread's namespace.
pub struct Network {
    socket: RouteSocket,
}

impl Network {
    /// Opens the way to it.
    pub fn open() -> Result<Self> {
        Ok(Self { socket: RouteSocket::open()? })
    }

    /// Switches an interface on.
    pub fn up(&mut self, name: &str) -> Result<()> {
        self.switch(name, LinkFlags::Up)
    }

    fn switch(&mut self, name: &str, flags: LinkFlags) -> Result<()> {
        let index = index(name)?;
        let on = flags.contains(LinkFlags::Up);
        if is_up(name) == on {
            return Ok(());
        }
        let header = LinkHeader { index, flags, change_mask: LinkFlags::Up, ..LinkHeader::default() };
        let word = if on { "up" } else { "down" };
        self.socket.request(RTM_NEWLINK, CHANGE, &header, || format!("set interface {name} {word}"))
    }

    /// Gives an interface an address. The kernel adds the route to its network.
    pub fn add_address(&mut self, name: &str, address: Ipv4Net) -> Result<()> {
        let message = address_message(index(name)?, address);
        // Without NLM_F_REPLACE an address that is there already is an error, which is as good.
        let flags = CHANGE | NLM_F_CREATE;
        match self.socket.request(RTM_NEWADDR, flags, &message, || format!("give {address} to interface {name}")) {
            Err(error) if error.errno() == Some(libc::EEXIST) => Ok(()),
            outcome => outcome,
        }
    }

    /// What is there.
    #[cfg(feature = "host")]
    pub fn observe(&mut self) -> Result<super::reconcile::State> {
        super::reconcile::observe(&mut self.socket)
    }

    /// Takes one step of a plan.
    #[cfg(feature = "host")]
    pub fn change(&mut self, change: &super::reconcile::Change) -> Result<()> {
        super::reconcile::execute(&mut self.socket, change)
    }

    /// Gives an interface another name, which is switched off for it.
    #[cfg(feature = "host")]
    pub fn rename(&mut self, from: &str, to: &str) -> Result<()> {
        self.switch(from, LinkFlags::empty())?;
        let mut message = netlink_packet_route::link::LinkMessage::default();
        message.header.index = index(from)?;
        message.attributes = vec![netlink_packet_route::link::LinkAttribute::IfName(to.to_owned())];
        self.socket.request(RTM_NEWLINK, CHANGE, &message, || format!("call {from} {to}"))
    }

    /// Sets the default route.
    pub fn default_route(&mut self, name: &str, gateway: Ipv4Addr) -> Result<()> {
        let mut message = default_route_message();
        let gateway_address = RouteAttribute::Gateway(RouteAddress::Inet(gateway));
        message.attributes = vec![gateway_address, RouteAttribute::Oif(index(name)?)];
        let flags = CHANGE | NLM_F_CREATE | NLM_F_REPLACE;
        self.socket.request(RTM_NEWROUTE, flags, &message, || format!("set the default route by {gateway} on {name}"))
    }
}

fn address_message(index: u32, address: Ipv4Net) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = address.prefix;
    message.header.index = index;
    message.header.scope = AddressScope::Universe;
    let local = IpAddr::V4(address.address);
    message.attributes = vec![AddressAttribute::Local(local), AddressAttribute::Address(local)];
    // RFC 919, section 7; a network of two (RFC 3021) or one has none.
    if address.prefix < 31 {
        let broadcast = Ipv4Addr::from_bits(address.address.to_bits() | (u32::MAX >> address.prefix));
        message.attributes.push(AddressAttribute::Broadcast(broadcast));
    }
    message
}

fn default_route_message() -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: AddressFamily::Inet,
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Boot,
        scope: RouteScope::Universe,
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    message
}

/// The number of an interface of this thread's namespace.
pub fn index(name: &str) -> Result<u32> {
    let doing = || format!("find interface {name}: is there an interface {name}?");
    let mut request =
        libc::ifreq { ifr_name: [0; libc::IFNAMSIZ], ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_ifindex: 0 } };
    // The kernel looks for a final zero.
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENODEV)).doing(doing);
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let any = socket(Family::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).doing(doing)?;
    // SAFETY: the ioctl reads the name and writes the number, both in `request`.
    unsafe { get_index(any.as_raw_fd(), &raw mut request) }.doing(doing)?;
    // SAFETY: it was set above, and by the ioctl; any four bytes are a number.
    Ok(unsafe { request.ifr_ifru.ifru_ifindex }.cast_unsigned())
}

nix::ioctl_read_bad! {
    /// netdevice(7). The C library's `if_nametoindex` is this ioctl too.
    get_index, libc::SIOCGIFINDEX, libc::ifreq
}

/// Whether `IFF_UP`, the lowest bit, is set.
fn is_up(name: &str) -> bool {
    let flags = fs::read_to_string(interface(name).join("flags")).unwrap_or_default();
    let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap_or(0);
    flags & 1 == 1
}
