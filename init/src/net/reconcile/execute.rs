//! A change, as requests to the kernel.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    AfSpecBridge, BridgeFlag, InfoBond, InfoData, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use thimble_spec::appliance::Ipv6;
use thimble_spec::ip::IpNet;
use thimble_spec::names::Mac;

use super::observe::OURS;
use super::state::{Change, Kind, PortVlan, Route, Side};
use super::wire;
use crate::error::{Doing, Error, Result};
use crate::net::request::{CHANGE, NLM_F_CREATE, NLM_F_REPLACE, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE, index};
use crate::net::socket::RouteSocket;

// Kinds and flags of requests (linux/rtnetlink.h, linux/netlink.h).
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_DELADDR: u16 = 21;
const RTM_DELROUTE: u16 = 25;
const NLM_F_EXCL: u16 = 0x200;

/// Switches of a link's IPv6 (Documentation/networking/ip-sysctl.rst in the kernel's tree), of the network namespace of
/// the thread that writes.
const IPV6_SETTINGS: &str = "/proc/sys/net/ipv6/conf";

/// Takes one step.
pub fn execute(socket: &mut RouteSocket, change: &Change) -> Result<()> {
    let doing = || change.to_string();
    match change {
        Change::Make(name, kind) => make(socket, name, kind, doing),
        Change::Remove(name) => {
            let message = link(name)?;
            gone(socket.request(RTM_DELLINK, CHANGE, &message, doing), libc::ENODEV)
        }
        Change::Own(name, ours) => set(socket, name, LinkAttribute::Group(if *ours { OURS } else { 0 }), doing),
        Change::Up(name, up) => {
            let mut message = link(name)?;
            message.header.flags = if *up { LinkFlags::Up } else { LinkFlags::empty() };
            message.header.change_mask = LinkFlags::Up;
            socket.request(RTM_NEWLINK, CHANGE, &message, doing)
        }
        Change::Master(name, master) => {
            let master = master.as_deref().map(index).transpose()?.unwrap_or(0);
            set(socket, name, LinkAttribute::Controller(master), doing)
        }
        Change::Bond(name, from, to) => {
            inform(socket, name, InfoKind::Bond, InfoData::Bond(wire::bond(Some(from), to)), doing)
        }
        Change::Primary(name, port) => {
            let port = port.as_deref().map(index).transpose()?.unwrap_or(0);
            inform(socket, name, InfoKind::Bond, InfoData::Bond(vec![InfoBond::Primary(port)]), doing)
        }
        Change::Bridge(name, from, to) => {
            inform(socket, name, InfoKind::Bridge, InfoData::Bridge(wire::bridge(from, to)), doing)
        }
        Change::Mtu(name, mtu) => set(socket, name, LinkAttribute::Mtu(*mtu), doing),
        Change::Mac(name, mac) => set(socket, name, LinkAttribute::Address(mac.0.to_vec()), doing),
        Change::CopyMac(name, from) => {
            let mac = mac_of(socket, from)?;
            set(socket, name, LinkAttribute::Address(mac.0.to_vec()), doing)
        }
        Change::Vlan(name, side, id, how) => vlan(socket, RTM_SETLINK, (name, *side), (*id, *how), doing),
        Change::NoVlan(name, side, id) => vlan(socket, RTM_DELLINK, (name, *side), (*id, PortVlan::TAGGED), doing),
        Change::Ipv6(name, ipv6) => set_ipv6(name, *ipv6).doing(doing),
        Change::Address(name, net) => {
            let message = address(index(name)?, *net);
            match socket.request(RTM_NEWADDR, CHANGE | NLM_F_CREATE, &message, doing) {
                Err(error) if error.errno() == Some(libc::EEXIST) => Ok(()),
                outcome => outcome,
            }
        }
        Change::NoAddress(name, net) => {
            let message = address(index(name)?, *net);
            gone(socket.request(RTM_DELADDR, CHANGE, &message, doing), libc::EADDRNOTAVAIL)
        }
        Change::Route(wanted) => {
            let flags = CHANGE | NLM_F_CREATE | NLM_F_REPLACE;
            socket.request(RTM_NEWROUTE, flags, &route(wanted)?, doing)
        }
        Change::NoRoute(old) => gone(socket.request(RTM_DELROUTE, CHANGE, &route(old)?, doing), libc::ESRCH),
    }
}

/// The Ethernet address of a link.
pub fn mac_of(socket: &mut RouteSocket, name: &str) -> Result<Mac> {
    use netlink_packet_core::Parseable;
    let bytes = socket.ask(RTM_GETLINK, &link(name)?, || format!("ask for the address of {name}"))?;
    let message = LinkMessage::parse(bytes.as_slice()).map_err(|error| Error::Said(format!("{name}: {error}")))?;
    let mac = message.attributes.into_iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => bytes.try_into().ok().map(Mac),
        _ => None,
    });
    mac.ok_or_else(|| Error::Said(format!("interface {name} has no Ethernet address")))
}

/// An outcome in which `errno` means that there was nothing to remove.
fn gone(outcome: Result<()>, errno: i32) -> Result<()> {
    match outcome {
        Err(error) if error.errno() == Some(errno) => Ok(()),
        outcome => outcome,
    }
}

fn link(name: &str) -> Result<LinkMessage> {
    let mut message = LinkMessage::default();
    message.header.index = index(name)?;
    Ok(message)
}

fn set(socket: &mut RouteSocket, name: &str, attribute: LinkAttribute, doing: impl FnOnce() -> String) -> Result<()> {
    let mut message = link(name)?;
    message.attributes = vec![attribute];
    socket.request(RTM_NEWLINK, CHANGE, &message, doing)
}

fn inform(
    socket: &mut RouteSocket,
    name: &str,
    kind: InfoKind,
    data: InfoData,
    doing: impl FnOnce() -> String,
) -> Result<()> {
    set(socket, name, LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]), doing)
}

fn make(socket: &mut RouteSocket, name: &str, kind: &Kind, doing: impl FnOnce() -> String) -> Result<()> {
    let Some(infos) = wire::made(kind) else { return Ok(()) };
    let mut message = LinkMessage::default();
    message.attributes =
        vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::Group(OURS), LinkAttribute::LinkInfo(infos)];
    if let Kind::Vlan(vlan) = kind {
        message.attributes.push(LinkAttribute::Link(index(&vlan.parent)?));
    }
    let doing = || format!("{}: is its kernel module in the image?", doing());
    socket.request(RTM_NEWLINK, CHANGE | NLM_F_CREATE | NLM_F_EXCL, &message, doing)
}

/// A bridge is told of its own VLANs in its own person; a port's are its bridge's to set.
fn vlan(
    socket: &mut RouteSocket,
    kind: u16,
    (name, side): (&str, Side),
    (id, how): (u16, PortVlan),
    doing: impl FnOnce() -> String,
) -> Result<()> {
    let mut message = link(name)?;
    message.header.interface_family = AddressFamily::Bridge;
    let mut attributes = vec![AfSpecBridge::VlanInfo(wire::vlan(id, how))];
    if side == Side::Bridge {
        attributes.insert(0, AfSpecBridge::Flags(BridgeFlag::LowerDev));
    }
    message.attributes = vec![LinkAttribute::AfSpecBridge(attributes)];
    socket.request(kind, CHANGE, &message, doing)
}

fn set_ipv6(name: &str, ipv6: Ipv6) -> std::io::Result<()> {
    let directory = Path::new(IPV6_SETTINGS).join(name);
    // A kernel without IPv6 has it off already.
    if ipv6 == Ipv6::Off && !directory.exists() {
        return Ok(());
    }
    // 2: also where the host forwards packets, as it does for guests' networks.
    let routers = if ipv6 == Ipv6::Slaac { "2" } else { "0" };
    fs::write(directory.join("accept_ra"), routers)?;
    fs::write(directory.join("autoconf"), if ipv6 == Ipv6::Slaac { "1" } else { "0" })?;
    fs::write(directory.join("disable_ipv6"), if ipv6 == Ipv6::Off { "1" } else { "0" })
}

fn address(index: u32, net: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = if net.is_v6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.prefix_len = net.prefix;
    message.header.index = index;
    message.header.scope = AddressScope::Universe;
    message.attributes = vec![AddressAttribute::Local(net.address), AddressAttribute::Address(net.address)];
    // RFC 919, section 7; a network of two (RFC 3021) or one has none.
    if let IpAddr::V4(address) = net.address
        && net.prefix < 31
    {
        let broadcast = Ipv4Addr::from_bits(address.to_bits() | (u32::MAX >> net.prefix));
        message.attributes.push(AddressAttribute::Broadcast(broadcast));
    }
    message
}

fn route(route: &Route) -> Result<RouteMessage> {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: if route.to.is_v6() { AddressFamily::Inet6 } else { AddressFamily::Inet },
        destination_prefix_length: route.to.prefix,
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Static,
        scope: if route.via.is_some() || route.to.is_v6() { RouteScope::Universe } else { RouteScope::Link },
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    if route.to.prefix > 0 {
        message.attributes.push(RouteAttribute::Destination(RouteAddress::from(route.to.address)));
    }
    if let Some(via) = route.via {
        message.attributes.push(RouteAttribute::Gateway(RouteAddress::from(via)));
    }
    message.attributes.push(RouteAttribute::Oif(index(&route.link)?));
    message.attributes.push(RouteAttribute::Priority(route.metric));
    Ok(message)
}
