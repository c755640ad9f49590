//! What must hold of guests: of each, between them, and against the node.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::Ipv4Addr;
use std::ops::Range;

use toml::Spanned;

use super::super::source;
use super::parameters::Told;
use super::{Checker, Devices, Once, User};
use crate::appliance::{BridgeMode, Guest, GuestNetwork, Network, Overcommit, Plug};
use crate::ip::IpNet;
use crate::names::{Mac, check_name};
use crate::rules;
use crate::units::ByteSize;
use crate::vmm::Memory;

impl Checker<'_> {
    /// The guests, each with the place of its memory.
    pub(super) fn guests(
        &mut self,
        appliance: &str,
        guests: Vec<source::Guest>,
        links: &Network,
        devices: &mut Devices,
    ) -> Vec<(Guest, Range<usize>)> {
        let mut taken = Taken::by_links(links);
        let names: BTreeSet<String> = guests.iter().map(|guest| guest.name.get_ref().clone()).collect();
        let mut checked = Vec::new();
        let mut orders = Vec::new();
        for (index, guest) in guests.into_iter().enumerate() {
            let place = guest.memory.span();
            let key = format!("guest[{index}].start-after");
            for other in &guest.start_after {
                self.expect(rules::known_guest(other.get_ref(), &names), other.span(), &key);
            }
            orders.extend(guest.start_after.first().map(|first| (index, first.span(), key)));
            checked.push((self.guest(appliance, (index, guest), links, &mut taken, devices), place));
        }
        let all: Vec<&Guest> = checked.iter().map(|(guest, _)| guest).collect();
        for (index, place, key) in orders {
            self.expect(rules::start_order(all[index], &all), place, &key);
        }
        checked
    }

    fn guest(
        &mut self,
        appliance: &str,
        (index, guest): (usize, source::Guest),
        links: &Network,
        taken: &mut Taken,
        devices: &mut Devices,
    ) -> Guest {
        let key = format!("guest[{index}]");
        let name = guest.name;
        let place = name.span();
        self.expect(check_name(name.get_ref()), name.span(), &format!("{key}.name"));
        taken.names.take(self, name.get_ref(), name.span(), &format!("{key}.name"), "guest");
        if let Some(image) = &guest.image {
            self.library_name(image, &format!("{key}.image"));
        }
        let vcpus = guest.vcpus.map_or(1, |vcpus| {
            self.expect(rules::vcpus(*vcpus.get_ref()), vcpus.span(), &format!("{key}.vcpus"));
            vcpus.into_inner()
        });
        let fit = rules::memory(*guest.memory.get_ref(), guest.pages);
        self.expect(fit, guest.memory.span(), &format!("{key}.memory"));
        let memory = guest.memory.into_inner();
        let network = guest.network.map(|network| {
            let place = network.span();
            let network = network.into_inner();
            let mac_place = network.mac.as_ref().map_or(name.span(), Spanned::span);
            let names = (appliance, name.get_ref().as_str());
            let network = self.guest_network(network, place, &key, links, &mut taken.addresses, names);
            taken.macs.take(self, &network.mac, mac_place, &format!("{key}.network.mac"), "MAC address");
            network
        });
        let told = Told {
            ssh_keys: guest.ssh_keys,
            role: guest.role,
            environment: guest.environment,
            identity: guest.identity,
        };
        let commands_place = guest.commands.as_ref().map(Spanned::span);
        let checked = Guest {
            parameters: self.parameters(told, name.span(), &key),
            vcpus,
            cpu: self.cpu(guest.cpu, vcpus, &format!("{key}.cpu")),
            memory,
            memory_kind: Memory { pages: guest.pages, prefault: guest.prefault },
            balloon: guest.balloon.map(|balloon| self.balloon(balloon, memory, &format!("{key}.balloon"))),
            vsock: guest.vsock.map(|vsock| self.vsock(vsock, index, &format!("{key}.vsock"), &mut taken.cids)),
            commands: guest.commands.as_ref().is_some_and(|it| *it.get_ref()),
            virtio_console: guest.virtio_console,
            network,
            disk: guest.disk.and_then(|disk| self.disk(disk, &format!("{key}.disk"), devices)),
            name: name.into_inner(),
            image: guest.image.map(Spanned::into_inner),
            autostart: guest.autostart,
            start_after: guest.start_after.into_iter().map(Spanned::into_inner).collect(),
            start_delay_s: guest.start_delay_s.map_or(0, |delay| {
                self.expect(rules::start_delay(*delay.get_ref()), delay.span(), &format!("{key}.start-delay-s"));
                delay.into_inner()
            }),
            restart: guest.restart,
            boot: guest.boot.map(|boot| self.boot(boot, &format!("{key}.boot"), devices)),
        };
        self.expect(rules::root(&checked), place, &key);
        if let Some(commands) = commands_place {
            self.expect(rules::commands(&checked), commands, &format!("{key}.commands"));
        }
        checked
    }

    fn guest_network(
        &mut self,
        network: source::GuestNetwork,
        place: Range<usize>,
        guest: &str,
        links: &Network,
        addresses: &mut Once<Place>,
        (appliance, name): (&str, &str),
    ) -> GuestNetwork {
        let key = format!("{guest}.network");
        let plug = self.plug(&network, place, &key, links);
        let known = match &plug {
            Plug::Bridge(name) => links.bridges.get(name),
            Plug::Macvtap(_) => None,
        };
        if let Some(vlan) = &network.vlan {
            self.vlan_id(vlan, &format!("{key}.vlan"));
        }
        self.trunk(&network.vlans, network.vlan.as_ref(), &format!("{key}.vlans"));
        let vlan = network.vlan.map(Spanned::into_inner);
        if let Some(address) = &network.address {
            let key = format!("{key}.address");
            let net = *address.get_ref();
            self.host_address(net.into(), address.span(), &key);
            // A guest on a VLAN is not on the host's own network.
            if let (Some(known), None) = (known, vlan) {
                let beside = rules::beside(net, plug.link(), known.link.ipv4());
                self.expect(beside, address.span(), &key);
            }
            let place = Place { link: plug.link().to_owned(), vlan, address: net.address };
            addresses.take(self, &place, address.span(), &key, "address");
        }
        let address = network.address.as_ref().map(|address| *address.get_ref());
        if let Some(gateway) = &network.gateway {
            let nets: Vec<IpNet> = address.into_iter().map(IpNet::from).collect();
            self.gateway((*gateway.get_ref()).into(), gateway.span(), &nets, &format!("{key}.gateway"));
        }
        // Where the host is their gateway, guests are told so unless they are told something else.
        let host = known.filter(|bridge| bridge.mode != BridgeMode::Bridged && vlan.is_none());
        let host = host.and_then(|bridge| Some((bridge, bridge.link.ipv4().next()?.address)));
        let gateway = network.gateway.map(Spanned::into_inner).or_else(|| {
            let gateway = host.filter(|(bridge, _)| bridge.mode != BridgeMode::Isolated && address.is_some());
            gateway.map(|(_, address)| address)
        });
        let mut dns = self.guest_dns(network.dns, &format!("{key}.dns"));
        if let Some((_, address)) = host.filter(|(bridge, _)| bridge.dhcp_dns && dns.is_empty()) {
            dns.push(address);
        }
        let queues = network.queues.map_or(1, |queues| {
            self.expect(rules::queue_pairs(*queues.get_ref()), queues.span(), &format!("{key}.queues"));
            queues.into_inner()
        });
        if let Some(mtu) = &network.mtu {
            self.expect(rules::mtu(*mtu.get_ref()), mtu.span(), &format!("{key}.mtu"));
        }
        let (anti_spoofing, allowed_addresses) = self.spoofing(network.anti_spoofing, network.allowed_addresses, &key);
        if let Some(link) = &network.macvtap {
            let held = anti_spoofing && self.behind_firewall;
            self.expect(rules::macvtap_beside_firewall(held), link.span(), &format!("{key}.macvtap"));
        }
        GuestNetwork {
            plug,
            address,
            gateway,
            dns,
            vlan,
            vlans: network.vlans.into_iter().map(Spanned::into_inner).collect(),
            mac: network.mac.map_or_else(|| Mac::derived(appliance, name), Spanned::into_inner),
            anti_spoofing,
            allowed_addresses,
            queues,
            mtu: network.mtu.map(Spanned::into_inner),
            receive: self.limits(network.receive, &format!("{key}.receive")),
            transmit: self.limits(network.transmit, &format!("{key}.transmit")),
        }
    }

    /// A bridge, or a link that nothing else has.
    fn plug(&mut self, network: &source::GuestNetwork, place: Range<usize>, key: &str, links: &Network) -> Plug {
        let (name, span, plug) = match (&network.bridge, &network.macvtap) {
            (Some(bridge), None) => {
                let name = bridge.get_ref();
                if !links.bridges.contains_key(name) {
                    let message = format!("there is no bridge `{name}`: declare [network.bridges.{name}]");
                    self.wrong(bridge.span(), format!("{key}.bridge"), message);
                }
                return Plug::Bridge(name.clone());
            }
            (None, Some(link)) => (link.get_ref(), link.span(), Plug::Macvtap(link.get_ref().clone())),
            _ => {
                self.wrong(place, key, "say one of `bridge` and `macvtap`: what the guest's interface is plugged into");
                return Plug::Bridge(String::new());
            }
        };
        let key = format!("{key}.macvtap");
        self.expect(rules::macvtap(links, name), span, &key);
        let tagged = network.vlan.as_ref().map(Spanned::span).or(network.vlans.first().map(Spanned::span));
        if let Some(vlan) = tagged {
            self.expect(rules::macvtap_without_vlans(name, true), vlan, &key);
        }
        plug
    }

    /// How much guests may have together.
    pub(super) fn overcommit(&mut self, overcommit: source::Overcommit) -> Overcommit {
        let mut checked = |percent: Option<Spanned<u32>>, key: &str| {
            let percent = percent?;
            self.expect(rules::overcommit(*percent.get_ref()), percent.span(), &format!("node.overcommit.{key}"));
            Some(percent.into_inner())
        };
        Overcommit {
            memory_percent: checked(overcommit.memory_percent, "memory-percent"),
            vcpus_percent: checked(overcommit.vcpus_percent, "vcpus-percent"),
        }
    }

    /// Guests that start by themselves must fit beside the host; each of the others must fit alone.
    pub(super) fn memory(
        &mut self,
        node: &Spanned<ByteSize>,
        overcommit: Overcommit,
        guests: &[(Guest, Range<usize>)],
    ) {
        let node = *node.get_ref();
        let mut used = 0u64;
        for (index, (guest, place)) in guests.iter().enumerate() {
            let before = if guest.autostart { used } else { 0 };
            let fits = rules::fits(guest.memory, before, node, overcommit);
            self.expect(fits, place.clone(), &format!("guest[{index}].memory"));
            if guest.autostart {
                used = before.saturating_add(guest.memory.bytes());
            }
        }
    }
}

/// What no two guests have.
struct Taken {
    names: Once<String>,
    macs: Once<Mac>,
    cids: Once<u32>,
    addresses: Once<Place>,
}

impl Taken {
    /// Addresses and MACs are the host's too.
    fn by_links(links: &Network) -> Self {
        let (mut addresses, mut macs) = (Once::new(), Once::new());
        let user = |key: String| User { key, shares: false };
        for (name, bridge) in &links.bridges {
            for net in bridge.link.ipv4() {
                let place = Place { link: name.clone(), vlan: None, address: net.address };
                addresses.taken.insert(place, user(format!("network.bridges.{name}.address")));
            }
        }
        for (name, link) in links.links() {
            if let Some(mac) = link.mac {
                macs.taken.insert(mac, user(format!("the host's interface {name}")));
            }
        }
        Self { names: Once::new(), macs, cids: Once::new(), addresses }
    }
}

/// Where an address must be the only one of its kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Place {
    link: String,
    vlan: Option<u16>,
    address: Ipv4Addr,
}

impl Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.address)
    }
}
