//! All addresses that there are, with as much of a parser as that takes: a guest's PID 1 is small.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::NlasIterator;
use netlink_packet_route::address::AddressMessage;
use thimble_spec::ip::IpNet;

use super::socket::RouteSocket;
use crate::error::Result;

/// A request for addresses (linux/rtnetlink.h).
const RTM_GETADDR: u16 = 22;
// Attributes of an address (linux/if_addr.h): the other end's, or its own where there is none; its own.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// All of them, but for the loopback's.
pub fn all() -> Result<Vec<IpNet>> {
    let messages = dump(&mut RouteSocket::open()?)?;
    Ok(messages.iter().filter_map(|message| of(message)).filter(|net| !net.address.is_loopback()).collect())
}

/// Asks for all, as the kernel tells them.
pub(super) fn dump(socket: &mut RouteSocket) -> Result<Vec<Vec<u8>>> {
    socket.dump(RTM_GETADDR, &AddressMessage::default(), "addresses")
}

/// The address in a message: `struct ifaddrmsg`, which begins with family and prefix, and attributes behind it.
fn of(message: &[u8]) -> Option<IpNet> {
    let (&[_, prefix, ..], attributes) = message.split_first_chunk::<8>()?;
    let (mut own, mut other) = (None, None);
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute.ok()?;
        match attribute.kind() {
            IFA_LOCAL => own = ip(attribute.value()),
            IFA_ADDRESS => other = ip(attribute.value()),
            _ => {}
        }
    }
    Some(IpNet { address: own.or(other)?, prefix })
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = bytes.try_into().ok().map(|bytes: [u8; 4]| Ipv4Addr::from(bytes).into());
    v4.or_else(|| bytes.try_into().ok().map(|bytes: [u8; 16]| Ipv6Addr::from(bytes).into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_address_is_its_own_end() {
        let attribute = |kind: u8, address: [u8; 4]| [[8, 0, kind, 0], address].concat();
        let header = [2, 24, 0, 0, 2, 0, 0, 0].to_vec();
        let alone = [header.clone(), attribute(1, [10, 1, 1, 11])].concat();
        assert_eq!(of(&alone), Some("10.1.1.11/24".parse().unwrap()));
        let both = [header.clone(), attribute(1, [10, 1, 1, 1]), attribute(2, [10, 1, 1, 11])].concat();
        assert_eq!(of(&both), Some("10.1.1.11/24".parse().unwrap()));
        assert_eq!(of(&header), None);
        assert!(all().unwrap().iter().all(|net| !net.address.is_loopback()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(bytes in any::<Vec<u8>>()) {
            let _ = of(&bytes);
        }
    }
}
