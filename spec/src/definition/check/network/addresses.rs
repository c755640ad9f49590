//! Addresses, gateways, routes and name servers.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;

use toml::Spanned;

use super::{Checker, Destination, Taken};
use crate::appliance::{Ipv6, Link, Route};
use crate::definition::check::inner;
use crate::definition::source;
use crate::ip::{IpNet, is_link_local};
use crate::rules::{self, NAME_SERVERS_MAX};

/// The least MTU of a link that speaks IPv6 (RFC 8200, section 5).
const MTU_V6_MIN: u32 = 1280;

impl Checker<'_> {
    pub(super) fn addresses(&mut self, name: &str, link: source::Link, key: &str, taken: &mut Taken) -> Link {
        let dhcp = link.address.as_ref().is_some_and(|address| *address.get_ref() == source::Address::Dhcp);
        let mut addresses = Vec::new();
        if let Some(address) = &link.address
            && let source::Address::Static(net) = *address.get_ref()
        {
            self.own_address(name, net, address.span(), &format!("{key}.address"), taken);
            addresses.push(net);
        }
        for (index, address) in link.addresses.iter().enumerate() {
            self.own_address(name, *address.get_ref(), address.span(), &format!("{key}.addresses[{index}]"), taken);
            addresses.push(*address.get_ref());
        }
        let ipv6 = self.ipv6(&link, &addresses, key);
        let mut gateways = Vec::new();
        if let Some(gateway) = &link.gateway {
            let address = IpAddr::V4(*gateway.get_ref());
            self.own_gateway(address, gateway.span(), &addresses, &format!("{key}.gateway"), taken);
            gateways.push(address);
        }
        if let Some(gateway) = &link.gateway_ipv6 {
            let key = format!("{key}.gateway-ipv6");
            let address = IpAddr::V6(*gateway.get_ref());
            if ipv6 == Ipv6::Off {
                self.wrong(gateway.span(), &key, "the link does not speak IPv6: give it an address, or set `ipv6`");
            } else if is_link_local(address) {
                // A router's address of the link is good whatever addresses there are.
                let destination = Destination { to: IpNet::everything(true), metric: 0 };
                taken.routes.take(self, &destination, gateway.span(), &key, "the route");
            } else {
                self.own_gateway(address, gateway.span(), &addresses, &key, taken);
            }
            gateways.push(address);
        }
        let routes = link.routes.into_iter().enumerate().map(|(index, route)| {
            self.route(route, (dhcp, ipv6), &addresses, &format!("{key}.routes[{index}]"), taken)
        });
        let routes = routes.collect();
        Link {
            mtu: link.mtu.map(Spanned::into_inner),
            mac: link.mac.map(Spanned::into_inner),
            dhcp,
            addresses,
            gateways,
            ipv6,
            routes,
            dns: self.dns(link.dns, &format!("{key}.dns")),
        }
    }

    /// An address of the host: no other link may be in the same network, for the kernel would not know which to use.
    fn own_address(&mut self, name: &str, net: IpNet, span: Range<usize>, key: &str, taken: &mut Taken) {
        self.host_address(net, span.clone(), key);
        let meets = |(other, link, _): &&(IpNet, String, String)| {
            let apart = is_link_local(net.address) || (link == name && other.address != net.address);
            !apart && other.overlaps(net)
        };
        if let Some((other, _, first)) = taken.addresses.iter().find(meets) {
            let message = if other.address == net.address {
                format!("address {} is used twice: {first} has it already", net.address)
            } else {
                format!("{net} lies in the same network as {other} of {first}: two links cannot lead to one network")
            };
            self.wrong(span, key, message);
        }
        taken.addresses.push((net, name.to_owned(), key.to_owned()));
    }

    fn ipv6(&mut self, link: &source::Link, addresses: &[IpNet], key: &str) -> Ipv6 {
        let has_v6 = addresses.iter().any(|address| address.is_v6());
        let said = link.ipv6.as_ref().map(|ipv6| *ipv6.get_ref());
        let ipv6 = said.unwrap_or(if has_v6 { Ipv6::Static } else { Ipv6::Off });
        if let Some(place) = link.ipv6.as_ref().filter(|_| ipv6 == Ipv6::Off && has_v6) {
            let message = "the link has an IPv6 address: use \"static\" or \"slaac\", or leave it out";
            self.wrong(place.span(), format!("{key}.ipv6"), message);
        }
        if let Some(mtu) = link.mtu.as_ref().filter(|mtu| ipv6 != Ipv6::Off && *mtu.get_ref() < MTU_V6_MIN) {
            let message = format!("the link speaks IPv6, which needs {MTU_V6_MIN} bytes at least");
            self.wrong(mtu.span(), format!("{key}.mtu"), message);
        }
        ipv6
    }

    fn own_gateway(&mut self, gateway: IpAddr, span: Range<usize>, nets: &[IpNet], key: &str, taken: &mut Taken) {
        self.gateway(gateway, span.clone(), nets, key);
        let destination = Destination { to: IpNet::everything(gateway.is_ipv6()), metric: 0 };
        taken.routes.take(self, &destination, span, key, "the route");
    }

    fn route(
        &mut self,
        route: Spanned<source::Route>,
        (dhcp, ipv6): (bool, Ipv6),
        nets: &[IpNet],
        key: &str,
        taken: &mut Taken,
    ) -> Route {
        let span = route.span();
        let source::Route { to, via, metric } = route.into_inner();
        let place = to.span();
        let to = to.into_inner();
        if to != to.network() {
            let message = format!("{to} is an address, not a network: write {}", to.network());
            self.wrong(place.clone(), format!("{key}.to"), message);
        }
        if to.is_v6() && ipv6 == Ipv6::Off {
            let message = "the link does not speak IPv6: give it an address, or set `ipv6`";
            self.wrong(place, format!("{key}.to"), message);
        }
        if let Some(via) = &via {
            let key = format!("{key}.via");
            let address = *via.get_ref();
            // It goes with the link, or with a lease that nobody knows yet.
            let unknown = is_link_local(address) || (dhcp && address.is_ipv4());
            if address.is_ipv6() != to.is_v6() {
                self.wrong(via.span(), &key, format!("{address} and {to} are of different families"));
            } else if !unknown {
                self.gateway(address, via.span(), nets, &key);
            }
        }
        let metric = metric.map_or(0, Spanned::into_inner);
        taken.routes.take(self, &Destination { to, metric }, span, key, "the route");
        Route { to, via: via.map(Spanned::into_inner), metric }
    }

    pub(in crate::definition::check) fn host_address(&mut self, net: IpNet, span: Range<usize>, key: &str) {
        self.expect(rules::host_address(net), span, key);
    }

    /// A gateway must be another machine in one of the link's networks.
    pub(in crate::definition::check) fn gateway(
        &mut self,
        gateway: IpAddr,
        span: Range<usize>,
        nets: &[IpNet],
        key: &str,
    ) {
        self.expect(rules::gateway(gateway, nets), span, key);
    }

    pub(in crate::definition::check) fn guest_dns(
        &mut self,
        servers: Vec<Spanned<Ipv4Addr>>,
        key: &str,
    ) -> Vec<Ipv4Addr> {
        self.few_servers(&servers, key);
        inner(servers)
    }

    fn dns(&mut self, servers: Vec<Spanned<IpAddr>>, key: &str) -> Vec<IpAddr> {
        self.few_servers(&servers, key);
        inner(servers)
    }

    fn few_servers<T>(&mut self, servers: &[Spanned<T>], key: &str) {
        if let Some(server) = servers.get(NAME_SERVERS_MAX) {
            self.expect(rules::name_servers(servers.len()), server.span(), &format!("{key}[{NAME_SERVERS_MAX}]"));
        }
    }
}
