//! The links as a whole: who is a port of whom, who lies in whom.

use std::collections::{BTreeMap, BTreeSet};

use super::{Checker, Place, Places};
use crate::appliance::{Link, Network};

/// What a link's packets are limited to if nothing is said.
const MTU_DEFAULT: u32 = 1500;

impl Checker<'_> {
    /// Mistakes that show when all links are known.
    pub(super) fn shape(&mut self, network: &Network, places: &Places) {
        self.ports_once(network, places);
        self.kinds(network, places);
        self.circles(places);
        self.tags_once(network, places);
        self.ports_without_addresses(network, places);
        self.sizes(network, places);
    }

    fn ports_once(&mut self, network: &Network, places: &Places) {
        let mut first = BTreeMap::<&str, &Place>::new();
        for (user, port, place) in &places.uses {
            if network.vlans.contains_key(user) {
                continue;
            }
            if let Some(first) = first.get(port.as_str()) {
                let message = format!("interface {port} is used twice: {} has it already", first.key);
                self.wrong(place.span.clone(), &place.key, message);
            } else {
                first.insert(port, place);
            }
        }
    }

    /// What may be inside what.
    fn kinds(&mut self, network: &Network, places: &Places) {
        for (user, used, place) in &places.uses {
            let is_port = !network.vlans.contains_key(user);
            let why = if used == "lo" {
                "the loopback interface leads nowhere"
            } else if is_port && network.bridges.contains_key(used) {
                "a bridge cannot be a port: join what they are to carry by one bridge"
            } else if network.bonds.contains_key(user) && network.is_made(used) {
                "only a network card can be a port of a bond"
            } else if !is_port && network.bonds.values().any(|bond| bond.ports.contains(used)) {
                "it is a port of a bond, which takes all that it hears: make the bond the parent"
            } else {
                continue;
            };
            self.wrong(place.span.clone(), &place.key, format!("{used}: {why}"));
        }
    }

    /// A link that is inside itself, by whatever way.
    fn circles(&mut self, places: &Places) {
        for (user, used, place) in &places.uses {
            let mut seen = BTreeSet::new();
            let mut open = vec![used];
            while let Some(link) = open.pop() {
                if link == user {
                    let message = format!("{used} is made of {user}, and {user} would be made of {used}");
                    self.wrong(place.span.clone(), &place.key, message);
                    break;
                }
                if seen.insert(link) {
                    open.extend(places.uses.iter().filter(|(user, ..)| user == link).map(|(_, used, _)| used));
                }
            }
        }
    }

    fn tags_once(&mut self, network: &Network, places: &Places) {
        let mut first = BTreeMap::new();
        for (name, vlan) in &network.vlans {
            let Some(place) = places.links.get(name) else { continue };
            if let Some(other) = first.insert((&vlan.parent, vlan.id), name) {
                let message = format!("network.vlans.{other} has VLAN {} of {} already", vlan.id, vlan.parent);
                self.wrong(place.span.clone(), format!("{}.id", place.key), message);
            }
        }
    }

    /// The kernel gives a port's packets to its bond or bridge: an address on the port would never hear of them.
    fn ports_without_addresses(&mut self, network: &Network, places: &Places) {
        for (name, link) in network.links() {
            let (Some(master), Some(place)) = (network.master(name), places.links.get(name)) else { continue };
            let plain = Link { mtu: link.mtu, mac: link.mac, ..Link::default() };
            if *link != plain {
                let message = format!("it is a port of {master}: addresses, routes and name servers belong to that");
                self.wrong(place.span.clone(), &place.key, message);
            }
            if network.bonds.contains_key(master) && *link != Link::default() {
                let message = format!("it is a port of the bond {master}, which gives its ports its own MTU and MAC");
                self.wrong(place.span.clone(), &place.key, message);
            }
        }
    }

    /// No link is larger than what it is made of.
    fn sizes(&mut self, network: &Network, places: &Places) {
        for (user, used, place) in &places.uses {
            let (Some(own), Some(said)) = (network.link(user).and_then(|link| link.mtu), places.links.get(user)) else {
                continue;
            };
            // A bond makes its ports as large as itself.
            if network.bonds.contains_key(user) {
                continue;
            }
            let below = network.link(used).and_then(|link| link.mtu).unwrap_or(MTU_DEFAULT);
            if own > below {
                let message = format!("{own} is more than the {below} bytes of {used} ({})", place.key);
                self.wrong(said.span.clone(), format!("{}.mtu", said.key), message);
            }
        }
    }
}
