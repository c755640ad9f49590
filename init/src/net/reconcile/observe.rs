//! The network as the kernel tells it, by dumps of route netlink.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netlink_packet_core::Parseable;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    AfSpecBridge, AfSpecInet6, AfSpecUnspec, InfoBond, InfoData, InfoKind, InfoVlan, LinkAttribute, LinkExtentMask,
    LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType};
use thimble_spec::appliance::Ipv6;
use thimble_spec::ip::{IpNet, is_link_local};
use thimble_spec::names::Mac;

use super::state::{Kind, Link, Route, State, VlanOptions};
use super::wire;
use crate::error::Result;
use crate::net::socket::RouteSocket;

// Kinds of requests (linux/rtnetlink.h).
const RTM_GETLINK: u16 = 18;
const RTM_GETROUTE: u16 = 26;
/// The group (`IFLA_GROUP`) of links that a definition named: "thbl".
pub const OURS: u32 = 0x7468_626c;

/// Asks the kernel.
pub fn observe(socket: &mut RouteSocket) -> Result<State> {
    let mut request = LinkMessage::default();
    request.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
    let links = socket.dump(RTM_GETLINK, &request, "links")?;
    let addresses = crate::net::address::dump(socket)?;
    let routes = socket.dump(RTM_GETROUTE, &RouteMessage::default(), "routes")?;
    let mut request = LinkMessage::default();
    request.header.interface_family = AddressFamily::Bridge;
    request.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::Brvlan])];
    let vlans = socket.dump(RTM_GETLINK, &request, "VLANs of bridges' ports")?;
    Ok(read(&links, &addresses, &routes, &vlans))
}

/// Puts the answers together. A message that cannot be read is left out: its link is as if it were not there.
pub fn read(links: &[Vec<u8>], addresses: &[Vec<u8>], routes: &[Vec<u8>], vlans: &[Vec<u8>]) -> State {
    let links: Vec<LinkMessage> = links.iter().filter_map(|bytes| LinkMessage::parse(bytes.as_slice()).ok()).collect();
    let names: BTreeMap<u32, String> =
        links.iter().filter_map(|message| Some((message.header.index, name(message)?.to_owned()))).collect();
    let mut state = State::default();
    for message in &links {
        if let (Some(name), false) = (name(message), message.header.flags.contains(LinkFlags::Loopback)) {
            state.links.insert(name.to_owned(), link(message, &names));
        }
    }
    for message in addresses.iter().filter_map(|bytes| AddressMessage::parse(bytes.as_slice()).ok()) {
        let owner = names.get(&message.header.index).and_then(|name| state.links.get_mut(name));
        if let (Some(link), Some(net)) = (owner, address(&message)) {
            link.addresses.insert(net);
        }
    }
    let routes = routes.iter().filter_map(|bytes| RouteMessage::parse(bytes.as_slice()).ok());
    state.routes = routes.filter_map(|message| route(&message, &names)).collect();
    for message in vlans.iter().filter_map(|bytes| LinkMessage::parse(bytes.as_slice()).ok()) {
        let Some(link) = names.get(&message.header.index).and_then(|name| state.links.get_mut(name)) else { continue };
        for attribute in &message.attributes {
            if let LinkAttribute::AfSpecBridge(attributes) = attribute {
                let infos = attributes.iter().filter_map(|attribute| match attribute {
                    AfSpecBridge::VlanInfo(info) => Some(wire::read_vlan(info)),
                    _ => None,
                });
                link.vlans.extend(infos);
            }
        }
    }
    state
}

fn name(message: &LinkMessage) -> Option<&str> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

fn link(message: &LinkMessage, names: &BTreeMap<u32, String>) -> Link {
    let mut link = Link {
        kind: Kind::Card,
        ours: false,
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        mtu: 0,
        mtu_max: None,
        mac: None,
        own_mac: None,
        master: None,
        primary: None,
        vlans: BTreeMap::new(),
        addresses: BTreeSet::new(),
        ipv6: Ipv6::Off,
    };
    let named = |index: &u32| names.get(index).cloned();
    let mut parent = None;
    let mut infos: &[LinkInfo] = &[];
    let is_ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::MaxMtu(mtu) => link.mtu_max = Some(*mtu).filter(|mtu| *mtu > 0),
            LinkAttribute::Address(bytes) if is_ethernet => link.mac = mac(bytes),
            LinkAttribute::PermAddress(bytes) if is_ethernet => link.own_mac = mac(bytes),
            LinkAttribute::Controller(index) => link.master = named(index),
            LinkAttribute::Link(index) => parent = named(index),
            LinkAttribute::Group(group) => link.ours = *group == OURS,
            LinkAttribute::LinkInfo(list) => infos = list,
            LinkAttribute::AfSpecUnspec(families) => link.ipv6 = ipv6(families),
            _ => {}
        }
    }
    (link.kind, link.primary) = kind(infos, parent, &named);
    link
}

fn kind(infos: &[LinkInfo], parent: Option<String>, named: &impl Fn(&u32) -> Option<String>) -> (Kind, Option<String>) {
    let mut kind = Kind::Card;
    let mut primary = None;
    for info in infos {
        match info {
            LinkInfo::Kind(InfoKind::Dummy) => kind = Kind::Dummy,
            LinkInfo::Data(InfoData::Bond(attributes)) => {
                kind = Kind::Bond(wire::read_bond(attributes));
                primary = attributes.iter().find_map(|attribute| match attribute {
                    InfoBond::Primary(index) => named(index),
                    _ => None,
                });
            }
            LinkInfo::Data(InfoData::Bridge(attributes)) => kind = Kind::Bridge(wire::read_bridge(attributes)),
            LinkInfo::Data(InfoData::Vlan(attributes)) => {
                let id = attributes.iter().find_map(|attribute| match attribute {
                    InfoVlan::Id(id) => Some(*id),
                    _ => None,
                });
                if let (Some(parent), Some(id)) = (parent.clone(), id) {
                    kind = Kind::Vlan(VlanOptions { parent, id });
                }
            }
            _ => {}
        }
    }
    (kind, primary)
}

fn mac(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok().map(Mac)
}

/// Its switches are in an array of the link's (`DEVCONF_*`, linux/ipv6.h).
fn ipv6(families: &[AfSpecUnspec]) -> Ipv6 {
    let settings = families.iter().find_map(|family| match family {
        AfSpecUnspec::Inet6(attributes) => attributes.iter().find_map(|attribute| match attribute {
            AfSpecInet6::DevConf(settings) => Some(settings),
            _ => None,
        }),
        _ => None,
    });
    match settings {
        None => Ipv6::Off,
        Some(settings) if settings.disable_ipv6 != 0 => Ipv6::Off,
        Some(settings) if settings.accept_ra != 0 => Ipv6::Slaac,
        Some(_) => Ipv6::Static,
    }
}

/// A fixed address. Those of routers' announcements have an end, and the one of the link is the kernel's.
fn address(message: &AddressMessage) -> Option<IpNet> {
    let (mut local, mut peer, mut flags) = (None, None, u32::from(message.header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => peer = Some(*address),
            AddressAttribute::Flags(all) => flags = all.bits(),
            _ => {}
        }
    }
    let address = local.or(peer)?;
    let permanent = flags & libc::IFA_F_PERMANENT != 0;
    let of_link = is_link_local(address) && message.header.scope == AddressScope::Link;
    (permanent && !of_link).then_some(IpNet { address, prefix: message.header.prefix_len })
}

/// A route of the main table by one link, that an administrator or a DHCP client set: not the kernel's own, not a router's.
fn route(message: &RouteMessage, names: &BTreeMap<u32, String>) -> Option<Route> {
    let header = &message.header;
    let set = matches!(header.protocol, RouteProtocol::Static | RouteProtocol::Boot | RouteProtocol::Dhcp);
    if !set || header.table != RouteHeader::RT_TABLE_MAIN || header.kind != RouteType::Unicast {
        return None;
    }
    let v6 = match header.address_family {
        AddressFamily::Inet => false,
        AddressFamily::Inet6 => true,
        _ => return None,
    };
    let (mut to, mut via, mut link, mut metric) = (IpNet::everything(v6).address, None, None, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = plain(address)?,
            RouteAttribute::Gateway(address) => via = Some(plain(address)?),
            RouteAttribute::Oif(index) => link = names.get(index).cloned(),
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    let to = IpNet { address: to, prefix: header.destination_prefix_length };
    Some(Route { to, metric, link: link?, via })
}

fn plain(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_safe(bytes in any::<Vec<Vec<u8>>>()) {
            let _ = read(&bytes, &bytes, &bytes, &bytes);
        }
    }
}
