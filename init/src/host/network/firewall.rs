//! The definition as rules: who may reach the host, and under which names guests send.

use std::net::Ipv4Addr;

use thimble_spec::appliance::{Firewall, Guest, GuestNetwork, Ipv6, Network, Opening, Protocol};
use thimble_spec::ip::IpNet;
use thimble_spec::names::tap_name;

use super::forwarding;
use crate::net::nft::{Chain, Family, Hook, Match, Rule, Table, Then};

/// Counter of what was for the host and is not allowed.
const DENIED: &str = "denied";

// Protocols behind IP (IANA's registry of protocol numbers).
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
// EtherTypes (IANA's registry of IEEE 802 numbers).
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;

// Places in headers: RFC 791, 3.1; RFC 8200, 3; RFC 826; RFC 9293, 3.1; RFC 768.
pub(super) const IPV4_SOURCE: u32 = 12;
const IPV6_HOP_LIMIT: u32 = 7;
const IPV6_SOURCE: u32 = 8;
const ETHER_SOURCE: u32 = 6;
const ARP_SENDER_MAC: u32 = 8;
const ARP_SENDER: u32 = 14;
const PORT: u32 = 2;
/// Ethernet and IPv4, addresses of six and four bytes: what the places in ARP hold for.
const ARP_KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];
/// The target of an advertisement (RFC 4861, 4.4).
const ADVERTISED: u32 = 8;

// Messages of ICMP (RFC 792) and ICMPv6 (RFC 4443, RFC 4861, RFC 2710).
const ECHO: u8 = 8;
const ECHO_V6: u8 = 128;
const LISTENER_QUERY: u8 = 130;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
/// Messages of neighbours come from the link itself: no router has counted them down (RFC 4861, 7.1).
const HOPS_OF_NEIGHBOURS: u8 = 255;
// Ports of DHCP (RFC 2131, 4.1).
const DHCP_SERVER: u16 = 67;
const DHCP_CLIENT: u16 = 68;

// `NF_CT_STATE_BIT` of states.
pub(super) const INVALID: u32 = 1;
pub(super) const ESTABLISHED_OR_RELATED: u32 = 2 | 4;

/// Port of name servers (RFC 1035, 4.2).
const DNS: u16 = 53;

/// `NF_INET_LOCAL_IN`.
const LOCAL_IN: u32 = 1;
/// `NF_BR_PRE_ROUTING`: before a bridge looks where a frame leads to.
const BRIDGE_IN: u32 = 0;
/// `NF_BR_PRI_FILTER_BRIDGED`.
const BRIDGE_FILTER: i32 = -200;

/// All tables; none without a firewall and networks of the host's own.
pub fn tables(network: &Network, firewall: Option<&Firewall>, guests: &[Guest]) -> Vec<Table> {
    let mut chains: Vec<Chain> = firewall.map(|firewall| input(network, firewall)).into_iter().collect();
    chains.extend(forwarding::chains(network));
    let of_host = (!chains.is_empty()).then_some(Table { family: Family::Inet, chains });
    let of_bridges = firewall.map(|_| Table { family: Family::Bridge, chains: from_guests(guests) });
    of_host.into_iter().chain(of_bridges).collect()
}

pub(super) fn chain(name: &str, hook: Option<Hook>, rules: Vec<Rule>) -> Chain {
    Chain { name: name.to_owned(), hook, rules }
}

pub(super) fn accept(matches: Vec<Match>) -> Rule {
    Rule { matches, counter: None, then: Then::Accept }
}

pub(super) fn drop_counted(matches: Vec<Match>, counter: &str) -> Rule {
    Rule { matches, counter: Some(counter.to_owned()), then: Then::Drop }
}

pub(super) fn to_port(protocol: u8, port: u16) -> Vec<Match> {
    vec![Match::protocol(protocol), Match::transport(PORT, &port.to_be_bytes())]
}

/// What is for the host itself.
fn input(network: &Network, firewall: &Firewall) -> Chain {
    let mut rules = vec![
        accept(vec![Match::connection_in(ESTABLISHED_OR_RELATED)]),
        drop_counted(vec![Match::connection_in(INVALID)], DENIED),
        accept(vec![Match::from_interface("lo")]),
    ];
    if firewall.ping {
        rules.push(accept(vec![Match::family(false), Match::protocol(ICMP), Match::transport(0, &[ECHO])]));
    }
    let v6 = |message: u8| vec![Match::family(true), Match::protocol(ICMPV6), Match::transport(0, &[message])];
    if network.links().any(|(_, link)| link.ipv6 != Ipv6::Off) {
        if firewall.ping {
            rules.push(accept(v6(ECHO_V6)));
        }
        rules.push(accept(v6(LISTENER_QUERY)));
        for message in [ROUTER_ADVERTISEMENT, NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT] {
            let near = Match::network(IPV6_HOP_LIMIT, &[HOPS_OF_NEIGHBOURS]);
            rules.push(accept([v6(message), vec![near]].concat()));
        }
    }
    for (name, _) in network.links().filter(|(_, link)| link.dhcp) {
        rules.push(accept([vec![Match::from_interface(name)], to_port(UDP, DHCP_CLIENT)].concat()));
    }
    for (name, ..) in network.served() {
        for (protocol, port) in [(UDP, DHCP_SERVER), (UDP, DNS), (TCP, DNS)] {
            rules.push(accept([vec![Match::from_interface(name)], to_port(protocol, port)].concat()));
        }
    }
    rules.extend(firewall.open.iter().flat_map(opening));
    rules.push(drop_counted(Vec::new(), DENIED));
    chain("input", Some(Hook { kind: "filter", number: LOCAL_IN, priority: 0, drops: true }), rules)
}

/// Its number behind the IP header.
pub(super) fn protocol(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    }
}

fn opening(opening: &Opening) -> Vec<Rule> {
    let port = to_port(protocol(opening.protocol), opening.port);
    if opening.from.is_empty() {
        return vec![accept(port)];
    }
    let from = |net: &IpNet| {
        let source = if net.is_v6() { IPV6_SOURCE } else { IPV4_SOURCE };
        accept([vec![Match::family(net.is_v6()), Match::address_in(source, *net)], port.clone()].concat())
    };
    opening.from.iter().map(from).collect()
}

/// What comes from guests into bridges: a chain for each.
fn from_guests(guests: &[Guest]) -> Vec<Chain> {
    let checked = guests.iter().filter_map(|guest| Some((guest, guest.network.as_ref()?)));
    let checked = checked.filter(|(_, network)| network.anti_spoofing);
    let (mut chains, mut jumps) = (Vec::new(), Vec::new());
    for (guest, network) in checked {
        let name = format!("guest {}", guest.name);
        let matches = vec![Match::from_interface(&tap_name(&guest.name))];
        jumps.push(Rule { matches, counter: None, then: Then::Jump(name.clone()) });
        chains.push(chain(&name, None, of_guest(&guest.name, network)));
    }
    let hook = Hook { kind: "filter", number: BRIDGE_IN, priority: BRIDGE_FILTER, drops: false };
    chains.push(chain("from guests", Some(hook), jumps));
    chains
}

/// What a guest may send: IPv4 and ARP from its own addresses, IPv6 if it has such, all of it from its own MAC.
fn of_guest(name: &str, network: &GuestNetwork) -> Vec<Rule> {
    let counter = |what: &str| format!("{name} {what}");
    let (mac, arp, ip) = (counter("mac"), counter("arp"), counter("ip"));
    let own = network.address.map(|net| IpNet { address: net.address.into(), prefix: 32 });
    let (v6, v4): (Vec<IpNet>, Vec<IpNet>) =
        own.into_iter().chain(network.allowed_addresses.iter().copied()).partition(|net| net.is_v6());
    let nobody = IpNet { address: Ipv4Addr::UNSPECIFIED.into(), prefix: 32 };
    let of = |kind: u16| Match::ether_type(kind);
    let mut rules = vec![
        drop_counted(vec![Match::link(ETHER_SOURCE, &network.mac.0).not()], &mac),
        drop_counted(vec![of(ARP), Match::network(0, &ARP_KIND).not()], &arp),
        drop_counted(vec![of(ARP), Match::network(ARP_SENDER_MAC, &network.mac.0).not()], &arp),
    ];
    if v4.is_empty() {
        rules.extend([accept(vec![of(ARP)]), accept(vec![of(IPV4)])]);
    } else {
        for net in &v4 {
            rules.push(accept(vec![of(ARP), Match::address_in(ARP_SENDER, *net)]));
            rules.push(accept(vec![of(IPV4), Match::address_in(IPV4_SOURCE, *net)]));
        }
        // Who asks whether an address is free (RFC 5227, 2.1.1), or for one, has none.
        rules.push(accept(vec![of(ARP), Match::address_in(ARP_SENDER, nobody)]));
        let asks = to_port(UDP, DHCP_SERVER);
        rules.push(accept([vec![of(IPV4), Match::address_in(IPV4_SOURCE, nobody)], asks].concat()));
        rules.push(drop_counted(vec![of(ARP)], &arp));
    }
    rules.extend(of_guest_v6(&v6, &ip));
    for kind in [IPV4, IPV6] {
        rules.push(drop_counted(vec![of(kind)], &ip));
    }
    // Neither spanning tree nor anything else that is for the ears of switches.
    rules.push(drop_counted(Vec::new(), &counter("other")));
    rules
}

/// The same of IPv6: it is no router, and speaks for no address but its own and those of the link.
fn of_guest_v6(allowed: &[IpNet], counter: &str) -> Vec<Rule> {
    if allowed.is_empty() {
        return Vec::new();
    }
    let v6 = |message: u8| vec![Match::ether_type(IPV6), Match::protocol(ICMPV6), Match::transport(0, &[message])];
    // RFC 4291, 2.5.2 and 2.5.6.
    let nobody = IpNet { prefix: 128, ..IpNet::everything(true) };
    let of_link = IpNet { address: [0xfe80, 0, 0, 0, 0, 0, 0, 0].into(), prefix: 10 };
    let mut rules: Vec<Rule> =
        [ROUTER_ADVERTISEMENT, REDIRECT].map(|message| drop_counted(v6(message), counter)).into();
    let sources = || allowed.iter().copied().chain([of_link]);
    let advertised =
        |net| accept([v6(NEIGHBOUR_ADVERTISEMENT), vec![Match::inner_address_in(ADVERTISED, net)]].concat());
    rules.extend(sources().map(advertised));
    rules.push(drop_counted(v6(NEIGHBOUR_ADVERTISEMENT), counter));
    let source = |net| accept(vec![Match::ether_type(IPV6), Match::address_in(IPV6_SOURCE, net)]);
    rules.extend(sources().chain([nobody]).map(source));
    rules
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::nft::NftSocket;
    use crate::net::tests::in_namespace;
    use thimble_spec::appliance::Appliance;

    fn appliance(more: &str) -> Appliance {
        let text = format!(
            "[appliance]\nname = \"demo\"\n[kernel.host]\npackage = \"linux-image-amd64\"\nhardware = []\n\
             [kernel.guest]\nsource = \"linux-source-6.12\"\nfragments = []\n\
             [network.bridges.br0]\nports = [\"eth0\"]\naddress = \"dhcp\"\nipv6 = \"slaac\"\n{more}"
        );
        thimble_spec::definition::parse("a.toml", &text).unwrap_or_else(|mistakes| panic!("{mistakes}")).appliance
    }

    fn of(appliance: &Appliance) -> Vec<Table> {
        tables(&appliance.network, appliance.firewall.as_ref(), &appliance.guests)
    }

    const EVERYTHING: &str = "[network.bridges.nat0]\nmode = \"nat\"\naddress = \"192.168.77.1/24\"\n\
        [network.bridges.far]\nmode = \"routed\"\naddress = \"10.78.0.1/16\"\n\
        [network.bridges.lab]\nmode = \"isolated\"\naddress = \"10.77.0.1/16\"\n\
        [[network.forward]]\nport = 8080\nto = \"web1:80\"\n\
        [firewall]\nopen = [{ port = 9100, from = [\"10.1.0.0/17\", \"2001:db8::/61\"] }, { port = 514, protocol = \"udp\" }]\n\
        [[guest]]\nname = \"web1\"\nimage = \"web\"\nmemory = \"64MiB\"\n\
        network = { bridge = \"nat0\", address = \"192.168.77.11/24\" }\n\
        [[guest]]\nname = \"web2\"\nimage = \"web\"\nmemory = \"64MiB\"\n\
        network = { bridge = \"br0\", allowed-addresses = [\"2001:db8::/64\", \"10.1.1.0/24\"] }\n\
        [[guest]]\nname = \"router\"\nimage = \"web\"\nmemory = \"64MiB\"\n\
        network = { bridge = \"br0\", anti-spoofing = false }\n";

    #[test]
    fn who_asks_for_nothing_has_no_rules() {
        assert_eq!(of(&appliance("")), []);
    }

    #[test]
    fn networks_are_kept_apart_without_a_firewall_too() {
        let tables = of(&appliance("[network.bridges.lab]\nmode = \"isolated\"\naddress = \"10.77.0.1/16\"\n"));
        let names: Vec<&str> = tables.iter().flat_map(|table| &table.chains).map(|chain| chain.name.as_str()).collect();
        assert_eq!(names, ["forward"]);
    }

    #[test]
    fn a_kernel_takes_all_of_it_and_one_who_may_do_anything_has_no_rules() {
        let all = of(&appliance(EVERYTHING));
        let names: Vec<&str> = all.iter().flat_map(|table| &table.chains).map(|chain| chain.name.as_str()).collect();
        assert_eq!(names, ["input", "forward", "to guests", "to the world", "guest web1", "guest web2", "from guests"]);
        in_namespace(move || {
            let mut socket = NftSocket::open().unwrap();
            if let Err(error) = socket.counters() {
                eprintln!("skipped: {}", error.sentence());
                return;
            }
            if let Err(error) = socket.replace(&all) {
                panic!("{}", error.sentence());
            }
            let counters = socket.counters().unwrap();
            let names: Vec<&str> = counters.keys().map(|(_, name)| name.as_str()).collect();
            for name in ["denied", "forward denied", "forward tcp 8080", "web1 mac", "web2 ip", "web2 other"] {
                assert!(names.contains(&name), "{name}: {names:?}");
            }
        });
    }
}
