//! What must hold between the parts of a definition.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::hash::Hash;
use std::net::Ipv4Addr;
use std::ops::Range;

use toml::Spanned;

use super::mistake::{Mistake, Mistakes};
use super::source;
use crate::appliance::{
    Address, Appliance, Bond, Bridge, Guest, GuestDisk, GuestKernel, GuestNetwork, HostKernel, Raid,
};
use crate::names::{Ipv4Net, Mac, check_interface, check_name};
use crate::template;
use crate::units::{ByteSize, MIB};

/// The budget of a definition that gives none.
const DEFAULT_BUDGET: ByteSize = ByteSize::mib(64);
/// A boot loader, a kernel and an initramfs don't fit in less.
const BUDGET_MIN: ByteSize = ByteSize::mib(16);
/// What the host keeps of the machine's memory for itself when guests are counted against it: the initramfs unpacked,
/// its processes, the page cache that the guests' images need.
pub const HOST_MEMORY: ByteSize = ByteSize::mib(192);
/// The least that a guest kernel boots in with a service beside it.
pub const MEMORY_MIN: ByteSize = ByteSize::mib(32);
/// The most that a VMM offers: its interrupt table has one byte for processor numbers, some of them taken.
pub const VCPUS_MAX: u8 = 64;
/// The least that a guest's own disk may have: its file system's template with the journal.
const DISK_MIN: ByteSize = ByteSize::mib(16);
/// Highest VLAN (IEEE 802.1Q, 9.6: 0 and 4095 are reserved).
const VLAN_MAX: u16 = 4094;
/// Bonding's usual time between two looks at the links.
const MIIMON_DEFAULT_MS: u32 = 100;

/// What GRUB's shell would not hand on as it is.
const GRUB_SYNTAX: [char; 13] = ['\'', '\\', '$', '`', ';', '&', '|', '<', '>', '{', '}', '#', '"'];

/// Checks everything and fills in the defaults.
pub(super) fn check(file: &str, text: &str, source: source::Definition) -> Result<Appliance, Mistakes> {
    let mut checker = Checker { file, text, mistakes: Vec::new() };
    let appliance = checker.definition(source);
    if checker.mistakes.is_empty() { Ok(appliance) } else { Err(checker.mistakes.into()) }
}

struct Checker<'a> {
    file: &'a str,
    text: &'a str,
    mistakes: Vec<Mistake>,
}

/// Things of which there may be one: the first user of each is remembered.
struct Once<T> {
    taken: BTreeMap<T, String>,
}

impl<T: Ord + Clone + Display + Hash> Once<T> {
    fn new() -> Self {
        Self { taken: BTreeMap::new() }
    }

    fn take(&mut self, checker: &mut Checker<'_>, value: &T, span: Range<usize>, key: &str, what: &str) {
        if let Some(first) = self.taken.get(value) {
            checker.wrong(span, key, format!("{what} {value} is used twice: {first} has it already"));
        } else {
            self.taken.insert(value.clone(), key.to_owned());
        }
    }
}

impl Checker<'_> {
    fn wrong(&mut self, span: Range<usize>, key: impl Into<String>, message: impl Into<String>) {
        self.mistakes.push(Mistake::at(self.file, self.text, span, key.into(), message));
    }

    fn expect<E: Display>(&mut self, result: Result<(), E>, span: Range<usize>, key: &str) {
        if let Err(error) = result {
            self.wrong(span, key, error.to_string());
        }
    }

    fn definition(&mut self, source: source::Definition) -> Appliance {
        let name = source.appliance.name;
        self.expect(check_name(name.get_ref()), name.span(), "appliance.name");
        let budget = source.appliance.budget.map_or(DEFAULT_BUDGET, |budget| {
            if *budget.get_ref() < BUDGET_MIN {
                self.wrong(
                    budget.span(),
                    "appliance.budget",
                    format!("{} is too small: use {BUDGET_MIN} or more", budget.get_ref()),
                );
            }
            budget.into_inner()
        });
        let host_kernel = self.host_kernel(source.kernel.host);
        let guest_kernel = self.guest_kernel(source.kernel.guest);

        let mut ports = Once::new();
        let mut links = Once::new();
        let bonds = self.bonds(source.network.bonds, &mut ports, &mut links);
        let bridges = self.bridges(source.network.bridges, &mut ports, &mut links);

        let mut devices = Once::new();
        let raids = self.raids(source.storage.raid, &mut devices);
        let guests = self.guests(name.get_ref(), source.guest, &bridges, &mut devices);
        if let Some(memory) = &source.node.memory {
            self.memory(memory, &guests);
        }
        Appliance {
            name: name.into_inner(),
            budget,
            node_memory: source.node.memory.map(Spanned::into_inner),
            host_kernel,
            guest_kernel,
            bonds,
            bridges,
            raids,
            guests: guests.into_iter().map(|(guest, _)| guest).collect(),
        }
    }

    fn host_kernel(&mut self, kernel: source::HostKernel) -> HostKernel {
        self.package(&kernel.package, "kernel.host.package");
        for (index, set) in kernel.hardware.iter().enumerate() {
            self.library_name(set, &format!("kernel.host.hardware[{index}]"));
        }
        if let Some(cmdline) = &kernel.cmdline
            && cmdline.get_ref().contains(|c: char| c.is_control() || !c.is_ascii() || GRUB_SYNTAX.contains(&c))
        {
            let message = "use printable ASCII without ' \" \\ $ ` ; & | < > { } #, which GRUB reads as its own";
            self.wrong(cmdline.span(), "kernel.host.cmdline", message);
        }
        HostKernel {
            package: kernel.package.into_inner(),
            hardware: inner(kernel.hardware),
            cmdline: kernel.cmdline.map(Spanned::into_inner).unwrap_or_default(),
        }
    }

    fn guest_kernel(&mut self, kernel: source::GuestKernel) -> GuestKernel {
        self.package(&kernel.source, "kernel.guest.source");
        for (index, fragment) in kernel.fragments.iter().enumerate() {
            self.library_name(fragment, &format!("kernel.guest.fragments[{index}]"));
        }
        GuestKernel { source: kernel.source.into_inner(), fragments: inner(kernel.fragments) }
    }

    /// Debian policy, 5.6.1; a name never becomes an option or a path.
    fn package(&mut self, name: &Spanned<String>, key: &str) {
        let text = name.get_ref().as_bytes();
        let sound = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(byte);
        if text.len() < 2 || !text.iter().all(sound) || !text[0].is_ascii_alphanumeric() {
            self.wrong(name.span(), key, format!("`{}` is not the name of a package", name.get_ref()));
        }
    }

    /// Names of files in `configs/` and `images/`: never a way out of those directories.
    fn library_name(&mut self, name: &Spanned<String>, key: &str) {
        let sound = |part: &str| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        if !name.get_ref().split('/').all(sound) {
            self.wrong(
                name.span(),
                key,
                format!("`{}` is not a name: use letters, digits, `-`, `_` and `/`", name.get_ref()),
            );
        }
    }

    fn ports(&mut self, names: &[Spanned<String>], key: &str, ports: &mut Once<String>) {
        for (index, port) in names.iter().enumerate() {
            let key = format!("{key}.ports[{index}]");
            self.expect(check_interface(port.get_ref()), port.span(), &key);
            ports.take(self, port.get_ref(), port.span(), &key, "interface");
        }
    }

    fn bonds(
        &mut self,
        bonds: BTreeMap<String, Spanned<source::Bond>>,
        ports: &mut Once<String>,
        links: &mut Once<String>,
    ) -> BTreeMap<String, Bond> {
        let checked = bonds.into_iter().map(|(name, bond)| {
            let (key, place) = (format!("network.bonds.{name}"), bond.span());
            let bond = bond.into_inner();
            self.expect(check_interface(&name), place.clone(), &key);
            links.take(self, &name, place.clone(), &key, "interface");
            if bond.ports.is_empty() {
                self.wrong(place, &key, "a bond needs at least one port: name its interfaces in `ports`");
            }
            self.ports(&bond.ports, &key, ports);
            let miimon_ms = bond.miimon_ms.map_or(MIIMON_DEFAULT_MS, |time| {
                if !(1..=10_000).contains(time.get_ref()) {
                    self.wrong(time.span(), format!("{key}.miimon-ms"), "use 1 to 10000 milliseconds");
                }
                time.into_inner()
            });
            (name, Bond { mode: bond.mode, ports: inner(bond.ports), miimon_ms })
        });
        checked.collect()
    }

    fn bridges(
        &mut self,
        bridges: BTreeMap<String, Spanned<source::Bridge>>,
        ports: &mut Once<String>,
        links: &mut Once<String>,
    ) -> BTreeMap<String, Bridge> {
        let checked = bridges.into_iter().map(|(name, bridge)| {
            let (key, place) = (format!("network.bridges.{name}"), bridge.span());
            let bridge = bridge.into_inner();
            self.expect(check_interface(&name), place.clone(), &key);
            links.take(self, &name, place, &key, "interface");
            self.ports(&bridge.ports, &key, ports);
            let address = bridge.address.as_ref().map_or(Address::None, |address| address.get_ref().0);
            if let (Some(place), Address::Static(net)) = (&bridge.address, address) {
                self.host_address(net, place.span(), &format!("{key}.address"));
            }
            if let Some(gateway) = &bridge.gateway {
                self.gateway(gateway, address, &format!("{key}.gateway"));
            }
            let gateway = bridge.gateway.map(Spanned::into_inner);
            (name, Bridge { ports: inner(bridge.ports), address, gateway, dns: bridge.dns })
        });
        checked.collect()
    }

    fn host_address(&mut self, net: Ipv4Net, span: Range<usize>, key: &str) {
        if !net.is_host() {
            self.wrong(
                span,
                key,
                format!("{net} is the network's own or its broadcast address: give it one between them"),
            );
        }
    }

    fn gateway(&mut self, gateway: &Spanned<Ipv4Addr>, address: Address, key: &str) {
        match address {
            Address::Static(net) if !net.contains(*gateway.get_ref()) => {
                let message =
                    format!("{} lies outside the network {}/{}", gateway.get_ref(), net.network(), net.prefix);
                self.wrong(gateway.span(), key, message);
            }
            Address::Static(net) if net.address == *gateway.get_ref() => {
                self.wrong(gateway.span(), key, "a machine cannot be its own gateway");
            }
            Address::Static(_) => {}
            Address::Dhcp | Address::None => {
                self.wrong(gateway.span(), key, "a gateway needs a fixed address beside it: set `address`");
            }
        }
    }

    fn raids(&mut self, raids: Vec<source::Raid>, devices: &mut Once<String>) -> Vec<Raid> {
        let mut names = Once::new();
        let checked = raids.into_iter().enumerate().map(|(index, raid)| {
            let key = format!("storage.raid[{index}]");
            self.expect(check_name(raid.name.get_ref()), raid.name.span(), &format!("{key}.name"));
            names.take(self, raid.name.get_ref(), raid.name.span(), &format!("{key}.name"), "array");
            let least = match raid.level.get_ref() {
                0 | 1 | 10 => 2,
                5 => 3,
                6 => 4,
                level => {
                    self.wrong(
                        raid.level.span(),
                        format!("{key}.level"),
                        format!("{level} is no RAID level: use 0, 1, 5, 6 or 10"),
                    );
                    0
                }
            };
            let members = raid.members.get_ref();
            if members.len() < least {
                let message =
                    format!("RAID {} needs at least {least} members, here are {}", raid.level.get_ref(), members.len());
                self.wrong(raid.members.span(), format!("{key}.members"), message);
            }
            for (index, member) in members.iter().enumerate() {
                let key = format!("{key}.members[{index}]");
                self.device(member, &key);
                devices.take(self, member.get_ref(), member.span(), &key, "block device");
            }
            Raid {
                name: raid.name.into_inner(),
                level: raid.level.into_inner(),
                members: inner(raid.members.into_inner()),
            }
        });
        checked.collect()
    }

    fn device(&mut self, path: &Spanned<String>, key: &str) {
        let text = path.get_ref();
        if !text.starts_with("/dev/") || text.split('/').skip(1).any(|part| matches!(part, "" | "." | "..")) {
            self.wrong(path.span(), key, format!("`{text}` is not a block device: write its path below /dev"));
        }
    }

    /// The guests, each with the place of its memory.
    fn guests(
        &mut self,
        appliance: &str,
        guests: Vec<source::Guest>,
        bridges: &BTreeMap<String, Bridge>,
        devices: &mut Once<String>,
    ) -> Vec<(Guest, Range<usize>)> {
        let mut names = Once::new();
        let mut macs = Once::new();
        let mut addresses = Once::new();
        for (name, bridge) in bridges {
            if let Address::Static(net) = bridge.address {
                addresses.taken.insert(
                    Place { bridge: name.clone(), vlan: None, address: net.address },
                    format!("network.bridges.{name}.address"),
                );
            }
        }
        let checked = guests.into_iter().enumerate().map(|(index, guest)| {
            let key = format!("guest[{index}]");
            let name = guest.name;
            self.expect(check_name(name.get_ref()), name.span(), &format!("{key}.name"));
            names.take(self, name.get_ref(), name.span(), &format!("{key}.name"), "guest");
            self.library_name(&guest.image, &format!("{key}.image"));
            let vcpus = guest.vcpus.map_or(1, |vcpus| {
                if !(1..=VCPUS_MAX).contains(vcpus.get_ref()) {
                    self.wrong(vcpus.span(), format!("{key}.vcpus"), format!("use 1 to {VCPUS_MAX} vCPUs"));
                }
                vcpus.into_inner()
            });
            let memory = *guest.memory.get_ref();
            if memory < MEMORY_MIN || !memory.bytes().is_multiple_of(MIB) || memory.bytes() / MIB > u64::from(u32::MAX)
            {
                self.wrong(
                    guest.memory.span(),
                    format!("{key}.memory"),
                    format!("use {MEMORY_MIN} or more, in whole MiB"),
                );
            }
            let network = guest.network.map(|network| {
                let mac_place = network.mac.as_ref().map_or(name.span(), Spanned::span);
                let network = self.guest_network(network, &key, bridges, &mut addresses, (appliance, name.get_ref()));
                macs.take(self, &network.mac, mac_place, &format!("{key}.network.mac"), "MAC address");
                network
            });
            let disk = guest.disk.and_then(|disk| self.disk(disk, &format!("{key}.disk"), devices));
            let place = guest.memory.span();
            let image = guest.image.into_inner();
            (Guest { name: name.into_inner(), image, vcpus, memory, network, disk, autostart: guest.autostart }, place)
        });
        checked.collect()
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
        GuestNetwork {
            bridge: bridge.into_inner(),
            address,
            gateway: network.gateway.map(Spanned::into_inner),
            dns: network.dns,
            vlan,
            mac: network.mac.map_or_else(|| Mac::derived(appliance, name), Spanned::into_inner),
        }
    }

    fn disk(&mut self, disk: Spanned<source::Disk>, key: &str, devices: &mut Once<String>) -> Option<GuestDisk> {
        let span = disk.span();
        match disk.into_inner() {
            source::Disk { size: Some(size), device: None, file: None } => {
                let bytes = *size.get_ref();
                if bytes < DISK_MIN || !bytes.bytes().is_multiple_of(template::BLOCK as u64) {
                    let message = format!("use {DISK_MIN} or more, in whole blocks of {} bytes", template::BLOCK);
                    self.wrong(size.span(), format!("{key}.size"), message);
                }
                Some(GuestDisk::Size(bytes))
            }
            source::Disk { size: None, device: Some(device), file: None } => {
                let key = format!("{key}.device");
                self.device(&device, &key);
                devices.take(self, device.get_ref(), device.span(), &key, "block device");
                Some(GuestDisk::Device(device.into_inner()))
            }
            source::Disk { size: None, device: None, file: Some(file) } => {
                let key = format!("{key}.file");
                let path = file.get_ref().strip_prefix("nfs:").unwrap_or(file.get_ref());
                let absolute = file.get_ref().starts_with("nfs:") || path.starts_with('/');
                if path.is_empty() || !absolute || path.split('/').any(|part| part == "..") {
                    self.wrong(
                        file.span(),
                        &key,
                        "write an absolute path without `..`, or nfs: and a path on the export",
                    );
                }
                devices.take(self, file.get_ref(), file.span(), &key, "file");
                Some(GuestDisk::File(file.into_inner()))
            }
            _ => {
                self.wrong(span, key, "a disk is one of `size`, `device` and `file`: give exactly one");
                None
            }
        }
    }

    /// Guests that start by themselves must fit beside the host; each of the others must fit alone.
    fn memory(&mut self, node: &Spanned<ByteSize>, guests: &[(Guest, Range<usize>)]) {
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

fn inner<T>(values: Vec<Spanned<T>>) -> Vec<T> {
    values.into_iter().map(Spanned::into_inner).collect()
}
