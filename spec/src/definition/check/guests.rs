//! What must hold of guests: of each, between them, and against the node.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::Ipv4Addr;
use std::ops::{Range, RangeInclusive};

use toml::Spanned;

use super::super::source;
use super::{Checker, Once, User};
use crate::appliance::{Address, Bridge, Guest, GuestNetwork};
use crate::names::{Mac, check_name};
use crate::units::{ByteSize, MIB};
use crate::vmm::{Memory, Pages};

/// What the host keeps of the machine's memory for itself when guests are counted against it: the initramfs unpacked,
/// its processes, the page cache that the guests' images need.
pub const HOST_MEMORY: ByteSize = ByteSize::mib(192);
/// The least that a guest kernel boots in with a service beside it.
pub const MEMORY_MIN: ByteSize = ByteSize::mib(32);
/// The most that a VMM offers: its interrupt table has one byte for processor numbers, some of them taken.
pub const VCPUS_MAX: u8 = 64;
/// A page of the host's pool.
const HUGE_PAGE: ByteSize = ByteSize::mib(2);
/// Highest VLAN (IEEE 802.1Q, 9.6: 0 and 4095 are reserved).
const VLAN_MAX: u16 = 4094;
/// Most pairs of queues that the VMM gives an interface.
const QUEUE_PAIRS_MAX: u8 = 16;
/// From what every IPv4 host takes (RFC 1122, section 3.3.3) to what the tun driver takes (`MAX_MTU` less an Ethernet
/// header).
const MTU: RangeInclusive<u16> = 576..=65521;

impl Checker<'_> {
    /// The guests, each with the place of its memory.
    pub(super) fn guests(
        &mut self,
        appliance: &str,
        guests: Vec<source::Guest>,
        bridges: &BTreeMap<String, Bridge>,
        devices: &mut Once<String>,
    ) -> Vec<(Guest, Range<usize>)> {
        let mut taken = Taken::by_bridges(bridges);
        let mut checked = Vec::new();
        for (index, guest) in guests.into_iter().enumerate() {
            let place = guest.memory.span();
            checked.push((self.guest(appliance, (index, guest), bridges, &mut taken, devices), place));
        }
        checked
    }

    fn guest(
        &mut self,
        appliance: &str,
        (index, guest): (usize, source::Guest),
        bridges: &BTreeMap<String, Bridge>,
        taken: &mut Taken,
        devices: &mut Once<String>,
    ) -> Guest {
        let key = format!("guest[{index}]");
        let name = guest.name;
        self.expect(check_name(name.get_ref()), name.span(), &format!("{key}.name"));
        taken.names.take(self, name.get_ref(), name.span(), &format!("{key}.name"), "guest");
        self.library_name(&guest.image, &format!("{key}.image"));
        let vcpus = guest.vcpus.map_or(1, |vcpus| {
            if !(1..=VCPUS_MAX).contains(vcpus.get_ref()) {
                self.wrong(vcpus.span(), format!("{key}.vcpus"), format!("use 1 to {VCPUS_MAX} vCPUs"));
            }
            vcpus.into_inner()
        });
        self.guest_memory(&guest.memory, guest.pages, &format!("{key}.memory"));
        let memory = guest.memory.into_inner();
        let network = guest.network.map(|network| {
            let mac_place = network.mac.as_ref().map_or(name.span(), Spanned::span);
            let names = (appliance, name.get_ref().as_str());
            let network = self.guest_network(network, &key, bridges, &mut taken.addresses, names);
            taken.macs.take(self, &network.mac, mac_place, &format!("{key}.network.mac"), "MAC address");
            network
        });
        Guest {
            vcpus,
            cpu: self.cpu(guest.cpu, vcpus, &format!("{key}.cpu")),
            memory,
            memory_kind: Memory { pages: guest.pages, prefault: guest.prefault },
            balloon: guest.balloon.map(|balloon| self.balloon(balloon, memory, &format!("{key}.balloon"))),
            vsock: guest.vsock.map(|vsock| self.vsock(vsock, index, &format!("{key}.vsock"), &mut taken.cids)),
            virtio_console: guest.virtio_console,
            network,
            disk: guest.disk.and_then(|disk| self.disk(disk, &format!("{key}.disk"), devices)),
            name: name.into_inner(),
            image: guest.image.into_inner(),
            autostart: guest.autostart,
        }
    }

    fn guest_memory(&mut self, memory: &Spanned<ByteSize>, pages: Pages, key: &str) {
        let size = *memory.get_ref();
        if size < MEMORY_MIN || !size.bytes().is_multiple_of(MIB) || size.bytes() / MIB > u64::from(u32::MAX) {
            self.wrong(memory.span(), key, format!("use {MEMORY_MIN} or more, in whole MiB"));
        } else if pages == Pages::Huge && !size.bytes().is_multiple_of(HUGE_PAGE.bytes()) {
            let message = format!("{size} cannot be made of huge pages of {HUGE_PAGE}: use an even number of MiB");
            self.wrong(memory.span(), key, message);
        }
    }

    fn guest_network(
        &mut self,
        network: source::GuestNetwork,
        guest: &str,
        bridges: &BTreeMap<String, Bridge>,
        addresses: &mut Once<Place>,
        (appliance, name): (&str, &str),
    ) -> GuestNetwork {
        let key = format!("{guest}.network");
        let bridge = network.bridge;
        let known = bridges.get(bridge.get_ref());
        if known.is_none() {
            let message = format!("there is no bridge `{0}`: declare [network.bridges.{0}]", bridge.get_ref());
            self.wrong(bridge.span(), format!("{key}.bridge"), message);
        }
        if let Some(vlan) = &network.vlan
            && !(1..=VLAN_MAX).contains(vlan.get_ref())
        {
            self.wrong(vlan.span(), format!("{key}.vlan"), format!("use 1 to {VLAN_MAX}"));
        }
        let vlan = network.vlan.map(Spanned::into_inner);
        if let Some(address) = &network.address {
            let key = format!("{key}.address");
            let net = *address.get_ref();
            self.host_address(net, address.span(), &key);
            // A guest on a VLAN is not on the host's own network.
            if let (Some(Bridge { address: Address::Static(host), .. }), None) = (known, vlan)
                && (host.network(), host.prefix) != (net.network(), net.prefix)
            {
                let message = format!(
                    "{net} lies outside the network {}/{} of bridge {}",
                    host.network(),
                    host.prefix,
                    bridge.get_ref()
                );
                self.wrong(address.span(), &key, message);
            }
            let place = Place { bridge: bridge.get_ref().clone(), vlan, address: net.address };
            addresses.take(self, &place, address.span(), &key, "address");
        }
        let address = network.address.as_ref().map(|address| *address.get_ref());
        if let Some(gateway) = &network.gateway {
            self.gateway(gateway, address.map_or(Address::None, Address::Static), &format!("{key}.gateway"));
        }
        let queues = network.queues.map_or(1, |queues| {
            if !(1..=QUEUE_PAIRS_MAX).contains(queues.get_ref()) {
                self.wrong(
                    queues.span(),
                    format!("{key}.queues"),
                    format!("use 1 to {QUEUE_PAIRS_MAX} pairs of queues"),
                );
            }
            queues.into_inner()
        });
        if let Some(mtu) = &network.mtu
            && !MTU.contains(mtu.get_ref())
        {
            let message = format!("use {} to {} bytes", MTU.start(), MTU.end());
            self.wrong(mtu.span(), format!("{key}.mtu"), message);
        }
        GuestNetwork {
            bridge: bridge.into_inner(),
            address,
            gateway: network.gateway.map(Spanned::into_inner),
            dns: self.dns(network.dns, &format!("{key}.dns")),
            vlan,
            mac: network.mac.map_or_else(|| Mac::derived(appliance, name), Spanned::into_inner),
            queues,
            mtu: network.mtu.map(Spanned::into_inner),
            receive: self.limits(network.receive, &format!("{key}.receive")),
            transmit: self.limits(network.transmit, &format!("{key}.transmit")),
        }
    }

    /// Guests that start by themselves must fit beside the host; each of the others must fit alone.
    pub(super) fn memory(&mut self, node: &Spanned<ByteSize>, guests: &[(Guest, Range<usize>)]) {
        let node = *node.get_ref();
        let room = node.bytes().saturating_sub(HOST_MEMORY.bytes());
        let mut used = 0u64;
        for (index, (guest, place)) in guests.iter().enumerate() {
            let before = if guest.autostart { used } else { 0 };
            let after = before.saturating_add(guest.memory.bytes());
            if after > room {
                let beside =
                    if before > 0 { format!(" after {} of guests before it", ByteSize(before)) } else { String::new() };
                let message = format!(
                    "{} does not fit{beside}: the node has {node}, of which the host keeps {HOST_MEMORY}",
                    guest.memory
                );
                self.wrong(place.clone(), format!("guest[{index}].memory"), message);
            }
            if guest.autostart {
                used = after;
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
    /// Addresses are the bridges' too.
    fn by_bridges(bridges: &BTreeMap<String, Bridge>) -> Self {
        let mut addresses = Once::new();
        for (name, bridge) in bridges {
            if let Address::Static(net) = bridge.address {
                addresses.taken.insert(
                    Place { bridge: name.clone(), vlan: None, address: net.address },
                    User { key: format!("network.bridges.{name}.address"), shares: false },
                );
            }
        }
        Self { names: Once::new(), macs: Once::new(), cids: Once::new(), addresses }
    }
}

/// Where an address must be the only one of its kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Place {
    bridge: String,
    vlan: Option<u16>,
    address: Ipv4Addr,
}

impl Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.address)
    }
}
