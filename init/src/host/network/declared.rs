//! The definition as the state that the kernel shall have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use thimble_spec::appliance::{Bond, Bridge, Link, Network, PortVlans, Vlan};
use thimble_spec::ip::IpNet;

use crate::host::dhcp::Leased;
use crate::net::reconcile::{BondOptions, BridgeOptions, Kind, PortVlan, Route, VlanOptions, Wanted, WantedLink};

/// What the kernel makes of an IPv6 route without a metric (`IP6_RT_PRIO_USER`, linux/ipv6_route.h).
const METRIC_V6: u32 = 1024;
/// Metric of the first default route that a DHCP server gives: one that is declared is better.
const METRIC_DHCP: u32 = 1024;

/// All of it, with what DHCP servers granted to links.
pub fn wanted(network: &Network, leases: &BTreeMap<String, Leased>) -> Wanted {
    let mut wanted = Wanted::default();
    let plain = Link::default();
    for name in network.card_names() {
        let link = network.interfaces.get(name).unwrap_or(&plain);
        wanted.links.insert(name.to_owned(), wanted_link(network, name, Kind::Card, link));
    }
    for (name, Bond { link, ports, primary, .. }) in &network.bonds {
        let kind = Kind::Bond(bond_options(&network.bonds[name]));
        let link = wanted_link(network, name, kind, link);
        wanted.links.insert(name.clone(), WantedLink { ports: ports.clone(), primary: primary.clone(), ..link });
    }
    for (name, Bridge { link, ports, stp, vlan_filtering, .. }) in &network.bridges {
        let kind = Kind::Bridge(BridgeOptions { stp: *stp, vlan_filtering: *vlan_filtering });
        let link = wanted_link(network, name, kind, link);
        wanted.links.insert(name.clone(), WantedLink { ports: ports.clone(), ..link });
    }
    for (name, Vlan { link, parent, id }) in &network.vlans {
        let kind = Kind::Vlan(VlanOptions { parent: parent.clone(), id: *id });
        wanted.links.insert(name.clone(), wanted_link(network, name, kind, link));
    }
    for (name, link) in &network.dummies {
        wanted.links.insert(name.clone(), wanted_link(network, name, Kind::Dummy, link));
    }
    for (name, link) in network.links() {
        wanted.routes.extend(routes(name, link));
    }
    for (place, (name, lease)) in (0..).zip(leases) {
        if let Some(link) = wanted.links.get_mut(name) {
            link.addresses.insert(lease.address.into());
            let metric = METRIC_DHCP + place;
            let to = IpNet::everything(false);
            let route = |via| Route { to, metric, link: name.clone(), via: Some(IpAddr::V4(via)) };
            wanted.routes.extend(lease.gateway.map(route));
        }
    }
    wanted
}

fn wanted_link(network: &Network, name: &str, kind: Kind, link: &Link) -> WantedLink {
    let master = network.master(name);
    let filters = |bridge: &&Bridge| bridge.vlan_filtering;
    let bridge = network.bridges.get(master.unwrap_or(name)).filter(filters);
    let vlans = bridge.map(|bridge| bridge.vlans.get(name).map(port_vlans).unwrap_or_default());
    WantedLink {
        mtu: link.mtu,
        mac: link.mac,
        master: master.map(str::to_owned),
        vlans,
        addresses: link.addresses.iter().copied().collect(),
        ipv6: link.ipv6,
        ..WantedLink::new(kind)
    }
}

fn port_vlans(vlans: &PortVlans) -> BTreeMap<u16, PortVlan> {
    let tagged = vlans.tagged.iter().map(|id| (*id, PortVlan::TAGGED));
    tagged.chain(vlans.untagged.map(|id| (id, PortVlan::UNTAGGED))).collect()
}

fn bond_options(bond: &Bond) -> BondOptions {
    let Bond { mode, miimon_ms, updelay_ms, downdelay_ms, lacp_rate, xmit_hash_policy, .. } = *bond;
    BondOptions { mode, miimon_ms, updelay_ms, downdelay_ms, lacp_rate, xmit_hash_policy }.cleaned()
}

fn routes(name: &str, link: &Link) -> BTreeSet<Route> {
    let metric = |to: IpNet, metric: u32| if to.is_v6() && metric == 0 { METRIC_V6 } else { metric };
    let gateways = link.gateways.iter().map(|via| {
        let to = IpNet::everything(via.is_ipv6());
        Route { to, metric: metric(to, 0), link: name.to_owned(), via: Some(*via) }
    });
    let more = link.routes.iter().map(|route| Route {
        to: route.to,
        metric: metric(route.to, route.metric),
        link: name.to_owned(),
        via: route.via,
    });
    gateways.chain(more).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        let rest = "[appliance]\nname = \"demo\"\n[kernel.host]\npackage = \"linux-image-amd64\"\nhardware = []\n\
            [kernel.guest]\nsource = \"linux-source-6.12\"\nfragments = []\n";
        thimble_spec::definition::parse("a.toml", &format!("{text}{rest}")).unwrap().appliance.network
    }

    #[test]
    fn every_link_is_wanted_as_it_is_declared() {
        let network = network(
            "[network.bonds.bond0]\nports = [\"eth0\", \"eth1\"]\nprimary = \"eth1\"\n\
             [network.bridges.br0]\nports = [\"bond0\", \"eth2\"]\naddress = \"dhcp\"\n\
             vlans = { eth2 = { untagged = 10 } }\n\
             [network.vlans.mgmt]\nparent = \"br0\"\nid = 7\naddress = \"10.7.0.2/24\"\ngateway = \"10.7.0.1\"\n\
             ipv6 = \"slaac\"\n",
        );
        let lease = Leased { address: "10.1.1.9/24".parse().unwrap(), gateway: Some("10.1.1.1".parse().unwrap()) };
        let wanted = wanted(&network, &BTreeMap::from([("br0".to_owned(), lease)]));
        let names: Vec<&str> = wanted.links.keys().map(String::as_str).collect();
        assert_eq!(names, ["bond0", "br0", "eth0", "eth1", "eth2", "mgmt"]);
        assert_eq!(wanted.links["eth0"].master.as_deref(), Some("bond0"));
        assert_eq!(wanted.links["bond0"].primary.as_deref(), Some("eth1"));
        assert_eq!(wanted.links["eth2"].vlans, Some(BTreeMap::from([(10, PortVlan::UNTAGGED)])));
        let br0 = BTreeMap::from([(1, PortVlan::UNTAGGED), (7, PortVlan::TAGGED)]);
        assert_eq!(wanted.links["br0"].vlans, Some(br0.clone()));
        assert_eq!(wanted.links["bond0"].vlans, Some(br0));
        assert_eq!(wanted.links["br0"].addresses.len(), 1);
        // The declared default route is better than the server's.
        let metrics: Vec<(u32, &str)> = wanted.routes.iter().map(|route| (route.metric, route.link.as_str())).collect();
        assert_eq!(metrics, [(0, "mgmt"), (1024, "br0")]);
    }
}
