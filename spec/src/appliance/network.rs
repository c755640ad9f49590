//! The host's links and addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::firewall::Protocol;
use crate::ip::IpNet;
use crate::names::{Ipv4Net, Mac};

/// All of the host's links. What is no key of any map and is a port or a parent is a network card.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Which card gets which name.
    pub cards: BTreeMap<String, Match>,
    /// Network cards that have something of their own.
    pub interfaces: BTreeMap<String, Link>,
    /// Several links as one.
    pub bonds: BTreeMap<String, Bond>,
    /// Switches inside the host.
    pub bridges: BTreeMap<String, Bridge>,
    /// Links inside other links.
    pub vlans: BTreeMap<String, Vlan>,
    /// Links to nowhere, for addresses that go with no wire.
    pub dummies: BTreeMap<String, Link>,
    /// Ports of the host that lead to guests.
    #[serde(default)]
    pub forwards: Vec<Forward>,
}

impl Network {
    /// What is said of a link in general, for each that is declared, with its name.
    pub fn links(&self) -> impl Iterator<Item = (&str, &Link)> {
        let bonds = self.bonds.iter().map(|(name, bond)| (name, &bond.link));
        let bridges = self.bridges.iter().map(|(name, bridge)| (name, &bridge.link));
        let vlans = self.vlans.iter().map(|(name, vlan)| (name, &vlan.link));
        let plain = self.interfaces.iter().chain(&self.dummies);
        bonds.chain(bridges).chain(vlans).chain(plain).map(|(name, link)| (name.as_str(), link))
    }

    /// The same of one.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links().find(|(other, _)| *other == name).map(|(_, link)| link)
    }

    /// Whether a link is made rather than found.
    pub fn is_made(&self, name: &str) -> bool {
        self.bonds.contains_key(name)
            || self.bridges.contains_key(name)
            || self.vlans.contains_key(name)
            || self.dummies.contains_key(name)
    }

    /// The network cards that the host needs, each once.
    pub fn card_names(&self) -> BTreeSet<&str> {
        let ports = self.bonds.values().flat_map(|bond| &bond.ports);
        let ports = ports.chain(self.bridges.values().flat_map(|bridge| &bridge.ports));
        let parents = self.vlans.values().map(|vlan| &vlan.parent);
        let named = self.interfaces.keys().chain(self.cards.keys());
        let names = ports.chain(parents).chain(named).map(String::as_str);
        names.filter(|name| !self.is_made(name)).collect()
    }

    /// Whether some bridge is a network of the host's own, which it passes packets on for, or keeps apart.
    pub fn has_own_networks(&self) -> bool {
        self.bridges.values().any(|bridge| bridge.mode != BridgeMode::Bridged)
    }

    /// Whether packets leave the host under another address than they came with.
    pub fn translates(&self) -> bool {
        !self.forwards.is_empty() || self.bridges.values().any(|bridge| bridge.mode == BridgeMode::Nat)
    }

    /// Bridges whose guests ask the host for addresses and names, each with its network.
    pub fn served(&self) -> impl Iterator<Item = (&str, &Bridge, Ipv4Net)> {
        let served = self.bridges.iter().filter(|(_, bridge)| bridge.dhcp_dns);
        served.filter_map(|(name, bridge)| Some((name.as_str(), bridge, bridge.link.ipv4().next()?)))
    }

    /// The bond or bridge that a link is a port of.
    pub fn master(&self, port: &str) -> Option<&str> {
        let bonds = self.bonds.iter().map(|(name, bond)| (name, &bond.ports));
        let mut masters = bonds.chain(self.bridges.iter().map(|(name, bridge)| (name, &bridge.ports)));
        masters.find(|(_, ports)| ports.iter().any(|name| name == port)).map(|(name, _)| name.as_str())
    }
}

/// What is said of any link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The largest packet, in bytes; none is what goes with its kind.
    pub mtu: Option<u32>,
    /// Its Ethernet address; none is its own, or its first port's.
    pub mac: Option<Mac>,
    /// It asks a DHCP server for an address.
    pub dhcp: bool,
    /// Fixed addresses.
    pub addresses: Vec<IpNet>,
    /// Default routes, one a family.
    pub gateways: Vec<IpAddr>,
    /// Whether it speaks IPv6.
    pub ipv6: Ipv6,
    /// More routes.
    pub routes: Vec<Route>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
}

impl Link {
    /// Its fixed addresses of IPv4.
    pub fn ipv4(&self) -> impl Iterator<Item = Ipv4Net> + Clone {
        self.addresses.iter().filter_map(|address| address.v4())
    }

    /// Its default route of IPv4.
    pub fn gateway_v4(&self) -> Option<Ipv4Addr> {
        self.gateways.iter().find_map(|gateway| match gateway {
            IpAddr::V4(gateway) => Some(*gateway),
            IpAddr::V6(_) => None,
        })
    }
}

/// Whether and how a link speaks IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ipv6 {
    /// Not at all: the kernel does not even give it an address of its link.
    #[default]
    Off,
    /// With the addresses that are declared, and no others but that of its link.
    Static,
    /// With what routers announce, too (RFC 4862).
    Slaac,
}

/// A route to a network by a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where it leads.
    pub to: IpNet,
    /// The next machine on the way; none if they are on the link.
    pub via: Option<IpAddr>,
    /// The lower, the better.
    pub metric: u32,
}

/// Which card is meant: all that is said must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    /// The address that it was made with.
    pub mac: Option<Mac>,
    /// Where it is plugged in.
    pub path: Option<PciPath>,
    /// Its driver.
    pub driver: Option<String>,
    /// The name that the kernel gave it.
    pub name: Option<String>,
}

/// Place of a device on the PCI bus: domain, bus, device and function, as `lspci -D` writes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciPath {
    /// Domain, 0 on most machines.
    pub domain: u32,
    /// Bus.
    pub bus: u8,
    /// Device, 0 to 31.
    pub device: u8,
    /// Function, 0 to 7.
    pub function: u8,
}

/// Text that is no place on the PCI bus.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no place on the PCI bus: write it as lspci does, 03:00.1 or 0000:03:00.1")]
pub struct PciPathError(String);

impl fmt::Display for PciPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

impl FromStr for PciPath {
    type Err = PciPathError;

    fn from_str(text: &str) -> Result<Self, PciPathError> {
        let number = |digits: &str| {
            let sound = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            sound.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
        };
        let read = || {
            let (rest, function) = text.rsplit_once('.')?;
            let (rest, device) = rest.rsplit_once(':')?;
            let (domain, bus) = rest.split_once(':').unwrap_or(("0", rest));
            let (device, function) = (u8::try_from(number(device)?).ok()?, u8::try_from(number(function)?).ok()?);
            let sound = device < 32 && function < 8;
            let path = Self { domain: number(domain)?, bus: u8::try_from(number(bus)?).ok()?, device, function };
            sound.then_some(path)
        };
        read().ok_or_else(|| PciPathError(text.to_owned()))
    }
}

impl Serialize for PciPath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PciPath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Several links as one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bond {
    /// What it is as a link.
    pub link: Link,
    /// How they share the work.
    pub mode: BondMode,
    /// Interfaces in it.
    pub ports: Vec<String>,
    /// Time between two looks at the links' state, in milliseconds.
    pub miimon_ms: u32,
    /// How long a link must be up before it is used, in milliseconds: a multiple of `miimon_ms`.
    pub updelay_ms: u32,
    /// How long a link must be down before it is given up, in milliseconds: a multiple of `miimon_ms`.
    pub downdelay_ms: u32,
    /// The port that is used whenever it can be.
    pub primary: Option<String>,
    /// How often the partner is asked to speak (802.3ad).
    pub lacp_rate: LacpRate,
    /// What of a packet chooses its port.
    pub xmit_hash_policy: HashPolicy,
}

/// The bonding driver's modes (Documentation/networking/bonding.rst in the kernel's tree).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BondMode {
    /// Round robin.
    #[serde(rename = "balance-rr")]
    BalanceRr,
    /// One carries, the others wait.
    #[default]
    #[serde(rename = "active-backup")]
    ActiveBackup,
    /// By hash of the addresses.
    #[serde(rename = "balance-xor")]
    BalanceXor,
    /// Everything on all.
    #[serde(rename = "broadcast")]
    Broadcast,
    /// LACP.
    #[serde(rename = "802.3ad")]
    Lacp,
    /// Outgoing load.
    #[serde(rename = "balance-tlb")]
    BalanceTlb,
    /// Load in both directions.
    #[serde(rename = "balance-alb")]
    BalanceAlb,
}

impl BondMode {
    /// Whether one port may be preferred to the others.
    pub fn has_primary(self) -> bool {
        matches!(self, Self::ActiveBackup | Self::BalanceTlb | Self::BalanceAlb)
    }

    /// Whether a hash of the packet chooses the port.
    pub fn hashes(self) -> bool {
        matches!(self, Self::BalanceXor | Self::Lacp | Self::BalanceTlb)
    }
}

/// `lacp_rate` of the bonding driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LacpRate {
    /// Every 30 seconds.
    #[default]
    Slow,
    /// Every second.
    Fast,
}

/// `xmit_hash_policy` of the bonding driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HashPolicy {
    /// Ethernet addresses.
    #[default]
    #[serde(rename = "layer2")]
    Layer2,
    /// IP addresses and ports.
    #[serde(rename = "layer3+4")]
    Layer34,
    /// Ethernet and IP addresses.
    #[serde(rename = "layer2+3")]
    Layer23,
    /// As `layer2+3`, of what is in a tunnel.
    #[serde(rename = "encap2+3")]
    Encap23,
    /// As `layer3+4`, of what is in a tunnel.
    #[serde(rename = "encap3+4")]
    Encap34,
    /// VLAN and source.
    #[serde(rename = "vlan+srcmac")]
    VlanSource,
}

/// A switch inside the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bridge {
    /// What it is as a link: the host's own end.
    pub link: Link,
    /// Interfaces and bonds in it.
    pub ports: Vec<String>,
    /// How its guests reach others.
    #[serde(default)]
    pub mode: BridgeMode,
    /// The host gives its guests addresses, and answers their questions about names.
    #[serde(default)]
    pub dhcp_dns: bool,
    /// Whether it speaks the spanning tree protocol.
    pub stp: bool,
    /// Whether it keeps frames within the VLANs of their ports.
    pub vlan_filtering: bool,
    /// The VLANs of each of its ports, and under its own name the host's; empty without filtering.
    pub vlans: BTreeMap<String, PortVlans>,
}

/// How a bridge's guests reach others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BridgeMode {
    /// By its ports, as their neighbours.
    #[default]
    Bridged,
    /// By the host, under its address; others reach them by forwarded ports only.
    Nat,
    /// By the host, under their own addresses, which routers of the site know the way to.
    Routed,
    /// Not at all, but for each other and the host.
    Isolated,
}

/// A port of the host that leads to a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// How.
    pub protocol: Protocol,
    /// The host's port.
    pub port: u16,
    /// The guest's address.
    pub address: Ipv4Addr,
    /// The guest's port.
    pub to_port: u16,
}

/// The VLANs of a port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortVlans {
    /// Frames of these leave it with their tag.
    pub tagged: BTreeSet<u16>,
    /// Frames of this one leave it without, and what comes without is of this one.
    pub untagged: Option<u16>,
}

/// A link inside another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vlan {
    /// What it is as a link.
    pub link: Link,
    /// The link whose frames with the tag it gets.
    pub parent: String,
    /// The tag.
    pub id: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_paths_are_read_as_lspci_writes_them() {
        for (text, whole) in
            [("03:00.1", "0000:03:00.1"), ("0000:0a:1f.7", "0000:0a:1f.7"), ("10000:e1:00.0", "10000:e1:00.0")]
        {
            assert_eq!(text.parse::<PciPath>().unwrap().to_string(), whole);
        }
        for bad in ["", "03:00", "03:20.0", "03:00.8", "x:03:00.0", "1:2:3:00.0", "100:00.0", "+3:00.0"] {
            assert!(bad.parse::<PciPath>().is_err(), "{bad}");
        }
    }
}
