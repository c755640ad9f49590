//! The headers of IPv4 (RFC 791) and UDP (RFC 768) around a message: an interface without an address cannot use a UDP
//! socket.

use std::net::Ipv4Addr;

/// The server's port.
pub const SERVER_PORT: u16 = 67;
/// The client's port.
pub const CLIENT_PORT: u16 = 68;

const IP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const PROTOCOL_UDP: u8 = 17;
const TIME_TO_LIVE: u8 = 64;

/// A datagram from nobody to everybody; none if the message is too long for one.
pub fn wrap(message: &[u8]) -> Option<Vec<u8>> {
    let udp_length = u16::try_from(UDP_HEADER + message.len()).ok()?;
    let length = u16::try_from(IP_HEADER + UDP_HEADER + message.len()).ok()?;
    let (source, target) = (Ipv4Addr::UNSPECIFIED.octets(), Ipv4Addr::BROADCAST.octets());
    let mut packet = Vec::with_capacity(usize::from(length));
    packet.extend([0x45, 0]);
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0, 0, 0, TIME_TO_LIVE, PROTOCOL_UDP, 0, 0]);
    packet.extend(source);
    packet.extend(target);
    let checksum = checksum(&packet);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(CLIENT_PORT.to_be_bytes());
    packet.extend(SERVER_PORT.to_be_bytes());
    packet.extend(udp_length.to_be_bytes());
    // A UDP checksum of zero means that there is none (RFC 768).
    packet.extend([0, 0]);
    packet.extend(message);
    Some(packet)
}

/// The message in a datagram from a server to a client; everything else is `None`. UDP's checksum is not looked at: a
/// server on the same machine leaves it to a network card that is not there.
pub fn unwrap(packet: &[u8]) -> Option<&[u8]> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let field = |at: usize| packet.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    let length = usize::from(field(2)?);
    // More fragments follow, or this is not the first.
    let fragment = field(6)? & 0x3fff != 0;
    if packet[0] >> 4 != 4 || header < IP_HEADER || fragment || *packet.get(9)? != PROTOCOL_UDP {
        return None;
    }
    if checksum(packet.get(..header)?) != 0 {
        return None;
    }
    let udp = packet.get(header..length)?;
    let field = |at: usize| udp.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    if field(0)? != SERVER_PORT || field(2)? != CLIENT_PORT {
        return None;
    }
    udp.get(UDP_HEADER..usize::from(field(4)?))
}

/// The internet checksum (RFC 1071); over a header that holds its own it is 0.
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |byte| u32::from(*byte));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A question as the server that answers would send it.
    fn answer(message: &[u8]) -> Vec<u8> {
        let mut packet = wrap(message).unwrap();
        packet[20..24].copy_from_slice(&[0, 67, 0, 68]);
        packet
    }

    #[test]
    fn the_example_of_a_checksum() {
        // RFC 1071, section 3: the sum of these words is ddf2.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    #[test]
    fn only_a_servers_datagram_counts() {
        let packet = answer(b"hello");
        assert_eq!(unwrap(&packet), Some(&b"hello"[..]));
        let padded = [&packet[..], &[0; 13]].concat();
        assert_eq!(unwrap(&padded), Some(&b"hello"[..]), "Ethernet pads short frames");
        assert_eq!(unwrap(&wrap(b"hello").unwrap()), None, "another client's question");
        for damaged in [0, 2, 6, 9, 10, 16, 24] {
            let mut packet = packet.clone();
            packet[damaged] ^= 0x21;
            assert_eq!(unwrap(&packet), None, "byte {damaged}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            unwrap(&bytes);
        }

        #[test]
        fn what_was_wrapped_is_unwrapped(message in prop::collection::vec(any::<u8>(), 0..1500)) {
            let packet = answer(&message);
            prop_assert_eq!(unwrap(&packet), Some(&message[..]));
        }
    }
}
