//! Where the server listens: one address of one interface of this machine, and nowhere else.

use std::net::Ipv4Addr;

use nix::ifaddrs::getifaddrs;

use crate::error::{Error, Result};

/// An interface and the address on it that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// `eth0`.
    pub interface: String,
    /// Ours on it.
    pub address: Ipv4Addr,
    /// Its network's mask.
    pub mask: Ipv4Addr,
}

impl Place {
    /// What `--on` means: the name of an interface (its first address is taken) or one of this machine's addresses.
    ///
    /// # Errors
    /// There is no such interface or address here.
    pub fn find(on: &str) -> Result<Self> {
        let found = addresses()?;
        if let Ok(address) = on.parse::<Ipv4Addr>() {
            if address.is_unspecified() {
                return Err(Error::Usage(format!(
                    "--on {on}: that is every network this machine is in: name one interface or one address"
                )));
            }
            return found.into_iter().find(|place| place.address == address).ok_or_else(|| {
                Error::Usage(format!("--on {on}: this machine has no such address: see `ip -4 address`"))
            });
        }
        if let Some(place) = found.into_iter().find(|place| place.interface == on) {
            return Ok(place);
        }
        Err(Error::Usage(match nix::net::if_::if_nametoindex(on) {
            Ok(_) => {
                format!("--on {on}: it has no IPv4 address: `ip address add 192.168.77.1/24 dev {on}` gives it one")
            }
            Err(_) => format!("--on {on}: there is no such interface: see `ip link`"),
        }))
    }

    /// Whether an address lies in the network of this place.
    pub fn reaches(&self, address: Ipv4Addr) -> bool {
        (u32::from(address) ^ u32::from(self.address)) & u32::from(self.mask) == 0
    }
}

fn addresses() -> Result<Vec<Place>> {
    let all = getifaddrs().map_err(|error| Error::environment(format!("cannot list the interfaces: {error}")))?;
    let places = all.filter_map(|interface| {
        let address = interface.address?.as_sockaddr_in()?.ip();
        let mask = interface.netmask?.as_sockaddr_in()?.ip();
        Some(Place { interface: interface.interface_name, address, mask })
    });
    Ok(places.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_or_an_address_of_this_machine_and_nothing_else() {
        let loopback = Place::find("127.0.0.1").unwrap();
        assert_eq!(Place::find(&loopback.interface).unwrap(), loopback);
        assert!(loopback.reaches(Ipv4Addr::new(127, 9, 9, 9)) && !loopback.reaches(Ipv4Addr::new(128, 0, 0, 1)));
        let told = |on| Place::find(on).unwrap_err().to_string();
        assert!(told("0.0.0.0").contains("name one interface"));
        assert!(told("192.0.2.7").contains("no such address"));
        assert!(told("nowhere7").contains("no such interface"));
    }
}
