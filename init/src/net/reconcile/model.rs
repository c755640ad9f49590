//! What a change does to a network, as far as plans depend on it: the kernel's rules, each with the place where it is in
//! its tree.

use std::collections::BTreeMap;

use thimble_spec::appliance::Ipv6;

use super::state::{Change, Kind, Link, PortVlan, State};

/// MTU of a new link (`ETH_DATA_LEN`).
pub const MTU_DEFAULT: u32 = 1500;
/// The VLAN that a bridge puts its ports and itself into (`default_pvid`, net/bridge/br_vlan.c).
pub const DEFAULT_VLAN: u16 = 1;

impl State {
    /// Takes one step.
    pub fn take(&mut self, change: &Change) {
        match change {
            Change::Make(name, kind) => self.make(name, kind),
            Change::Remove(name) => self.remove(name),
            Change::Own(name, ours) => self.with(name, |link| link.ours = *ours),
            Change::Up(name, true) => self.with(name, |link| link.up = true),
            Change::Up(name, false) => self.down(name),
            Change::Master(name, master) => self.set_master(name, master.as_deref()),
            Change::Bond(name, _, to) => self.with(name, |link| link.kind = Kind::Bond(*to)),
            Change::Primary(name, port) => self.with(name, |link| link.primary = port.clone()),
            Change::Bridge(name, _, to) => self.with(name, |link| link.kind = Kind::Bridge(*to)),
            Change::Mtu(name, mtu) => self.set_mtu(name, *mtu),
            Change::Mac(name, mac) => self.with(name, |link| link.mac = Some(*mac)),
            Change::CopyMac(name, from) => {
                let mac = self.links.get(from).and_then(|link| link.mac);
                self.with(name, |link| link.mac = mac);
            }
            Change::Vlan(name, _, id, how) => self.with(name, |link| {
                if how.pvid {
                    link.vlans.values_mut().for_each(|other| other.pvid = false);
                }
                link.vlans.insert(*id, *how);
            }),
            Change::NoVlan(name, _, id) => self.with(name, |link| _ = link.vlans.remove(id)),
            Change::Ipv6(name, ipv6) => {
                self.with(name, |link| link.ipv6 = *ipv6);
                if *ipv6 == Ipv6::Off {
                    self.forget_v6(name);
                }
            }
            Change::Address(name, net) => self.with(name, |link| _ = link.addresses.insert(*net)),
            Change::NoAddress(name, net) => self.with(name, |link| _ = link.addresses.remove(net)),
            Change::Route(route) => _ = self.routes.insert(route.clone()),
            Change::NoRoute(route) => _ = self.routes.remove(route),
        }
    }

    /// The ports of a bond or bridge.
    pub fn ports(&self, master: &str) -> Vec<String> {
        let mine = |link: &Link| link.master.as_deref() == Some(master);
        self.links.iter().filter(|(_, link)| mine(link)).map(|(name, _)| name.clone()).collect()
    }

    fn with(&mut self, name: &str, change: impl FnOnce(&mut Link)) {
        if let Some(link) = self.links.get_mut(name) {
            change(link);
        }
    }

    fn make(&mut self, name: &str, kind: &Kind) {
        let (mtu, mac) = match kind {
            // vlan_dev_init, net/8021q/vlan_dev.c.
            Kind::Vlan(vlan) => self.links.get(&vlan.parent).map_or((MTU_DEFAULT, None), |link| (link.mtu, link.mac)),
            _ => (MTU_DEFAULT, None),
        };
        let vlans = match kind {
            Kind::Bridge(_) => BTreeMap::from([(DEFAULT_VLAN, PortVlan::UNTAGGED)]),
            _ => BTreeMap::new(),
        };
        let link = Link {
            kind: kind.clone(),
            ours: true,
            up: false,
            carrier: false,
            mtu,
            mtu_max: None,
            mac,
            own_mac: None,
            master: None,
            primary: None,
            vlans,
            addresses: Default::default(),
            ipv6: Ipv6::Off,
        };
        self.links.insert(name.to_owned(), link);
    }

    /// With a link go the VLANs in it, its ports are free, its routes are gone.
    fn remove(&mut self, name: &str) {
        for port in self.ports(name) {
            self.set_master(&port, None);
        }
        for child in self.children(name) {
            self.remove(&child);
        }
        self.links.remove(name);
        self.routes.retain(|route| route.link != name);
    }

    fn children(&self, parent: &str) -> Vec<String> {
        let mine = |link: &Link| matches!(&link.kind, Kind::Vlan(vlan) if vlan.parent == parent);
        self.links.iter().filter(|(_, link)| mine(link)).map(|(name, _)| name.clone()).collect()
    }

    /// Routes by a link that is off are gone (fib_disable_ip, net/ipv4/fib_frontend.c), its IPv6 addresses, too
    /// (addrconf_ifdown, net/ipv6/addrconf.c), and VLANs in it are off (vlan_device_event, net/8021q/vlan.c).
    fn down(&mut self, name: &str) {
        self.with(name, |link| link.up = false);
        self.routes.retain(|route| route.link != name);
        self.forget_v6(name);
        for child in self.children(name) {
            self.down(&child);
        }
    }

    fn forget_v6(&mut self, name: &str) {
        self.with(name, |link| link.addresses.retain(|net| !net.is_v6()));
        self.routes.retain(|route| route.link != name || !route.to.is_v6());
    }

    /// A bond switches its ports on and gives them its MTU, and has the address of its first (bond_enslave,
    /// drivers/net/bonding/bond_main.c); a bridge is as small as its smallest port (br_mtu_auto_adjust,
    /// net/bridge/br_if.c).
    fn set_master(&mut self, name: &str, master: Option<&str>) {
        let Some(master) = master else {
            let was = self.links.get(name).and_then(|link| link.master.clone());
            let above = was.and_then(|was| self.links.get_mut(&was));
            let of_bond = above.is_some_and(|above| {
                above.primary = above.primary.take().filter(|port| port != name);
                matches!(above.kind, Kind::Bond(_))
            });
            self.with(name, |link| {
                link.master = None;
                link.vlans.clear();
            });
            // A bond switches off what leaves it, and gives it back its address (__bond_release_one).
            if of_bond {
                self.with(name, |link| link.mac = link.own_mac.or(link.mac));
                self.down(name);
            }
            return;
        };
        let first = self.ports(master).is_empty();
        let Some(above) = self.links.get(master) else { return };
        match &above.kind {
            Kind::Bond(_) => {
                let mtu = above.mtu;
                let mac = self.links.get(name).and_then(|link| link.mac).filter(|_| first);
                self.with(master, |bond| bond.mac = bond.mac.or(mac));
                self.with(name, |link| (link.up, link.mtu) = (true, mtu));
                self.forget_v6(name);
            }
            Kind::Bridge(_) => {
                self.with(name, |link| link.vlans = BTreeMap::from([(DEFAULT_VLAN, PortVlan::UNTAGGED)]));
            }
            _ => {}
        }
        self.with(name, |link| link.master = Some(master.to_owned()));
        self.shrink(master);
    }

    /// The bridge follows its smallest port.
    fn shrink(&mut self, bridge: &str) {
        let least = self.ports(bridge).iter().filter_map(|port| Some(self.links.get(port)?.mtu)).min();
        if let (Some(least), Some(Kind::Bridge(_))) = (least, self.links.get(bridge).map(|link| &link.kind)) {
            self.with(bridge, |link| link.mtu = least);
        }
    }

    /// A bond takes its ports along; VLANs are never larger than what they are in.
    fn set_mtu(&mut self, name: &str, mtu: u32) {
        let Some(link) = self.links.get_mut(name) else { return };
        link.mtu = mtu;
        let master = link.master.clone();
        if matches!(link.kind, Kind::Bond(_)) {
            for port in self.ports(name) {
                self.with(&port, |link| link.mtu = mtu);
            }
        }
        for child in self.children(name) {
            if self.links.get(&child).is_some_and(|child| child.mtu > mtu) {
                self.set_mtu(&child, mtu);
            }
        }
        if let Some(master) = master {
            self.shrink(&master);
        }
    }
}
