//! Addresses of both families with the length of their network's prefix.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::names::Ipv4Net;

/// An address with the length of its network's prefix: `10.1.1.2/24`, `2001:db8::2/64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpNet {
    /// The address.
    pub address: IpAddr,
    /// The prefix length in bits: 0 to 32, or to 128.
    pub prefix: u8,
}

/// Text that is not an address with a prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an IPv4 or IPv6 address with a prefix: write it as 10.1.1.2/24 or as 2001:db8::2/64")]
pub struct IpNetError(String);

impl IpNet {
    /// Everything of a family: what a default route leads to.
    pub fn everything(v6: bool) -> Self {
        let address = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        Self { address, prefix: 0 }
    }

    /// Whether it is of IPv6.
    pub fn is_v6(self) -> bool {
        self.address.is_ipv6()
    }

    /// The same as an IPv4 network.
    pub fn v4(self) -> Option<Ipv4Net> {
        match self.address {
            IpAddr::V4(address) => Some(Ipv4Net { address, prefix: self.prefix }),
            IpAddr::V6(_) => None,
        }
    }

    /// The network that it lies in: all bits behind the prefix are zero.
    pub fn network(self) -> Self {
        let address = match self.address {
            IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() & self.mask_v4()).into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & self.mask_v6()).into(),
        };
        Self { address, ..self }
    }

    /// Whether `other` is on the same link.
    pub fn contains(self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(own), IpAddr::V4(other)) => (own.to_bits() ^ other.to_bits()) & self.mask_v4() == 0,
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits() ^ other.to_bits()) & self.mask_v6() == 0,
            _ => false,
        }
    }

    /// Whether the two networks have an address in common.
    pub fn overlaps(self, other: Self) -> bool {
        if self.prefix <= other.prefix { self.contains(other.address) } else { other.contains(self.address) }
    }

    /// Whether a machine may have this address: none of a group, and of IPv4 neither the network's own nor its broadcast
    /// address ([`Ipv4Net::is_host`]).
    pub fn is_host(self) -> bool {
        let special = self.address.is_multicast() || self.address.is_unspecified();
        !special && self.v4().is_none_or(Ipv4Net::is_host)
    }

    fn mask_v4(self) -> u32 {
        u32::MAX.checked_shl(32u32.saturating_sub(self.prefix.into())).unwrap_or(0)
    }

    fn mask_v6(self) -> u128 {
        u128::MAX.checked_shl(128u32.saturating_sub(self.prefix.into())).unwrap_or(0)
    }
}

impl From<Ipv4Net> for IpNet {
    fn from(net: Ipv4Net) -> Self {
        Self { address: net.address.into(), prefix: net.prefix }
    }
}

/// Whether an address is good on its own link only (RFC 4291, section 2.5.6: fe80::/10).
pub fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.segments()[0] & 0xffc0 == 0xfe80)
}

impl fmt::Display for IpNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for IpNet {
    type Err = IpNetError;

    fn from_str(text: &str) -> Result<Self, IpNetError> {
        let error = || IpNetError(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(error)?;
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let prefix: u8 = prefix.parse().map_err(|_| error())?;
        if prefix > if address.is_ipv6() { 128 } else { 32 } {
            return Err(error());
        }
        Ok(Self { address, prefix })
    }
}

impl Serialize for IpNet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for IpNet {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn networks_overlap_where_one_holds_the_other() {
        assert!(net("10.1.0.0/16").overlaps(net("10.1.7.1/24")) && net("10.1.7.1/24").overlaps(net("10.1.0.0/16")));
        assert!(!net("10.1.0.0/24").overlaps(net("10.1.1.1/24")));
        assert!(!net("10.1.0.0/0").overlaps(net("::/0")));
        assert!(net("2001:db8::1/64").contains("2001:db8::ffff".parse().unwrap()));
        assert_eq!(net("2001:db8:0:0:1::/64").network(), net("2001:db8::/64"));
    }

    #[test]
    fn some_addresses_are_no_hosts() {
        for bad in ["10.1.1.0/24", "10.1.1.255/24", "224.0.0.1/8", "ff02::1/64", "::/64", "0.0.0.0/0"] {
            assert!(!net(bad).is_host(), "{bad}");
        }
        assert!(net("2001:db8::/64").address.is_ipv6() && net("10.1.1.0/31").is_host());
        for bad in ["10.1.1.1", "10.1.1.1/33", "::1/129", "x/1", "::1/-1"] {
            assert!(bad.parse::<IpNet>().is_err(), "{bad}");
        }
        assert!(is_link_local("fe80::1".parse().unwrap()) && !is_link_local("10.1.1.1".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn they_round_trip(bits in any::<u128>(), v4 in any::<bool>(), prefix in 0u8..=128) {
            let address: IpAddr =
                if v4 { Ipv4Addr::from_bits(bits as u32).into() } else { Ipv6Addr::from_bits(bits).into() };
            let net = IpNet { address, prefix: if v4 { prefix / 4 } else { prefix } };
            prop_assert_eq!(net.to_string().parse(), Ok(net));
            prop_assert!(net.contains(net.network().address) && net.overlaps(net));
        }
    }
}
