//! What a guest's PID 1 tells of its guest when the VMM asks for it: the words behind `seen NUMBER` (see [`crate::vmm`]), in
//! this order, each without a space in it:
//!
//! | word | what |
//! | --- | --- |
//! | `12.34` | seconds since its kernel started |
//! | `0.00,0.01,0.05` | load averages over 1, 5 and 15 minutes |
//! | `62000` | its memory in KiB, as its kernel counts it |
//! | `41000` | what of that is available |
//! | `1763900000123` | its clock, in milliseconds since 1970 |
//! | `10.1.1.11/24,fe80::1/64` | its addresses, the loopback's left out; `-` is none |
//!
//! A guest may say anything: what is not in these bounds is not read.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ip::IpNet;

/// Most addresses that are told, the first ones.
pub const ADDRESSES_MAX: usize = 16;
/// The longest line: addresses of IPv6 have up to 43 characters with their prefix.
pub const LINE_MAX: usize = 1024;

/// What a guest is like from the inside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Inside {
    /// Seconds since its kernel started.
    pub uptime_s: f64,
    /// Load averages over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// Its memory in KiB, as its kernel counts it.
    pub memory_kib: u64,
    /// What of that is available.
    pub available_kib: u64,
    /// Its clock, in milliseconds since 1970.
    pub clock_ms: u64,
    /// Its addresses, the loopback's left out.
    pub addresses: Vec<IpNet>,
}

impl fmt::Display for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [one, five, fifteen] = self.load;
        write!(f, "{:.2} {one:.2},{five:.2},{fifteen:.2} ", self.uptime_s)?;
        write!(f, "{} {} {} ", self.memory_kib, self.available_kib, self.clock_ms)?;
        let addresses: Vec<String> = self.addresses.iter().take(ADDRESSES_MAX).map(IpNet::to_string).collect();
        f.write_str(if addresses.is_empty() { "-" } else { "" })?;
        f.write_str(&addresses.join(","))
    }
}

/// It is none of those words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not what a guest is like")]
pub struct InsideError;

impl FromStr for Inside {
    type Err = InsideError;

    fn from_str(text: &str) -> Result<Self, InsideError> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let [uptime, load, memory, available, clock, addresses] = words[..] else { return Err(InsideError) };
        let load: Vec<f64> = load.split(',').map(number).collect::<Result<_, _>>()?;
        let addresses: Vec<IpNet> = match addresses {
            "-" => Vec::new(),
            list => list.split(',').map(|net| net.parse().map_err(|_| InsideError)).collect::<Result<_, _>>()?,
        };
        if addresses.len() > ADDRESSES_MAX {
            return Err(InsideError);
        }
        Ok(Self {
            uptime_s: number(uptime)?,
            load: load.try_into().map_err(|_| InsideError)?,
            memory_kib: count(memory)?,
            available_kib: count(available)?,
            clock_ms: count(clock)?,
            addresses,
        })
    }
}

/// A number that can be written again.
fn number(text: &str) -> Result<f64, InsideError> {
    text.parse().ok().filter(|number| (0.0..1e12).contains(number)).ok_or(InsideError)
}

/// One that JSON's readers keep whole.
fn count(text: &str) -> Result<u64, InsideError> {
    text.parse().ok().filter(|count| *count < 1 << 53).ok_or(InsideError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn web1() -> Inside {
        Inside {
            uptime_s: 12.34,
            load: [0.0, 0.01, 0.05],
            memory_kib: 62_000,
            available_kib: 41_000,
            clock_ms: 1_763_900_000_123,
            addresses: vec!["10.1.1.11/24".parse().unwrap(), "fe80::1/64".parse().unwrap()],
        }
    }

    #[test]
    fn the_line_is_a_contract() {
        let line = "12.34 0.00,0.01,0.05 62000 41000 1763900000123 10.1.1.11/24,fe80::1/64";
        assert_eq!((web1().to_string().as_str(), line.parse()), (line, Ok(web1())));
        let none = Inside { addresses: Vec::new(), ..web1() };
        assert_eq!(none.to_string().parse(), Ok(none));
        let many = Inside { addresses: vec!["fe80:1:2:3:4:5:6:7/128".parse().unwrap(); 99], ..web1() };
        assert!(many.to_string().len() < LINE_MAX - 32);
        assert_eq!(many.to_string().parse::<Inside>().unwrap().addresses.len(), ADDRESSES_MAX);
    }

    #[test]
    fn anything_else_is_not_read() {
        for text in [
            "",
            "1 0,0,0 1 1 1",
            "1 0,0,0 1 1 1 - -",
            "-1 0,0,0 1 1 1 -",
            "nan 0,0,0 1 1 1 -",
            "inf 0,0,0 1 1 1 -",
            "1 0,0 1 1 1 -",
            "1 0,0,0,0 1 1 1 -",
            "1 0,0,0 -1 1 1 -",
            "1 0,0,0 1 9007199254740992 1 -",
            "1 0,0,0 1 1 1 10.1.1.11",
            "1 0,0,0 1 1 1 10.1.1.11/24,",
        ] {
            assert_eq!(text.parse::<Inside>(), Err(InsideError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_and_read_again(text in "[0-9.]{1,6} [0-9]{1,3},[0-9.]{1,3},[0-9]{1,9}( [0-9]{1,16}){3} (-|10[.]1[.]1[.][0-9]{1,3}/24)") {
            if let Ok(inside) = text.parse::<Inside>() {
                let again: Inside = inside.to_string().parse().unwrap();
                prop_assert_eq!(again.to_string(), inside.to_string());
                prop_assert_eq!((again.clock_ms, again.addresses), (inside.clock_ms, inside.addresses));
            }
        }

        #[test]
        fn any_line_is_safe(text in any::<String>()) {
            let _ = text.parse::<Inside>();
        }
    }
}
