//! VLANs of bridges' ports: those that are said, and those that follow.

use std::collections::BTreeSet;

use toml::Spanned;

use super::{Checker, Place, Places, Unfiltered};
use crate::appliance::{Guest, Network, PortVlans};
use crate::rules;

/// VLAN that a bridge gives to ports of which nothing else is said (Linux: `default_pvid`).
const DEFAULT_VLAN: u16 = 1;

impl Checker<'_> {
    pub(in crate::definition::check) fn vlan_id(&mut self, id: &Spanned<u16>, key: &str) {
        self.expect(rules::vlan(*id.get_ref()), id.span(), key);
    }

    /// VLANs that a port sees with their tags, beside the one that it sees without.
    pub(in crate::definition::check) fn trunk(
        &mut self,
        tagged: &[Spanned<u16>],
        untagged: Option<&Spanned<u16>>,
        key: &str,
    ) {
        for (index, id) in tagged.iter().enumerate() {
            let key = format!("{key}[{index}]");
            self.vlan_id(id, &key);
            self.expect(rules::tagged(*id.get_ref(), untagged.map(|other| *other.get_ref())), id.span(), &key);
        }
    }

    /// What the tables `vlans` say: of ports that are there, on bridges that are to filter.
    pub(super) fn said_vlans(&mut self, network: &Network, places: &Places) {
        for (bridge, port, place) in &places.vlans {
            let Some(known) = network.bridges.get(bridge) else { continue };
            if port != bridge && !known.ports.contains(port) {
                let message =
                    format!("{port} is no port of {bridge}: name one of `ports`, or {bridge} for the host's end");
                self.wrong(place.span.clone(), &place.key, message);
            }
            if let Some(Place { key, .. }) = places.unfiltered.0.get(bridge) {
                self.wrong(place.span.clone(), &place.key, format!("{key} is false: no port has VLANs then"));
            }
        }
    }
}

impl Checker<'_> {
    /// Fills in what nobody said: a bridge with a guest or a VLAN of the host in a VLAN filters; the ports of which nothing
    /// is said, and the host's end, are in VLAN 1 as with any bridge, and ports carry what guests and the host are in,
    /// tagged.
    pub(in crate::definition::check) fn port_vlans(
        &mut self,
        network: &mut Network,
        unfiltered: &Unfiltered,
        guests: &[Guest],
    ) {
        for (name, bridge) in &mut network.bridges {
            let of_guests =
                guests.iter().filter_map(|guest| guest.network.as_ref()).filter(|own| own.bridge() == Some(name));
            let of_guests = of_guests.flat_map(|network| network.vlan.iter().chain(&network.vlans)).copied();
            let of_host = network.vlans.values().filter(|vlan| vlan.parent == *name).map(|vlan| vlan.id);
            let of_host: BTreeSet<u16> = of_host.collect();
            let carried: BTreeSet<u16> = of_guests.chain(of_host.iter().copied()).collect();
            bridge.vlan_filtering |= !carried.is_empty();
            if let Some(Place { key, span }) = unfiltered.0.get(name).filter(|_| !carried.is_empty()) {
                let message = format!("guests or VLANs of the host are in VLANs of {name}: leave it out, or say true");
                self.wrong(span.clone(), key, message);
            }
            if !bridge.vlan_filtering {
                continue;
            }
            for port in bridge.ports.iter().chain([name]) {
                let tagged = if port == name { of_host.clone() } else { carried.clone() };
                let tagged = tagged.into_iter().filter(|id| *id != DEFAULT_VLAN).collect();
                bridge.vlans.entry(port.clone()).or_insert(PortVlans { tagged, untagged: Some(DEFAULT_VLAN) });
            }
        }
    }
}
