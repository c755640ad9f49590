//! The network as it is, the network as it shall be, and one step from the one to the other: data without a kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use thimble_spec::appliance::{BondMode, HashPolicy, Ipv6, LacpRate};
use thimble_spec::ip::IpNet;
use thimble_spec::names::Mac;

/// What is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Links by name.
    pub links: BTreeMap<String, Link>,
    /// Routes that somebody set: none of the kernel's own.
    pub routes: BTreeSet<Route>,
}

/// A link as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// What it is.
    pub kind: Kind,
    /// A definition named it, this one or an earlier one.
    pub ours: bool,
    /// It is switched on.
    pub up: bool,
    /// The other end is there, too.
    pub carrier: bool,
    /// Its largest packet.
    pub mtu: u32,
    /// The most that its driver takes; none if that is not said.
    pub mtu_max: Option<u32>,
    /// Its Ethernet address, if it has one.
    pub mac: Option<Mac>,
    /// The one that it was made with.
    pub own_mac: Option<Mac>,
    /// The bond or bridge that it is a port of.
    pub master: Option<String>,
    /// The preferred one of its ports, as a bond.
    pub primary: Option<String>,
    /// Its VLANs, as a port of a bridge or as a bridge.
    pub vlans: BTreeMap<u16, PortVlan>,
    /// Fixed addresses.
    pub addresses: BTreeSet<IpNet>,
    /// How it speaks IPv6.
    pub ipv6: Ipv6,
}

/// What a link is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Found, not made here: a network card; of links that are there also anything that is none of the others.
    Card,
    /// A bond.
    Bond(BondOptions),
    /// A bridge.
    Bridge(BridgeOptions),
    /// A VLAN.
    Vlan(VlanOptions),
    /// A dummy.
    Dummy,
}

impl Kind {
    /// Whether one can become the other while it lives.
    pub fn can_become(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Vlan(one), Self::Vlan(other)) => one == other,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

/// A bond's options, the primary port apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BondOptions {
    /// Mode.
    pub mode: BondMode,
    /// Milliseconds between looks.
    pub miimon_ms: u32,
    /// Milliseconds until a link that came is used.
    pub updelay_ms: u32,
    /// Milliseconds until a link that went is given up.
    pub downdelay_ms: u32,
    /// Only in the modes that have it, else the default.
    pub lacp_rate: LacpRate,
    /// Only in the modes that have it, else the default.
    pub xmit_hash_policy: HashPolicy,
}

impl BondOptions {
    /// Without what its mode does not have.
    pub fn cleaned(mut self) -> Self {
        if self.mode != BondMode::Lacp {
            self.lacp_rate = LacpRate::default();
        }
        if !self.mode.hashes() {
            self.xmit_hash_policy = HashPolicy::default();
        }
        self
    }
}

/// A bridge's options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BridgeOptions {
    /// Spanning tree.
    pub stp: bool,
    /// Whether frames are kept within the VLANs of their ports.
    pub vlan_filtering: bool,
}

/// A VLAN's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VlanOptions {
    /// The link that it is in.
    pub parent: String,
    /// Its tag.
    pub id: u16,
}

/// How a port is in a VLAN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortVlan {
    /// What comes without a tag is of it.
    pub pvid: bool,
    /// What leaves has no tag.
    pub untagged: bool,
}

impl PortVlan {
    /// With its tag, both ways.
    pub const TAGGED: Self = Self { pvid: false, untagged: false };
    /// Without, both ways.
    pub const UNTAGGED: Self = Self { pvid: true, untagged: true };
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Where it leads.
    pub to: IpNet,
    /// The lower, the better.
    pub metric: u32,
    /// By which link.
    pub link: String,
    /// By which machine.
    pub via: Option<IpAddr>,
}

/// What shall be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Links by name.
    pub links: BTreeMap<String, WantedLink>,
    /// Routes by them.
    pub routes: BTreeSet<Route>,
}

/// A link as it shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedLink {
    /// What it is.
    pub kind: Kind,
    /// Its largest packet; none is what goes with its kind.
    pub mtu: Option<u32>,
    /// Its address; none is its own or its first port's.
    pub mac: Option<Mac>,
    /// The bond or bridge that it is a port of.
    pub master: Option<String>,
    /// Its ports, in the order of the definition; the first that is there gives a bridge its address.
    pub ports: Vec<String>,
    /// The preferred one of a bond's.
    pub primary: Option<String>,
    /// Its VLANs, if its bridge filters or it is a bridge that does.
    pub vlans: Option<BTreeMap<u16, PortVlan>>,
    /// Fixed addresses, and those that a DHCP server gave.
    pub addresses: BTreeSet<IpNet>,
    /// How it speaks IPv6.
    pub ipv6: Ipv6,
}

impl WantedLink {
    /// One of which nothing is said.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            mtu: None,
            mac: None,
            master: None,
            ports: Vec::new(),
            primary: None,
            vlans: None,
            addresses: BTreeSet::new(),
            ipv6: Ipv6::Off,
        }
    }
}

/// Whose VLANs are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A port's of a bridge.
    Port,
    /// The host's end of a bridge.
    Bridge,
}

/// One step. What it needs is there when all before it were taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Make a link.
    Make(String, Kind),
    /// Take away a link that we made.
    Remove(String),
    /// Mark a link as ours, or as nobody's.
    Own(String, bool),
    /// Switch it on or off.
    Up(String, bool),
    /// Make it a port of this one, or of none.
    Master(String, Option<String>),
    /// Set a bond's options: from these to those.
    Bond(String, BondOptions, BondOptions),
    /// Set a bond's preferred port.
    Primary(String, Option<String>),
    /// Set a bridge's options: from these to those.
    Bridge(String, BridgeOptions, BridgeOptions),
    /// Set the largest packet.
    Mtu(String, u32),
    /// Set the Ethernet address.
    Mac(String, Mac),
    /// Give the first the Ethernet address that the second has then.
    CopyMac(String, String),
    /// Put a port, or a bridge itself, into a VLAN.
    Vlan(String, Side, u16, PortVlan),
    /// Take it out.
    NoVlan(String, Side, u16),
    /// Set how it speaks IPv6.
    Ipv6(String, Ipv6),
    /// Give it an address.
    Address(String, IpNet),
    /// Take an address from it.
    NoAddress(String, IpNet),
    /// Set a route.
    Route(Route),
    /// Take a route away.
    NoRoute(Route),
}

impl fmt::Display for Change {
    /// Completes "cannot ...".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Make(name, kind) => match kind {
                Kind::Card => write!(f, "make the network card {name}"),
                Kind::Bond(_) => write!(f, "make the bond {name}"),
                Kind::Bridge(_) => write!(f, "make the bridge {name}"),
                Kind::Vlan(VlanOptions { parent, id }) => write!(f, "make {name}, VLAN {id} of {parent}"),
                Kind::Dummy => write!(f, "make the dummy {name}"),
            },
            Self::Remove(name) => write!(f, "remove {name}"),
            Self::Own(name, true) => write!(f, "mark {name} as ours"),
            Self::Own(name, false) => write!(f, "mark {name} as nobody's"),
            Self::Up(name, up) => write!(f, "set {name} {}", if *up { "up" } else { "down" }),
            Self::Master(name, Some(master)) => write!(f, "put {name} into {master}"),
            Self::Master(name, None) => write!(f, "take {name} out of its bond or bridge"),
            Self::Bond(name, ..) => write!(f, "set the options of the bond {name}"),
            Self::Primary(name, Some(port)) => write!(f, "make {port} the primary port of {name}"),
            Self::Primary(name, None) => write!(f, "leave {name} without a primary port"),
            Self::Bridge(name, ..) => write!(f, "set the options of the bridge {name}"),
            Self::Mtu(name, mtu) => write!(f, "set the MTU of {name} to {mtu}"),
            Self::Mac(name, mac) => write!(f, "give {name} the address {mac}"),
            Self::CopyMac(name, from) => write!(f, "give {name} the address of {from}"),
            Self::Vlan(name, _, id, _) => write!(f, "put {name} into VLAN {id}"),
            Self::NoVlan(name, _, id) => write!(f, "take {name} out of VLAN {id}"),
            Self::Ipv6(name, ipv6) => match ipv6 {
                Ipv6::Off => write!(f, "switch IPv6 off on {name}"),
                Ipv6::Static => write!(f, "switch IPv6 on on {name}"),
                Ipv6::Slaac => write!(f, "let {name} take addresses from IPv6 routers"),
            },
            Self::Address(name, net) => write!(f, "give {net} to {name}"),
            Self::NoAddress(name, net) => write!(f, "take {net} from {name}"),
            Self::Route(route) => write!(f, "set the route {route}"),
            Self::NoRoute(route) => write!(f, "remove the route {route}"),
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "to {} by {}", self.to, self.link)?;
        self.via.map_or(Ok(()), |via| write!(f, " via {via}"))
    }
}
