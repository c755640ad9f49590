//! The requests: links, addresses, routes. Each is idempotent: what is as wanted already is left alone.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkFlags, LinkHeader};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use thimble_spec::names::Ipv4Net;

use super::interface;
use super::socket::RouteSocket;
use crate::error::{Doing, Error, Result};

#[cfg(feature = "host")]
pub use devices::{BridgeOptions, Created, index_of, mac_of};

// Kinds of requests (linux/rtnetlink.h).
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;

// Flags of requests (linux/netlink.h).
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
/// A change to what exists.
const CHANGE: u16 = NLM_F_REQUEST | NLM_F_ACK;

/// The network of this thread's namespace.
pub struct Network {
    socket: RouteSocket,
}

impl Network {
    /// Opens the way to it.
    pub fn open() -> Result<Self> {
        Ok(Self { socket: RouteSocket::open()? })
    }

    /// Switches an interface on.
    pub fn up(&mut self, name: &str) -> Result<()> {
        self.switch(name, LinkFlags::Up)
    }

    fn switch(&mut self, name: &str, flags: LinkFlags) -> Result<()> {
        let index = index(name)?;
        let on = flags.contains(LinkFlags::Up);
        if is_up(name) == on {
            return Ok(());
        }
        let header = LinkHeader { index, flags, change_mask: LinkFlags::Up, ..LinkHeader::default() };
        let word = if on { "up" } else { "down" };
        self.socket.request(RTM_NEWLINK, CHANGE, &header, || format!("set interface {name} {word}"))
    }

    /// Gives an interface an address. The kernel adds the route to its network.
    pub fn add_address(&mut self, name: &str, address: Ipv4Net) -> Result<()> {
        let message = address_message(index(name)?, address);
        // Without NLM_F_REPLACE an address that is there already is an error, which is as good.
        let flags = CHANGE | NLM_F_CREATE;
        match self.socket.request(RTM_NEWADDR, flags, &message, || format!("give {address} to interface {name}")) {
            Err(error) if error.errno() == Some(libc::EEXIST) => Ok(()),
            outcome => outcome,
        }
    }

    /// Sets the default route.
    pub fn default_route(&mut self, name: &str, gateway: Ipv4Addr) -> Result<()> {
        let mut message = default_route_message();
        let gateway_address = RouteAttribute::Gateway(RouteAddress::Inet(gateway));
        message.attributes = vec![gateway_address, RouteAttribute::Oif(index(name)?)];
        let flags = CHANGE | NLM_F_CREATE | NLM_F_REPLACE;
        self.socket.request(RTM_NEWROUTE, flags, &message, || format!("set the default route by {gateway} on {name}"))
    }
}

fn address_message(index: u32, address: Ipv4Net) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = address.prefix;
    message.header.index = index;
    message.header.scope = AddressScope::Universe;
    let local = IpAddr::V4(address.address);
    message.attributes = vec![AddressAttribute::Local(local), AddressAttribute::Address(local)];
    // RFC 919, section 7; a network of two (RFC 3021) or one has none.
    if address.prefix < 31 {
        let broadcast = Ipv4Addr::from_bits(address.address.to_bits() | (u32::MAX >> address.prefix));
        message.attributes.push(AddressAttribute::Broadcast(broadcast));
    }
    message
}

fn default_route_message() -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: AddressFamily::Inet,
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Boot,
        scope: RouteScope::Universe,
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    message
}

/// Text of a file in an interface's directory, trimmed.
fn read(name: &str, file: &str) -> Result<String> {
    let path = interface(name).join(file);
    let text = fs::read_to_string(&path).doing(|| format!("read {}: is there an interface {name}?", path.display()))?;
    Ok(text.trim().to_owned())
}

fn index(name: &str) -> Result<u32> {
    let text = read(name, "ifindex")?;
    text.parse().map_err(|_| Error::Said(format!("interface {name} has the impossible index `{text}`")))
}

/// Whether `IFF_UP`, the lowest bit, is set.
fn is_up(name: &str) -> bool {
    let flags = read(name, "flags").unwrap_or_default();
    let flags = u32::from_str_radix(flags.trim_start_matches("0x"), 16).unwrap_or(0);
    flags & 1 == 1
}

/// Bridges, bonds and their ports: the host's part.
#[cfg(feature = "host")]
mod devices {
    use super::*;
    use netlink_packet_route::link::{
        BondMode as WireMode, InfoBond, InfoBridge, InfoData, InfoKind, LinkAttribute, LinkInfo, LinkMessage,
    };
    use thimble_spec::appliance::{Bond, BondMode};

    const RTM_DELADDR: u16 = 21;
    const RTM_DELROUTE: u16 = 25;
    const NLM_F_EXCL: u16 = 0x200;

    /// Whether a device was made or was there.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Created {
        /// Made now.
        New,
        /// It was there.
        Existed,
    }

    /// What a bridge is told.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct BridgeOptions {
        /// Whether frames are kept within the VLANs of their ports.
        pub vlan_filtering: bool,
    }

    impl Network {
        /// Makes a bond, or sets the mode and the monitoring of the one that is there.
        pub fn bond(&mut self, name: &str, bond: &Bond) -> Result<Created> {
            let mode = wire_mode(bond.mode);
            let info = vec![InfoBond::Mode(mode), InfoBond::MiiMon(bond.miimon_ms)];
            if !super::super::exists(name) {
                return self.create(name, InfoKind::Bond, InfoData::Bond(info));
            }
            // `active-backup 1`
            let current = read(name, "bonding/mode")?;
            if current.split(' ').next_back() != Some(u8::from(mode).to_string().as_str()) {
                // The driver changes its mode only while it is down and empty (bond_option_mode_set).
                self.switch(name, LinkFlags::empty())?;
                for port in read(name, "bonding/slaves")?.split_whitespace() {
                    self.set_master(port, 0, || format!("take {port} out of {name}"))?;
                }
                self.change(name, InfoKind::Bond, InfoData::Bond(vec![InfoBond::Mode(mode)]))?;
            }
            if read(name, "bonding/miimon")? != bond.miimon_ms.to_string() {
                self.change(name, InfoKind::Bond, InfoData::Bond(vec![InfoBond::MiiMon(bond.miimon_ms)]))?;
            }
            Ok(Created::Existed)
        }

        /// Makes a bridge, or sets the options of the one that is there.
        pub fn bridge(&mut self, name: &str, options: BridgeOptions) -> Result<Created> {
            let info = || InfoData::Bridge(vec![InfoBridge::VlanFiltering(options.vlan_filtering)]);
            if !super::super::exists(name) {
                // A kernel without VLANs knows no filtering, and needs no word about it.
                let data = if options.vlan_filtering { info() } else { InfoData::Bridge(Vec::new()) };
                return self.create(name, InfoKind::Bridge, data);
            }
            if (read(name, "bridge/vlan_filtering").is_ok_and(|value| value == "1")) != options.vlan_filtering {
                self.change(name, InfoKind::Bridge, info())?;
            }
            Ok(Created::Existed)
        }

        fn create(&mut self, name: &str, kind: InfoKind, data: InfoData) -> Result<Created> {
            let doing = || format!("make {kind:?} {name}: is its kernel module in the image?");
            let mut message = LinkMessage::default();
            message.attributes = vec![
                LinkAttribute::IfName(name.to_owned()),
                LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind.clone()), LinkInfo::Data(data)]),
            ];
            self.socket.request(RTM_NEWLINK, CHANGE | NLM_F_CREATE | NLM_F_EXCL, &message, doing)?;
            Ok(Created::New)
        }

        fn change(&mut self, name: &str, kind: InfoKind, data: InfoData) -> Result<()> {
            let mut message = LinkMessage::default();
            message.header.index = index(name)?;
            message.attributes = vec![LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)])];
            self.socket.request(RTM_NEWLINK, CHANGE, &message, || format!("change interface {name}"))
        }

        /// Puts `port` into the bond or bridge `master`. A bond takes only ports that are down.
        pub fn enslave(&mut self, port: &str, master: &str) -> Result<()> {
            let current = fs::read_link(interface(port).join("master")).ok();
            if current.is_some_and(|path| path.file_name().is_some_and(|name| name == master)) {
                return Ok(());
            }
            if interface(master).join("bonding").exists() {
                self.switch(port, LinkFlags::empty())?;
            }
            let to = index(master)?;
            self.set_master(port, to, || format!("put {port} into {master}"))
        }

        fn set_master(&mut self, port: &str, master: u32, doing: impl FnOnce() -> String) -> Result<()> {
            let mut message = LinkMessage::default();
            message.header.index = index(port)?;
            message.attributes = vec![LinkAttribute::Controller(master)];
            self.socket.request(RTM_NEWLINK, CHANGE, &message, doing)
        }

        /// Gives `name` the Ethernet address of `port`: a bridge left alone takes the lowest of its ports', which
        /// changes when a guest's is plugged in, and with it the DHCP lease.
        pub fn copy_mac(&mut self, name: &str, port: &str) -> Result<()> {
            let text = read(port, "address")?;
            if read(name, "address")? == text {
                return Ok(());
            }
            let mut message = LinkMessage::default();
            message.header.index = index(name)?;
            message.attributes = vec![LinkAttribute::Address(mac(&text)?.to_vec())];
            self.socket.request(RTM_NEWLINK, CHANGE, &message, || format!("give {text} to interface {name}"))
        }

        /// Takes an address away; one that is not there is fine.
        pub fn remove_address(&mut self, name: &str, address: Ipv4Net) -> Result<()> {
            let message = address_message(index(name)?, address);
            let doing = || format!("take {address} from interface {name}");
            gone(self.socket.request(RTM_DELADDR, CHANGE, &message, doing), libc::EADDRNOTAVAIL)
        }

        /// Takes the default route on an interface away; one that is not there is fine.
        pub fn remove_default_route(&mut self, name: &str) -> Result<()> {
            let mut message = default_route_message();
            message.attributes = vec![RouteAttribute::Oif(index(name)?)];
            let doing = || format!("take the default route from {name}");
            gone(self.socket.request(RTM_DELROUTE, CHANGE, &message, doing), libc::ESRCH)
        }
    }

    /// An outcome in which `errno` means that there was nothing to remove.
    fn gone(outcome: Result<()>, errno: i32) -> Result<()> {
        match outcome {
            Err(error) if error.errno() == Some(errno) => Ok(()),
            outcome => outcome,
        }
    }

    fn wire_mode(mode: BondMode) -> WireMode {
        match mode {
            BondMode::BalanceRr => WireMode::BalanceRr,
            BondMode::ActiveBackup => WireMode::ActiveBackup,
            BondMode::BalanceXor => WireMode::BalanceXor,
            BondMode::Broadcast => WireMode::Broadcast,
            BondMode::Lacp => WireMode::Ieee8023Ad,
            BondMode::BalanceTlb => WireMode::BalanceTlb,
            BondMode::BalanceAlb => WireMode::BalanceAlb,
        }
    }

    /// The Ethernet address of an interface.
    pub fn mac_of(name: &str) -> Result<[u8; 6]> {
        mac(&read(name, "address")?)
    }

    fn mac(text: &str) -> Result<[u8; 6]> {
        text.parse::<thimble_spec::names::Mac>().map(|mac| mac.0).map_err(|error| Error::Said(error.to_string()))
    }

    /// The index of an interface.
    pub fn index_of(name: &str) -> Result<u32> {
        index(name)
    }
}
