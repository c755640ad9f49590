//! What must hold between the parts of a definition. Here the host's own, in `guests` and `devices` the guests'.

mod devices;
mod guests;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::hash::Hash;
use std::net::Ipv4Addr;
use std::ops::Range;

use toml::Spanned;

use super::mistake::{Mistake, Mistakes};
use super::{Build, Definition, source};
use crate::appliance::{Address, Appliance, Bond, Bridge, GuestKernel, HostKernel, Raid, Update};
use crate::format::Format;
use crate::names::{Ipv4Net, check_interface, check_name};
use crate::release::TRIES;
use crate::secure_boot::{Mode, SecureBoot};
use crate::units::ByteSize;

pub use guests::{HOST_MEMORY, MEMORY_MIN, VCPUS_MAX};

/// The budget of a definition that gives none.
const DEFAULT_BUDGET: ByteSize = ByteSize::mib(64);
/// A boot loader, a kernel and an initramfs don't fit in less.
const BUDGET_MIN: ByteSize = ByteSize::mib(16);
/// Bonding's usual time between two looks at the links.
const MIIMON_DEFAULT_MS: u32 = 100;

/// How often a new release is started, if nothing is said.
const TRIES_DEFAULT: u8 = 3;
/// How long a new release may take until its guests are ready: below, no machine has started its first guest; above, it
/// might as well not have been asked.
const READY_WITHIN_S: std::ops::RangeInclusive<u32> = 10..=86_400;
/// The same if nothing is said: five minutes, for a machine whose firmware and disks are slow.
const READY_WITHIN_S_DEFAULT: u32 = 300;
/// As many name servers are asked (`MAXNS`, resolv.h), and fit on a guest's command line.
const NAME_SERVERS_MAX: usize = 3;

/// What GRUB's shell would not hand on as it is.
const GRUB_SYNTAX: [char; 13] = ['\'', '\\', '$', '`', ';', '&', '|', '<', '>', '{', '}', '#', '"'];

/// Checks everything and fills in the defaults.
pub(super) fn check(file: &str, text: &str, source: source::Definition) -> Result<Definition, Mistakes> {
    let mut checker = Checker { file, text, mistakes: Vec::new() };
    let definition = checker.definition(source);
    if checker.mistakes.is_empty() { Ok(definition) } else { Err(checker.mistakes.into()) }
}

struct Checker<'a> {
    file: &'a str,
    text: &'a str,
    mistakes: Vec<Mistake>,
}

/// Things of which there may be one user, or several that share it: the first of each is remembered.
struct Once<T> {
    taken: BTreeMap<T, User>,
}

struct User {
    key: String,
    shares: bool,
}

impl<T: Ord + Clone + Display + Hash> Once<T> {
    fn new() -> Self {
        Self { taken: BTreeMap::new() }
    }

    fn take(&mut self, checker: &mut Checker<'_>, value: &T, span: Range<usize>, key: &str, what: &str) {
        self.take_or_share(checker, false, value, span, key, what);
    }

    fn take_or_share(
        &mut self,
        checker: &mut Checker<'_>,
        shares: bool,
        value: &T,
        span: Range<usize>,
        key: &str,
        what: &str,
    ) {
        match self.taken.get(value) {
            Some(first) if first.shares && shares => {}
            Some(User { key: first, .. }) => {
                checker.wrong(span, key, format!("{what} {value} is used twice: {first} has it already"));
            }
            None => drop(self.taken.insert(value.clone(), User { key: key.to_owned(), shares })),
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

    fn definition(&mut self, source: source::Definition) -> Definition {
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
        let formats = self.formats(source.appliance.formats);
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
        let appliance = Appliance {
            name: name.into_inner(),
            budget,
            node_memory: source.node.memory.map(Spanned::into_inner),
            host_kernel,
            guest_kernel,
            bonds,
            bridges,
            raids,
            update: self.update_limits(&source.update),
            guests: guests.into_iter().map(|(guest, _)| guest).collect(),
        };
        let tries = source.update.tries.map_or(TRIES_DEFAULT, |tries| {
            if !TRIES.contains(tries.get_ref()) {
                self.wrong(tries.span(), "update.tries", format!("{} is not a number from 1 to 9", tries.get_ref()));
            }
            tries.into_inner()
        });
        let update_key = source.update.key.map(Spanned::into_inner);
        let update_room = source.update.room.map(Spanned::into_inner);
        let secure_boot = source.secure_boot.and_then(|secure_boot| self.secure_boot(secure_boot));
        Definition { appliance, build: Build { formats, update_key, update_room, tries, secure_boot } }
    }

    fn secure_boot(&mut self, source: source::SecureBoot) -> Option<SecureBoot> {
        let files = [("key", source.key), ("certificate", source.certificate)];
        match source.mode.get_ref() {
            Mode::Debian => {
                for (name, file) in files {
                    if let Some(file) = file {
                        let message = "goes with mode = \"own\": with \"debian\", the distribution has signed";
                        self.wrong(file.span(), format!("secure-boot.{name}"), message.to_owned());
                    }
                }
                Some(SecureBoot::Debian)
            }
            Mode::Own => {
                let [key, certificate] = files.map(|(name, file)| {
                    if file.is_none() {
                        let message = format!("mode = \"own\" needs {name}: a file in PEM format");
                        self.wrong(source.mode.span(), "secure-boot.mode", message);
                    }
                    file.map(Spanned::into_inner)
                });
                Some(SecureBoot::Own { key: key?, certificate: certificate? })
            }
        }
    }

    fn update_limits(&mut self, update: &source::Update) -> Update {
        let ready_within_s = update.ready_within_s.as_ref().map_or(READY_WITHIN_S_DEFAULT, |seconds| {
            if !READY_WITHIN_S.contains(seconds.get_ref()) {
                let (least, most) = (READY_WITHIN_S.start(), READY_WITHIN_S.end());
                let message = format!("{} seconds are not between {least} and {most}", seconds.get_ref());
                self.wrong(seconds.span(), "update.ready-within-s", message);
            }
            *seconds.get_ref()
        });
        Update { key: None, ready_within_s }
    }

    /// In the order in which they are made, each once.
    fn formats(&mut self, formats: Option<Spanned<Vec<Format>>>) -> Vec<Format> {
        let Some(formats) = formats else { return Format::DEFAULT.to_vec() };
        if formats.get_ref().is_empty() {
            let known = Format::ALL.iter().map(|format| format.name()).collect::<Vec<_>>().join(", ");
            self.wrong(formats.span(), "appliance.formats", format!("name at least one: {known}"));
        }
        Format::ALL.iter().copied().filter(|format| formats.get_ref().contains(format)).collect()
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
            let dns = self.dns(bridge.dns, &format!("{key}.dns"));
            (name, Bridge { ports: inner(bridge.ports), address, gateway, dns })
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

    fn dns(&mut self, servers: Vec<Spanned<Ipv4Addr>>, key: &str) -> Vec<Ipv4Addr> {
        if let Some(server) = servers.get(NAME_SERVERS_MAX) {
            let message = format!("a resolver asks {NAME_SERVERS_MAX} name servers at most: leave the others out");
            self.wrong(server.span(), format!("{key}[{NAME_SERVERS_MAX}]"), message);
        }
        inner(servers)
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
}

fn inner<T>(values: Vec<Spanned<T>>) -> Vec<T> {
    values.into_iter().map(Spanned::into_inner).collect()
}
