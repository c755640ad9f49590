//! Names, MAC addresses and IPv4 networks: the small values that several rooms must read alike.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest name of a guest or an appliance: a DNS label (RFC 1035, section 2.3.4).
pub const NAME_MAX: usize = 63;

/// Longest name of a network interface: `IFNAMSIZ` less the final zero (linux/if.h).
pub const INTERFACE_NAME_MAX: usize = 15;

/// Says what keeps `name` from being the name of a guest or an appliance: both become host names, so they are DNS
/// labels (RFC 1123, section 2.1) in lower case.
pub fn check_name(name: &str) -> Result<(), NameError> {
    let ends_well = |byte: Option<&u8>| byte.is_some_and(|byte| *byte != b'-');
    let bytes = name.as_bytes();
    if bytes.len() <= NAME_MAX
        && ends_well(bytes.first())
        && ends_well(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
    {
        Ok(())
    } else {
        Err(NameError(name.to_owned()))
    }
}

/// A name that cannot be a host name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a host name: use 1 to 63 lower-case letters, digits and inner hyphens")]
pub struct NameError(String);

/// Says what keeps `name` from being the name of a network interface.
pub fn check_interface(name: &str) -> Result<(), InterfaceNameError> {
    let fits = (1..=INTERFACE_NAME_MAX).contains(&name.len()) && name != "." && name != "..";
    if fits && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')) {
        Ok(())
    } else {
        Err(InterfaceNameError(name.to_owned()))
    }
}

/// A name that the kernel would not take for an interface.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an interface name: use 1 to 15 letters, digits, `-`, `_` and `.`")]
pub struct InterfaceNameError(String);

/// A number made from bytes, for names that must come out the same every time: FNV-1a, 64 bits
/// (draft-eastlake-fnv, section 2). Not for anything that an attacker must not predict.
pub fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    bytes.into_iter().fold(OFFSET_BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

/// The name of a guest's tap on the host: `tap-NAME` where that fits the kernel's limit, else with a hash of the name.
pub fn tap_name(guest: &str) -> String {
    const PREFIX: &str = "tap-";
    if PREFIX.len() + guest.len() <= INTERFACE_NAME_MAX {
        return format!("{PREFIX}{guest}");
    }
    // Its lower 40 bits print as ten digits, `.` keeps them apart from any guest's real name.
    format!("{PREFIX}.{:010x}", fnv1a(guest.bytes()) & 0xff_ffff_ffff)
}

/// What a macvtap is opened by: the driver names the device after the interface's index, and no other interface has one
/// (drivers/net/macvtap.c).
pub fn macvtap_device(index: u32) -> String {
    format!("/dev/tap{index}")
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

/// Text that is not a usable Ethernet address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a MAC address of one interface: write six pairs of hexadecimal digits, such as 02:00:00:00:00:01"
)]
pub struct MacError(String);

impl Mac {
    /// The address that a guest has when its definition gives none: locally administered (IEEE 802, bit 1 of the first
    /// octet), and the same at every build, for it comes from the two names alone ([`fnv1a`]).
    pub fn derived(appliance: &str, guest: &str) -> Self {
        let hash = fnv1a(appliance.bytes().chain([0]).chain(guest.bytes()));
        let [a, b, c, d, e, ..] = hash.to_le_bytes();
        Self([0x02, a, b, c, d, e])
    }

    /// Whether this is a group address, which no interface may have as its own.
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let error = || MacError(text.to_owned());
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or_else(error)?;
            if part.len() != 2 || !part.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(error());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| error())?;
        }
        let mac = Self(octets);
        if parts.next().is_some() || mac.is_multicast() || octets == [0; 6] {
            return Err(error());
        }
        Ok(mac)
    }
}

/// An IPv4 address with the length of its network's prefix: `10.1.1.2/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv4Net {
    /// The address of the interface.
    pub address: Ipv4Addr,
    /// The prefix length in bits, 0 to 32.
    pub prefix: u8,
}

/// Text that is not an address with a prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an IPv4 address with a prefix: write it as 10.1.1.2/24")]
pub struct Ipv4NetError(String);

impl Ipv4Net {
    /// The network mask.
    pub fn netmask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0))
    }

    /// The network's own address.
    pub fn network(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() & self.netmask().to_bits())
    }

    /// The network's broadcast address.
    pub fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() | !self.netmask().to_bits())
    }

    /// Whether `other` is on the same link.
    pub fn contains(self, other: Ipv4Addr) -> bool {
        other.to_bits() & self.netmask().to_bits() == self.network().to_bits()
    }

    /// Whether a host may have this address: neither the network's own nor its broadcast address (RFC 1122, section
    /// 3.2.1.3; networks of one or two addresses have neither, RFC 3021).
    pub fn is_host(self) -> bool {
        self.prefix >= 31 || (self.address != self.network() && self.address != self.broadcast())
    }
}

impl fmt::Display for Ipv4Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Ipv4Net {
    type Err = Ipv4NetError;

    fn from_str(text: &str) -> Result<Self, Ipv4NetError> {
        let error = || Ipv4NetError(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(error)?;
        let prefix: u8 = prefix.parse().map_err(|_| error())?;
        if prefix > 32 {
            return Err(error());
        }
        Ok(Self { address: address.parse().map_err(|_| error())?, prefix })
    }
}

/// Serialize and deserialize a type by its text form.
macro_rules! serde_by_text {
    ($($type:ty),+) => {$(
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}
serde_by_text!(Mac, Ipv4Net);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tap_names_fit_and_differ() {
        let names = ["web1", "a-very-long-guest-name-1", "a-very-long-guest-name-2"].map(tap_name);
        assert_eq!(names[0], "tap-web1");
        assert_ne!(names[1], names[2]);
        for name in names {
            assert_eq!(check_interface(&name), Ok(()));
        }
    }

    #[test]
    fn names_are_dns_labels() {
        for good in ["web1", "a", "db-2", "0"] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", "Web", "-a", "a-", "a.b", "a b", "../x", &"a".repeat(64)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_network_knows_its_ends() {
        let net: Ipv4Net = "10.1.1.11/24".parse().unwrap();
        assert_eq!(net.network(), Ipv4Addr::new(10, 1, 1, 0));
        assert_eq!(net.broadcast(), Ipv4Addr::new(10, 1, 1, 255));
        assert!(net.contains(Ipv4Addr::new(10, 1, 1, 1)));
        assert!(!net.contains(Ipv4Addr::new(10, 1, 2, 1)));
        assert!(!"10.1.1.0/24".parse::<Ipv4Net>().unwrap().is_host());
        assert!("10.1.1.0/31".parse::<Ipv4Net>().unwrap().is_host());
        assert_eq!("0.0.0.0/0".parse::<Ipv4Net>().unwrap().netmask(), Ipv4Addr::UNSPECIFIED);
    }

    #[test]
    fn a_derived_mac_is_stable_local_and_unicast() {
        let mac = Mac::derived("demo", "web1");
        assert_eq!(mac, Mac::derived("demo", "web1"));
        assert_ne!(mac, Mac::derived("demo", "web2"));
        assert_ne!(Mac::derived("a", "bc"), Mac::derived("ab", "c"));
        assert_eq!(mac.0[0] & 3, 2);
    }

    #[test]
    fn group_and_broken_macs_are_refused() {
        for bad in
            ["ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "00:00:00:00:00:00", "2:0:0:0:0:1", "02:00:00:00:00:01:02"]
        {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn networks_round_trip(bits in any::<u32>(), prefix in 0u8..=32) {
            let net = Ipv4Net { address: Ipv4Addr::from_bits(bits), prefix };
            prop_assert_eq!(net.to_string().parse(), Ok(net));
            prop_assert!(net.contains(net.network()) && net.contains(net.broadcast()));
        }
    }
}
