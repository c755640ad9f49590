//! From what is there to what shall be: an ordered list of changes, and nothing where nothing is to do.
//!
//! A plan is made against a copy of the state that takes each change as the kernel would ([`State::take`]), so that what
//! a change does besides (a bond that is switched off for its mode takes its VLANs and routes along) is made good by what
//! follows.
//!
//! 1. What was ours and is declared no more goes: links that were made are removed, cards are let go. Links of nobody's
//!    (guests' interfaces, what another program made) are never touched.
//! 2. Each link behind those that it is made of: it is made, gets its options, its ports, its sizes and addresses.
//! 3. Routes.

use std::collections::BTreeSet;

use thimble_spec::appliance::Ipv6;

use super::model::MTU_DEFAULT;
use super::state::{Change, Kind, Link, Side, State, Wanted, WantedLink};

/// The changes, and sentences about what cannot be had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In order.
    pub changes: Vec<Change>,
    /// Each for one link that is left as it is.
    pub problems: Vec<String>,
}

/// Makes a plan.
pub fn plan(wanted: &Wanted, seen: &State) -> Plan {
    let mut planner = Planner { wanted, state: seen.clone(), plan: Plan::default(), done: BTreeSet::new() };
    planner.leave();
    for name in wanted.links.keys() {
        planner.link(name);
    }
    planner.routes();
    planner.plan
}

struct Planner<'a> {
    wanted: &'a Wanted,
    state: State,
    plan: Plan,
    done: BTreeSet<&'a str>,
}

impl<'a> Planner<'a> {
    fn push(&mut self, change: Change) {
        self.state.take(&change);
        self.plan.changes.push(change);
    }

    fn get(&self, name: &str) -> Option<&Link> {
        self.state.links.get(name)
    }

    /// The first phase.
    fn leave(&mut self) {
        let names: Vec<String> = self.state.links.keys().cloned().collect();
        for name in names {
            // What it is in may have been removed meanwhile.
            let Some(link) = self.get(&name) else { continue };
            let wanted = self.wanted.links.get(&name);
            let stays = wanted.is_some_and(|wanted| link.kind.can_become(&wanted.kind));
            match (stays, link.ours, &link.kind) {
                (true, ..) => {
                    let master = wanted.and_then(|wanted| wanted.master.clone());
                    if link.master.is_some() && link.master != master {
                        self.push(Change::Master(name, None));
                    }
                }
                (false, true, Kind::Card) => self.let_go(&name),
                (false, true, _) => self.push(Change::Remove(name)),
                (false, false, _) => {}
            }
        }
    }

    /// A card of which nothing is declared any more.
    fn let_go(&mut self, name: &str) {
        let Some(link) = self.get(name).cloned() else { return };
        if link.master.is_some() {
            self.push(Change::Master(name.to_owned(), None));
        }
        self.addresses(name, &BTreeSet::new());
        if self.get(name).is_some_and(|link| link.up) {
            self.push(Change::Up(name.to_owned(), false));
        }
        self.own_mac(name);
        self.push(Change::Own(name.to_owned(), false));
    }

    /// The second phase for one link, whatever it is made of first. Says whether the link is there.
    fn link(&mut self, name: &str) -> bool {
        let wanted: &'a Wanted = self.wanted;
        let Some((name, link)) = wanted.links.get_key_value(name) else { return self.get(name).is_some() };
        if !self.done.insert(name) {
            return self.get(name).is_some();
        }
        if let Kind::Vlan(vlan) = &link.kind
            && !self.link(&vlan.parent)
        {
            return false;
        }
        for port in &link.ports {
            self.link(port);
        }
        if !self.there(name, link) {
            return false;
        }
        if !self.get(name).is_some_and(|link| link.ours) {
            self.push(Change::Own(name.clone(), true));
        }
        self.options(name, link);
        // A bond's ports are its own business.
        if self.is_bond(link.master.as_deref()) {
            return true;
        }
        self.ports(name, link);
        self.mtu(name, link);
        match link.mac {
            Some(mac) if self.get(name).is_some_and(|seen| seen.mac != Some(mac)) => {
                self.push(Change::Mac(name.clone(), mac));
            }
            None if link.kind == Kind::Card => self.own_mac(name),
            _ => {}
        }
        if link.master.as_ref().is_none_or(|master| self.is_port(name, master)) {
            self.vlans(name, link);
        }
        if self.get(name).is_some_and(|seen| seen.ipv6 != link.ipv6) {
            self.push(Change::Ipv6(name.clone(), link.ipv6));
        }
        self.up(name);
        self.addresses(name, &link.addresses);
        true
    }

    fn is_bond(&self, name: Option<&str>) -> bool {
        name.and_then(|name| self.wanted.links.get(name)).is_some_and(|link| matches!(link.kind, Kind::Bond(_)))
    }

    /// Makes the link unless it is there, or says why not.
    fn there(&mut self, name: &str, link: &WantedLink) -> bool {
        match (self.get(name), &link.kind) {
            (Some(seen), wanted) if !seen.kind.can_become(wanted) => {
                self.plan.problems.push(format!(
                    "interface {name} is there and is something else than the definition says: remove it, or give the declared one another name"
                ));
                false
            }
            (Some(_), _) => true,
            (None, Kind::Card) => false,
            (None, kind) => {
                self.push(Change::Make(name.to_owned(), kind.clone()));
                true
            }
        }
    }

    fn options(&mut self, name: &str, link: &WantedLink) {
        let Some(seen) = self.get(name) else { return };
        match (seen.kind.clone(), &link.kind) {
            (Kind::Bond(from), Kind::Bond(to)) if from != *to => {
                // The driver changes its mode only while it is off and empty, and LACP's rate while it is off
                // (bond_opts, drivers/net/bonding/bond_options.c).
                if from.mode != to.mode {
                    for port in self.state.ports(name) {
                        self.push(Change::Master(port, None));
                    }
                }
                if (from.mode != to.mode || from.lacp_rate != to.lacp_rate)
                    && self.get(name).is_some_and(|bond| bond.up)
                {
                    self.push(Change::Up(name.to_owned(), false));
                }
                self.push(Change::Bond(name.to_owned(), from, *to));
            }
            (Kind::Bridge(from), Kind::Bridge(to)) if from != *to => {
                self.push(Change::Bridge(name.to_owned(), from, *to));
            }
            _ => {}
        }
    }

    fn ports(&mut self, name: &str, link: &WantedLink) {
        let is_bond = matches!(link.kind, Kind::Bond(_));
        if is_bond {
            self.mtu(name, link);
        }
        let mut has_some = link.ports.iter().any(|port| self.is_port(port, name));
        for port in &link.ports {
            let Some(seen) = self.get(port) else { continue };
            let is_up = seen.up;
            if !self.is_port(port, name) {
                if is_bond && is_up {
                    self.push(Change::Up(port.clone(), false));
                }
                // A bridge left alone has the lowest of its ports' addresses, which changes when a guest is plugged in,
                // and with it the DHCP lease.
                if !has_some && !is_bond && link.mac.is_none() {
                    self.push(Change::CopyMac(name.to_owned(), port.clone()));
                }
                self.push(Change::Master(port.clone(), Some(name.to_owned())));
                has_some = true;
                // The bridge has put it into its own first VLAN.
                if let Some(wanted) = self.wanted.links.get(port) {
                    self.vlans(port, wanted);
                }
            }
            if is_bond {
                self.up(port);
                self.addresses(port, &BTreeSet::new());
            }
        }
        // The driver forgets a primary port that left, and takes it again when it is told.
        let primary = link.primary.clone().filter(|primary| self.is_port(primary, name));
        if self.get(name).is_some_and(|bond| bond.primary != primary) {
            self.push(Change::Primary(name.to_owned(), primary));
        }
    }

    fn is_port(&self, port: &str, master: &str) -> bool {
        self.get(port).is_some_and(|link| link.master.as_deref() == Some(master))
    }

    fn up(&mut self, name: &str) {
        if self.get(name).is_some_and(|link| !link.up) {
            self.push(Change::Up(name.to_owned(), true));
        }
    }

    fn mtu(&mut self, name: &str, link: &WantedLink) {
        let Some(seen) = self.get(name) else { return };
        let most = seen.mtu_max.filter(|most| *most > 0).unwrap_or(u32::MAX);
        let usual = match &link.kind {
            Kind::Bridge(_) => {
                let ports = self.state.ports(name);
                ports.iter().filter_map(|port| Some(self.get(port)?.mtu)).min().unwrap_or(seen.mtu)
            }
            Kind::Vlan(vlan) => self.get(&vlan.parent).map_or(MTU_DEFAULT, |parent| parent.mtu),
            _ => MTU_DEFAULT.min(most),
        };
        let mtu = link.mtu.unwrap_or(usual);
        if seen.mtu != mtu {
            self.push(Change::Mtu(name.to_owned(), mtu));
        }
    }

    /// A card that is told nothing has the address that it was made with.
    fn own_mac(&mut self, name: &str) {
        if let Some(own) = self.get(name).and_then(|link| link.own_mac)
            && self.get(name).is_some_and(|link| link.mac != Some(own))
        {
            self.push(Change::Mac(name.to_owned(), own));
        }
    }

    fn vlans(&mut self, name: &str, link: &WantedLink) {
        let Some(wanted) = &link.vlans else { return };
        let Some(seen) = self.get(name).map(|link| link.vlans.clone()) else { return };
        let side = if matches!(link.kind, Kind::Bridge(_)) { Side::Bridge } else { Side::Port };
        for id in seen.keys().filter(|id| !wanted.contains_key(id)) {
            self.push(Change::NoVlan(name.to_owned(), side, *id));
        }
        // The one for frames without a tag last: it takes the part from another.
        let (last, first): (Vec<_>, Vec<_>) = wanted.iter().partition(|(_, how)| how.pvid);
        for (id, how) in first.into_iter().chain(last) {
            if self.get(name).is_some_and(|link| link.vlans.get(id) != Some(how)) {
                self.push(Change::Vlan(name.to_owned(), side, *id, *how));
            }
        }
    }

    fn addresses(&mut self, name: &str, wanted: &BTreeSet<thimble_spec::ip::IpNet>) {
        let Some(seen) = self.get(name) else { return };
        let off = seen.ipv6 == Ipv6::Off;
        let gone: Vec<_> = seen.addresses.difference(wanted).copied().collect();
        let come: Vec<_> = wanted.difference(&seen.addresses).filter(|net| !(off && net.is_v6())).copied().collect();
        for net in gone {
            self.push(Change::NoAddress(name.to_owned(), net));
        }
        for net in come {
            self.push(Change::Address(name.to_owned(), net));
        }
    }

    /// The third phase. Routes to what is on a link come before those by a machine there.
    fn routes(&mut self) {
        let gone: Vec<_> = self.state.routes.difference(&self.wanted.routes).cloned().collect();
        for route in gone {
            if self.wanted.links.contains_key(&route.link) {
                self.push(Change::NoRoute(route));
            }
        }
        let mut come: Vec<_> = self.wanted.routes.difference(&self.state.routes).cloned().collect();
        come.sort_by_key(|route| route.via.is_some());
        for route in come {
            if self.get(&route.link).is_some_and(|link| link.up) {
                self.push(Change::Route(route));
            }
        }
    }
}
