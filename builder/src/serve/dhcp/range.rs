//! The addresses that may be given away: `192.168.77.100-192.168.77.199`.

use std::net::Ipv4Addr;
use std::str::FromStr;

/// A small rack, and room; every address costs memory once it is given away, and a look when nearly all are.
const MOST: u32 = 4096;

/// First and last address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub first: Ipv4Addr,
    /// The last, itself included.
    pub last: Ipv4Addr,
}

impl Range {
    /// How many there are.
    pub fn count(self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }

    /// Whether `address` is one of them.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&address)
    }

    /// The one at `index`, counted round and round.
    pub fn at(self, index: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.first) + index % self.count())
    }
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').ok_or("write it as FIRST-LAST, two IPv4 addresses")?;
        let address = |text: &str| -> Result<Ipv4Addr, String> {
            text.trim().parse().map_err(|_| format!("`{text}` is no IPv4 address"))
        };
        let range = Self { first: address(first)?, last: address(last)? };
        if range.first > range.last {
            return Err(format!("{} comes after {}", range.first, range.last));
        }
        if u32::from(range.last) - u32::from(range.first) >= MOST {
            return Err(format!("that is more than {MOST} addresses"));
        }
        Ok(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_two_addresses() {
        let range: Range = "10.0.0.250-10.0.1.4".parse().unwrap();
        assert_eq!(range.count(), 11);
        assert_eq!(range.at(6), Ipv4Addr::new(10, 0, 1, 0));
        assert_eq!(range.at(11), range.first);
        assert!(range.contains(range.last) && !range.contains(Ipv4Addr::new(10, 0, 1, 5)));
        let one: Range = "10.0.0.1-10.0.0.1".parse().unwrap();
        assert_eq!((one.count(), one.at(u32::MAX)), (1, one.first));
        for bad in ["", "10.0.0.1", "10.0.0.2-10.0.0.1", "a-b", "0.0.0.0-255.255.255.255", "10.0.0.0/24"] {
            assert!(bad.parse::<Range>().is_err(), "{bad}");
        }
    }
}
