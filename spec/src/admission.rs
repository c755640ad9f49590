//! A guest that somebody defines on a node: what it may be there.
//!
//! It is held to the [`rules`] that the builder's definition is held to, and to what the appliance has: a bridge that the host
//! makes, a block device that is declared and nobody else uses, a file below a declared mount. A network's or a disk's
//! definition that is the image's own stays good. Nothing else of the host can be named, whatever a path looks like.

use std::fmt;

use crate::appliance::{Appliance, DiskSource, Guest, GuestDisk, GuestNetwork, Plug};
use crate::ip::IpNet;
use crate::names::check_name;
use crate::parameters::Parameters;
use crate::rules::{self, Rule};
use crate::units::{ByteSize, MIB};
use crate::vmm::{DiskEngine, DiskFormat, Limits};

/// What is wrong with a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    /// The key, as in the definition's JSON: `network.address`.
    pub key: String,
    /// What is wrong, and what to do.
    pub sentence: String,
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.sentence)
    }
}

/// What a guest is to be let in beside.
#[derive(Clone, Copy, Debug)]
pub struct Beside<'a> {
    /// The image that the node runs.
    pub appliance: &'a Appliance,
    /// The other guests of the node.
    pub others: &'a [&'a Guest],
}

/// All that is wrong with a guest.
pub fn objections(guest: &Guest, beside: Beside<'_>) -> Vec<Objection> {
    let of_image = beside.appliance.guests.iter().find(|other| other.name == guest.name);
    let mut check = Check { guest, beside, of_image, found: Vec::new() };
    check.machine();
    check.parameters(&guest.parameters);
    if let Some(network) = &guest.network {
        check.network(network);
    }
    if let Some(disk) = &guest.disk {
        check.disk(disk);
    }
    check.found
}

struct Check<'a> {
    guest: &'a Guest,
    beside: Beside<'a>,
    of_image: Option<&'a Guest>,
    found: Vec<Objection>,
}

impl Check<'_> {
    fn expect(&mut self, rule: Rule, key: &str) {
        if let Err(sentence) = rule {
            self.found.push(Objection { key: key.to_owned(), sentence });
        }
    }

    fn wrong(&mut self, key: &str, sentence: String) {
        self.expect(Err(sentence), key);
    }

    fn machine(&mut self) {
        let guest = self.guest;
        self.expect(check_name(&guest.name).map_err(|error| error.to_string()), "name");
        self.expect(guest.image.as_deref().map_or(Ok(()), rules::library_name), "image");
        self.expect(rules::root(guest), "image");
        self.expect(rules::vcpus(guest.vcpus), "vcpus");
        self.expect(rules::pins(guest.cpu.pins.len(), guest.vcpus), "cpu.pins");
        for processor in guest.cpu.pins.iter().flatten() {
            self.expect(rules::processor(*processor), "cpu.pins");
        }
        self.expect(rules::memory(guest.memory, guest.memory_kind.pages), "memory");
        if let Some(node) = self.beside.appliance.node_memory {
            let beside = self.beside.others.iter().filter(|other| guest.autostart && other.autostart);
            let before = beside.fold(0u64, |sum, other| sum.saturating_add(other.memory.bytes()));
            self.expect(rules::fits(guest.memory, before, node, self.beside.appliance.overcommit), "memory");
        }
        if let Some(balloon) = guest.balloon {
            let target = ByteSize(u64::from(balloon.target_mib) * MIB);
            self.expect(rules::balloon(target, guest.memory), "balloon.target_mib");
        }
        let others = || self.beside.others.iter().filter(|other| other.name != guest.name);
        let names = others().map(|other| other.name.clone()).collect();
        let all: Vec<&Guest> = others().copied().chain([guest]).collect();
        for other in &guest.start_after {
            self.expect(rules::known_guest(other, &names), "start_after");
        }
        self.expect(rules::start_order(guest, &all), "start_after");
        self.expect(rules::start_delay(guest.start_delay_s), "start_delay_s");
        if let Some(boot) = &guest.boot {
            if self.of_image.and_then(|other| other.boot.as_ref()) != Some(boot) {
                for file in boot.files() {
                    self.declared(file, false, "boot");
                }
            }
            self.expect(rules::kernel_words(&boot.cmdline), "boot.cmdline");
            self.expect(boot.user_data.as_deref().map_or(Ok(()), rules::user_data), "boot.user_data");
        }
        self.expect(rules::commands(guest), "commands");
        if let Some(cid) = guest.vsock {
            self.expect(rules::cid(cid), "vsock");
            self.once("vsock", &cid.to_string(), |other| other.vsock == Some(cid));
        }
    }

    fn parameters(&mut self, parameters: &Parameters) {
        for key in &parameters.ssh_keys {
            self.expect(rules::ssh_key(key), "parameters.ssh_keys");
        }
        if let Some(role) = &parameters.role {
            self.expect(rules::role(role), "parameters.role");
        }
        if let Some(identity) = &parameters.identity {
            self.expect(rules::identity(identity), "parameters.identity");
        }
        for name in parameters.environment.keys() {
            self.expect(rules::variable(name), "parameters.environment");
        }
        self.expect(parameters.check().map_err(|error| error.to_string()), "parameters");
    }

    /// Nobody else has it.
    fn once(&mut self, key: &str, what: &str, has: impl Fn(&Guest) -> bool) {
        if let Some(other) = self.beside.others.iter().find(|other| has(other)) {
            self.wrong(key, format!("guest {} has {what} already", other.name));
        }
    }

    fn network(&mut self, network: &GuestNetwork) {
        let links = &self.beside.appliance.network;
        match &network.plug {
            Plug::Bridge(name) => self.bridge(name, network),
            Plug::Macvtap(name) => {
                self.expect(rules::macvtap(links, name), "network.macvtap");
                let tags = network.vlan.is_some() || !network.vlans.is_empty();
                self.expect(rules::macvtap_without_vlans(name, tags), "network.macvtap");
                let held = network.anti_spoofing && self.beside.appliance.firewall.is_some();
                self.expect(rules::macvtap_beside_firewall(held), "network.macvtap");
            }
        }
        for id in network.vlan.iter().chain(&network.vlans) {
            self.expect(rules::vlan(*id), "network.vlan");
        }
        for id in &network.vlans {
            self.expect(rules::tagged(*id, network.vlan), "network.vlans");
        }
        let place = |network: &GuestNetwork| Some((network.plug.clone(), network.vlan, network.address?.address));
        if let Some(net) = network.address {
            self.expect(rules::host_address(net.into()), "network.address");
            let same = |other: &Guest| other.network.as_ref().and_then(place) == place(network);
            self.once("network.address", &net.address.to_string(), same);
        }
        if let Some(gateway) = network.gateway {
            let nets: Vec<IpNet> = network.address.into_iter().map(IpNet::from).collect();
            self.expect(rules::gateway(gateway.into(), &nets), "network.gateway");
        }
        self.expect(rules::name_servers(network.dns.len()), "network.dns");
        let same = |other: &Guest| other.network.as_ref().is_some_and(|other| other.mac == network.mac);
        self.once("network.mac", &network.mac.to_string(), same);
        if let Some((link, _)) = links.links().find(|(_, link)| link.mac == Some(network.mac)) {
            self.wrong("network.mac", format!("the host's interface {link} has {} already", network.mac));
        }
        if !network.allowed_addresses.is_empty() {
            self.expect(rules::behind_firewall(self.beside.appliance.firewall.is_some()), "network.allowed_addresses");
            self.expect(rules::allowed_addresses(network.anti_spoofing), "network.allowed_addresses");
            for net in &network.allowed_addresses {
                self.expect(rules::network(*net), "network.allowed_addresses");
            }
        }
        self.firewall(network);
        self.expect(rules::queue_pairs(network.queues), "network.queues");
        if let Some(mtu) = network.mtu {
            self.expect(rules::mtu(mtu), "network.mtu");
        }
        self.limits(&network.receive, "network.receive");
        self.limits(&network.transmit, "network.transmit");
    }

    fn bridge(&mut self, name: &str, network: &GuestNetwork) {
        let bridges = &self.beside.appliance.network.bridges;
        let Some(bridge) = bridges.get(name) else {
            let known = bridges.keys().cloned().collect::<Vec<_>>().join(", ");
            return self.wrong("network.bridge", format!("there is no bridge `{name}` on this host: it has {known}"));
        };
        let tags = network.vlan.is_some() || !network.vlans.is_empty();
        if tags && !bridge.vlan_filtering {
            self.wrong("network.vlan", format!("bridge {name} keeps no VLANs apart: the image says so"));
        }
        if let (Some(net), None) = (network.address, network.vlan) {
            self.expect(rules::beside(net, name, bridge.link.ipv4()), "network.address");
            if bridge.link.ipv4().any(|host| host.address == net.address) {
                self.wrong("network.address", format!("the host has {} itself", net.address));
            }
        }
    }

    /// Under which names guests send is written into the host's firewall by the image that it boots from.
    fn firewall(&mut self, network: &GuestNetwork) {
        if self.beside.appliance.firewall.is_none() {
            return;
        }
        let names =
            |it: &GuestNetwork| (it.plug.clone(), it.mac, it.address, it.anti_spoofing, it.allowed_addresses.clone());
        let of_image = self.of_image.and_then(|guest| guest.network.as_ref());
        if of_image.map(names) != Some(names(network)) {
            let sentence = "the host's firewall lets guests send from the addresses that the image gives them: give it \
                            these, no network at all, or build an image with it";
            self.wrong("network", sentence.to_owned());
        }
    }

    fn disk(&mut self, disk: &GuestDisk) {
        let of_image = self.of_image.and_then(|guest| guest.disk.as_ref());
        let said_by_image = of_image.is_some_and(|other| other.source == disk.source);
        let storage = &self.beside.appliance.storage;
        let (key, made) = match &disk.source {
            DiskSource::Size(size) => {
                self.expect(rules::disk_size(*size), "disk.source.size");
                ("disk.source.size", true)
            }
            DiskSource::Device(path) => {
                if !said_by_image && !storage.is_free(path) {
                    let free: Vec<String> = storage.devices().filter(|path| storage.is_free(path)).collect();
                    let known = if free.is_empty() { "no such".to_owned() } else { free.join(", ") };
                    let sentence = format!(
                        "`{}` is no block device for guests: [storage] of the image declares {known}",
                        path.escape_debug()
                    );
                    self.wrong("disk.source.device", sentence);
                }
                ("disk.source.device", false)
            }
            DiskSource::File(path) => {
                if !said_by_image {
                    self.declared(path, false, "disk.source.file");
                }
                ("disk.source.file", false)
            }
        };
        let path = self.guest.disk_path();
        let shares = disk.read_only;
        let same = |other: &Guest| {
            other.disk_path() == path && !(shares && other.disk.as_ref().is_some_and(|disk| disk.read_only))
        };
        self.once(key, "this disk", same);
        if disk.format == DiskFormat::Qcow2 {
            self.expect(rules::qcow2_is_a_file(matches!(disk.source, DiskSource::File(_))), "disk.format");
            self.expect(rules::qcow2_through_the_cache(disk.direct), "disk.direct");
            self.expect(rules::qcow2_without_uring(disk.engine == DiskEngine::Uring), "disk.engine");
        }
        if let Some(backing) = &disk.backing {
            self.expect(rules::backing_of_qcow2(disk.format == DiskFormat::Qcow2), "disk.backing");
            if of_image.and_then(|disk| disk.backing.as_ref()) != Some(backing) {
                self.declared(backing, true, "disk.backing");
            }
        }
        if disk.read_only {
            self.expect(rules::read_only(made), "disk.read_only");
        }
        self.expect(rules::disk_queues(disk.queues), "disk.queues");
        self.limits(&disk.limits, "disk.limits");
    }

    /// A path below a declared mount, or perhaps that, written in one way only.
    fn declared(&mut self, path: &str, or_mount: bool, key: &str) {
        let storage = &self.beside.appliance.storage;
        let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.chars().any(char::is_control);
        let sound = path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(plain));
        if !sound || !storage.mounts().any(|mount| (or_mount && path == mount) || is_below(path, mount)) {
            let mounts: Vec<&str> = storage.mounts().collect();
            let known = if mounts.is_empty() { "none".to_owned() } else { mounts.join(", ") };
            let sentence = format!(
                "`{}` lies on none of the file systems that [storage] of the image declares: {known}",
                path.escape_debug()
            );
            self.wrong(key, sentence);
        }
    }

    fn limits(&mut self, limits: &Limits, key: &str) {
        for rate in [limits.bandwidth, limits.operations].into_iter().flatten() {
            for value in [Some(rate.per_second), rate.burst].into_iter().flatten() {
                self.expect(rules::limit(value), key);
            }
        }
    }
}

fn is_below(path: &str, mount: &str) -> bool {
    path.strip_prefix(mount).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
