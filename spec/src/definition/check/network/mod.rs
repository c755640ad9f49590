//! The host's links: each for itself here, addresses and the shape of the whole in the files below.

mod addresses;
mod shape;
mod vlans;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};

use toml::Spanned;

use super::{Checker, Once, inner, source};
use crate::appliance::{Bond, BondMode, Bridge, BridgeMode, Link, Match, Network, PortVlans, Vlan};
use crate::ip::IpNet;
use crate::names::{Mac, check_interface};

/// Bonding's usual time between two looks at the links.
const MIIMON_DEFAULT_MS: u32 = 100;
/// From what IPv4 needs (RFC 791, section 3.2) to what the kernel takes (`ETH_MAX_MTU`, linux/if_ether.h).
const MTU: RangeInclusive<u32> = 68..=65_535;

/// What no two links have.
struct Taken {
    names: Once<String>,
    macs: Once<Mac>,
    routes: Once<Destination>,
    /// Each fixed address with its link and its key.
    addresses: Vec<(IpNet, String, String)>,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Destination {
    to: IpNet,
    metric: u32,
}

impl Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.to.prefix {
            0 => f.write_str("by default"),
            _ => write!(f, "to {}", self.to),
        }
    }
}

/// Where links and their ports are said, for mistakes that show when all are known.
#[derive(Default)]
struct Places {
    /// Of a link by its name.
    links: BTreeMap<String, Place>,
    /// Of the mention of a port or a parent: user, used, place.
    uses: Vec<(String, String, Place)>,
    /// Of what a bridge's table `vlans` says: bridge, port, place.
    vlans: Vec<(String, String, Place)>,
    /// Of the word that a bridge does not filter.
    unfiltered: Unfiltered,
}

/// Bridges of which it is said that they do not filter.
#[derive(Default)]
pub(super) struct Unfiltered(BTreeMap<String, Place>);

#[derive(Clone, Debug)]
struct Place {
    key: String,
    span: Range<usize>,
}

impl Checker<'_> {
    /// All links. VLANs of ports that follow from guests come later: [`Checker::port_vlans`].
    pub(super) fn network(&mut self, source: source::Network) -> (Network, Unfiltered) {
        let mut places = Places::default();
        let mut taken = Taken { names: Once::new(), macs: Once::new(), routes: Once::new(), addresses: Vec::new() };
        let cards = self.cards(source.cards);
        let mut network = Network { cards, ..Network::default() };
        for (name, bond) in source.bonds {
            let key = format!("network.bonds.{name}");
            self.named(&name, &key, bond.span(), &mut taken, &mut places);
            let bond = self.bond(&name, bond, &key, &mut taken, &mut places);
            network.bonds.insert(name, bond);
        }
        for (name, bridge) in source.bridges {
            let key = format!("network.bridges.{name}");
            self.named(&name, &key, bridge.span(), &mut taken, &mut places);
            let bridge = self.bridge(&name, bridge.into_inner(), &key, &mut taken, &mut places);
            network.bridges.insert(name, bridge);
        }
        for (name, vlan) in source.vlans {
            let key = format!("network.vlans.{name}");
            self.named(&name, &key, vlan.span(), &mut taken, &mut places);
            let mut vlan = vlan.into_inner();
            let link = self.link(&name, vlan.take_link(), &key, &mut taken);
            self.vlan_id(&vlan.id, &format!("{key}.id"));
            let place = Place { key: format!("{key}.parent"), span: vlan.parent.span() };
            self.expect(check_interface(vlan.parent.get_ref()), vlan.parent.span(), &place.key);
            places.uses.push((name.clone(), vlan.parent.get_ref().clone(), place));
            network.vlans.insert(name, Vlan { link, parent: vlan.parent.into_inner(), id: vlan.id.into_inner() });
        }
        for (name, mut interface) in source.interfaces {
            let key = format!("network.interfaces.{name}");
            self.named(&name, &key, interface.span(), &mut taken, &mut places);
            let link = self.link(&name, interface.get_mut().take_link(), &key, &mut taken);
            network.interfaces.insert(name, link);
        }
        for (name, mut dummy) in source.dummies {
            let key = format!("network.dummies.{name}");
            self.named(&name, &key, dummy.span(), &mut taken, &mut places);
            let link = self.link(&name, dummy.get_mut().take_link(), &key, &mut taken);
            network.dummies.insert(name, link);
        }
        self.shape(&network, &places);
        self.said_vlans(&network, &places);
        (network, places.unfiltered)
    }

    fn named(&mut self, name: &str, key: &str, span: Range<usize>, taken: &mut Taken, places: &mut Places) {
        self.expect(check_interface(name), span.clone(), key);
        if name == "lo" {
            self.wrong(span.clone(), key, "`lo` is the loopback interface: choose another name");
        }
        taken.names.take(self, &name.to_owned(), span.clone(), key, "interface");
        places.links.insert(name.to_owned(), Place { key: key.to_owned(), span });
    }

    fn cards(&mut self, cards: BTreeMap<String, Spanned<source::Card>>) -> BTreeMap<String, Match> {
        let mut checked = BTreeMap::<String, Match>::new();
        for (name, card) in cards {
            let key = format!("network.cards.{name}");
            self.expect(check_interface(&name), card.span(), &key);
            let matches = card.into_inner().matches;
            let (span, key) = (matches.span(), format!("{key}.match"));
            let source::Match { mac, path, driver, name: kernel_name } = matches.into_inner();
            if let Some(name) = &kernel_name {
                self.expect(check_interface(name.get_ref()), name.span(), &format!("{key}.name"));
            }
            let matches = Match { mac, path, driver, name: kernel_name.map(Spanned::into_inner) };
            if matches == Match::default() {
                self.wrong(span, &key, "say which card is meant by `mac`, `path`, `driver` or `name`");
            } else if let Some((other, _)) = checked.iter().find(|(_, other)| **other == matches) {
                self.wrong(span, &key, format!("network.cards.{other} means the same card already"));
            }
            checked.insert(name, matches);
        }
        checked
    }

    fn ports(&mut self, user: &str, names: &[Spanned<String>], key: &str, places: &mut Places) {
        for (index, port) in names.iter().enumerate() {
            let place = Place { key: format!("{key}.ports[{index}]"), span: port.span() };
            self.expect(check_interface(port.get_ref()), port.span(), &place.key);
            places.uses.push((user.to_owned(), port.get_ref().clone(), place));
        }
    }

    fn bond(
        &mut self,
        name: &str,
        bond: Spanned<source::Bond>,
        key: &str,
        taken: &mut Taken,
        places: &mut Places,
    ) -> Bond {
        let place = bond.span();
        let mut bond = bond.into_inner();
        let link = self.link(name, bond.take_link(), key, taken);
        if bond.ports.is_empty() {
            self.wrong(place, key, "a bond needs at least one port: name its interfaces in `ports`");
        }
        self.ports(name, &bond.ports, key, places);
        let mode = bond.mode.map(Spanned::into_inner).unwrap_or_default();
        let miimon_ms = bond.miimon_ms.map_or(MIIMON_DEFAULT_MS, |time| {
            if !(1..=10_000).contains(time.get_ref()) {
                self.wrong(time.span(), format!("{key}.miimon-ms"), "use 1 to 10000 milliseconds");
            }
            time.into_inner()
        });
        let [updelay_ms, downdelay_ms] =
            [("updelay-ms", bond.updelay_ms), ("downdelay-ms", bond.downdelay_ms)].map(|(name, delay)| {
                let Some(delay) = delay else { return 0 };
                if !delay.get_ref().is_multiple_of(miimon_ms.max(1)) || *delay.get_ref() > 600_000 {
                    let message = format!("use a multiple of miimon-ms, {miimon_ms}, of ten minutes at most");
                    self.wrong(delay.span(), format!("{key}.{name}"), message);
                }
                delay.into_inner()
            });
        let goes_with = |checker: &mut Self, what: &str, span: Option<Range<usize>>, good: bool, modes: &str| {
            if let Some(span) = span.filter(|_| !good) {
                checker.wrong(span, format!("{key}.{what}"), format!("goes with mode {modes} only"));
            }
        };
        let span = bond.primary.as_ref().map(Spanned::span);
        goes_with(self, "primary", span, mode.has_primary(), "active-backup, balance-tlb or balance-alb");
        let span = bond.lacp_rate.as_ref().map(Spanned::span);
        goes_with(self, "lacp-rate", span, mode == BondMode::Lacp, "802.3ad");
        let span = bond.xmit_hash_policy.as_ref().map(Spanned::span);
        goes_with(self, "xmit-hash-policy", span, mode.hashes(), "balance-xor, 802.3ad or balance-tlb");
        if let Some(primary) = &bond.primary
            && !bond.ports.iter().any(|port| port.get_ref() == primary.get_ref())
        {
            let message = format!("{} is none of the ports", primary.get_ref());
            self.wrong(primary.span(), format!("{key}.primary"), message);
        }
        Bond {
            link,
            mode,
            ports: inner(bond.ports),
            miimon_ms,
            updelay_ms,
            downdelay_ms,
            primary: bond.primary.map(Spanned::into_inner),
            lacp_rate: bond.lacp_rate.map(Spanned::into_inner).unwrap_or_default(),
            xmit_hash_policy: bond.xmit_hash_policy.map(Spanned::into_inner).unwrap_or_default(),
        }
    }

    fn bridge(
        &mut self,
        name: &str,
        mut bridge: source::Bridge,
        key: &str,
        taken: &mut Taken,
        places: &mut Places,
    ) -> Bridge {
        let link = self.link(name, bridge.take_link(), key, taken);
        self.ports(name, &bridge.ports, key, places);
        if let Some(filtering) = bridge.vlan_filtering.as_ref().filter(|filtering| !filtering.get_ref()) {
            let place = Place { key: format!("{key}.vlan-filtering"), span: filtering.span() };
            places.unfiltered.0.insert(name.to_owned(), place);
        }
        let (mode, dhcp_dns) = self.own_network(&bridge, &link, key);
        let vlans = bridge.vlans.into_iter().map(|(port, vlans)| {
            let key = format!("{key}.vlans.{port}");
            places.vlans.push((name.to_owned(), port.clone(), Place { key: key.clone(), span: vlans.span() }));
            let source::PortVlans { tagged, untagged } = vlans.into_inner();
            self.trunk(&tagged, untagged.as_ref(), &format!("{key}.tagged"));
            if let Some(id) = &untagged {
                self.vlan_id(id, &format!("{key}.untagged"));
            }
            let tagged = tagged.into_iter().map(Spanned::into_inner).collect();
            (port, PortVlans { tagged, untagged: untagged.map(Spanned::into_inner) })
        });
        let vlans = vlans.collect::<BTreeMap<_, _>>();
        let filtering = bridge.vlan_filtering.map_or(!vlans.is_empty(), Spanned::into_inner);
        let ports = inner(bridge.ports);
        Bridge { link, ports, mode, dhcp_dns, stp: bridge.stp, vlan_filtering: filtering, vlans }
    }

    /// What a bridge says of being a network of the host's own.
    fn own_network(&mut self, bridge: &source::Bridge, link: &Link, key: &str) -> (BridgeMode, bool) {
        let mode = bridge.mode.as_ref().map(|mode| *mode.get_ref()).unwrap_or_default();
        let own = mode != BridgeMode::Bridged;
        if let Some(place) = bridge.mode.as_ref().filter(|_| own) {
            if link.ipv4().next().is_none() {
                let message = "the host is its guests' gateway: give it an address, such as \"192.168.77.1/24\"";
                self.wrong(place.span(), format!("{key}.mode"), message);
            }
            if let Some(port) = bridge.ports.first() {
                let message = "its guests reach others by the host: a bridge with ports has mode = \"bridged\"";
                self.wrong(port.span(), format!("{key}.ports[0]"), message);
            }
        }
        let dhcp_dns = bridge.dhcp_dns.as_ref().map_or(own, |dhcp_dns| *dhcp_dns.get_ref());
        if let Some(place) = bridge.dhcp_dns.as_ref().filter(|_| dhcp_dns && !own) {
            let message = "goes with mode = \"nat\", \"routed\" or \"isolated\": others have servers of their own";
            self.wrong(place.span(), format!("{key}.dhcp-dns"), message);
        }
        (mode, dhcp_dns)
    }

    /// What every link says.
    fn link(&mut self, name: &str, link: source::Link, key: &str, taken: &mut Taken) -> Link {
        if let Some(mtu) = &link.mtu
            && !MTU.contains(mtu.get_ref())
        {
            self.wrong(mtu.span(), format!("{key}.mtu"), format!("use {} to {} bytes", MTU.start(), MTU.end()));
        }
        if let Some(mac) = &link.mac {
            taken.macs.take(self, mac.get_ref(), mac.span(), &format!("{key}.mac"), "MAC address");
        }
        self.addresses(name, link, key, taken)
    }
}
