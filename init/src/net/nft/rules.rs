//! Tables, chains and rules as data.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use thimble_spec::ip::IpNet;

/// Whose packets a table sees (`NFPROTO_*`, linux/netfilter.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// Those of IPv4 and IPv6 that the host itself receives or forwards.
    Inet = 1,
    /// Frames that bridges pass on, and those that they give to the host.
    Bridge = 7,
}

/// A table: everything in it goes and comes at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Whose packets it sees.
    pub family: Family,
    /// Its chains; one that is jumped to comes before the jump.
    pub chains: Vec<Chain>,
}

impl Table {
    /// The counters that its rules name.
    pub fn counters(&self) -> BTreeSet<&str> {
        let rules = self.chains.iter().flat_map(|chain| &chain.rules);
        rules.filter_map(|rule| rule.counter.as_deref()).collect()
    }
}

/// A chain of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Where packets come into it; none for one that others jump to.
    pub hook: Option<Hook>,
    /// In order.
    pub rules: Vec<Rule>,
}

/// Where packets come into a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// `filter` or `nat`.
    pub kind: &'static str,
    /// `NF_INET_*`, which `NF_BR_*` are alike.
    pub number: u32,
    /// Among others at the same place; the lower, the earlier.
    pub priority: i32,
    /// What no rule decides is dropped.
    pub drops: bool,
}

/// What all of `matches` hold for is counted, and then something is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// All must hold.
    pub matches: Vec<Match>,
    /// The counter that it adds to.
    pub counter: Option<String>,
    /// What is done.
    pub then: Then,
}

/// What is done with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Then {
    /// It passes this hook.
    Accept,
    /// It is gone.
    Drop,
    /// The rules of another chain decide; what they leave open comes back.
    Jump(String),
    /// It leaves under the address of the interface that it leaves by.
    Masquerade,
    /// It goes to this address and port.
    SendTo(Ipv4Addr, u16),
}

/// A condition: the bits of `mask` in a value of the packet's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// Which value.
    pub key: Key,
    /// Which bits of it count, if not all.
    pub mask: Option<Vec<u8>>,
    /// They are (or, `differs`, are not) these.
    pub value: Vec<u8>,
    /// They must not be these.
    pub differs: bool,
}

/// A value of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// `NFT_META_*`.
    Meta(u32),
    /// `NFT_CT_*`.
    Connection(u32),
    /// What the address that it is for is to the host: `RTN_*` (linux/rtnetlink.h).
    Destination,
    /// Bytes: `NFT_PAYLOAD_*`, the place behind the header's beginning, their number.
    Payload(u32, u32, u32),
}

/// Headers (`enum nft_payload_bases`).
const LINK: u32 = 0;
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
/// Length of an interface's name with its zeros (`IFNAMSIZ`, linux/if.h).
const IFNAMSIZ: usize = 16;

impl Match {
    fn new(key: Key, value: &[u8]) -> Self {
        Self { key, mask: None, value: value.to_vec(), differs: false }
    }

    /// The opposite.
    pub fn not(self) -> Self {
        Self { differs: !self.differs, ..self }
    }

    /// The interface that it came by.
    pub fn from_interface(name: &str) -> Self {
        Self::new(Key::Meta(6), &interface(name))
    }

    /// The interface that it leaves by.
    pub fn to_interface(name: &str) -> Self {
        Self::new(Key::Meta(7), &interface(name))
    }

    /// It is for an address of the host: `RTN_LOCAL`.
    pub fn to_the_host() -> Self {
        Self::new(Key::Destination, &2u32.to_ne_bytes())
    }

    /// [`Then::SendTo`] has changed where its connection leads: `IPS_DST_NAT` in its status.
    pub fn translated() -> Self {
        let none = Self::new(Key::Connection(2), &0u32.to_ne_bytes());
        Self { mask: Some(0x20u32.to_ne_bytes().to_vec()), ..none }.not()
    }

    /// EtherType of the frame, inside its VLAN tag.
    pub fn ether_type(number: u16) -> Self {
        Self::new(Key::Meta(1), &number.to_be_bytes())
    }

    /// IPv4 (2) or IPv6 (10), where both can be.
    pub fn family(v6: bool) -> Self {
        Self::new(Key::Meta(15), &[if v6 { 10 } else { 2 }])
    }

    /// Protocol behind the IP header.
    pub fn protocol(number: u8) -> Self {
        Self::new(Key::Meta(16), &[number])
    }

    /// One of the states in `bits` (`NF_CT_STATE_BIT`): 1 invalid, 2 established, 4 related, 8 new.
    pub fn connection_in(bits: u32) -> Self {
        let none = Self::new(Key::Connection(0), &0u32.to_ne_bytes());
        Self { mask: Some(bits.to_ne_bytes().to_vec()), ..none }.not()
    }

    /// Bytes of the Ethernet header.
    pub fn link(offset: u32, value: &[u8]) -> Self {
        Self::payload(LINK, offset, value)
    }

    /// Bytes of the IP or ARP header.
    pub fn network(offset: u32, value: &[u8]) -> Self {
        Self::payload(NETWORK, offset, value)
    }

    /// Bytes of what is behind the IP header.
    pub fn transport(offset: u32, value: &[u8]) -> Self {
        Self::payload(TRANSPORT, offset, value)
    }

    /// An address in a network, at this place of the IP or ARP header.
    pub fn address_in(offset: u32, net: IpNet) -> Self {
        Self::network(offset, &octets(net.network().address)).masked(net)
    }

    /// The same behind the IP header.
    pub fn inner_address_in(offset: u32, net: IpNet) -> Self {
        Self::transport(offset, &octets(net.network().address)).masked(net)
    }

    fn masked(self, net: IpNet) -> Self {
        let length = self.value.len() * 8;
        if usize::from(net.prefix) == length {
            return self;
        }
        let all: IpNet = IpNet { address: ones(net.is_v6()), prefix: net.prefix };
        Self { mask: Some(octets(all.network().address)), ..self }
    }

    fn payload(base: u32, offset: u32, value: &[u8]) -> Self {
        // Values are a few bytes long.
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        Self::new(Key::Payload(base, offset, length), value)
    }
}

/// A name as the kernel compares it.
fn interface(name: &str) -> [u8; IFNAMSIZ] {
    let mut bytes = [0; IFNAMSIZ];
    bytes.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    bytes
}

fn ones(v6: bool) -> IpAddr {
    if v6 { IpAddr::from([0xff_u8; 16]) } else { IpAddr::from([0xff_u8; 4]) }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
