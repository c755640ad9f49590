//! What a client sends, as far as we look at it (RFC 2131 section 2, RFC 4578, the PXE specification 2.1 section 2.2).
//!
//! Only `dhcproto`'s lazy view is used, and options are taken as bytes: its full decoder trusts the lengths of some options
//! that nobody here needs (a route of option 121 with a prefix of more than 32 bits ends it by a panic).

use std::net::Ipv4Addr;

use dhcproto::v4::borrowed::Message;
use dhcproto::v4::{HType, MessageType, Opcode, OptionCode};

use crate::serve::boot::{Arch, Asker};
use crate::serve::event::Mac;

/// Bytes of a hardware address field.
const CHADDR: usize = 16;
/// Bytes of option 97: a type and a UUID (RFC 4578 section 2.3).
const UUID: usize = 17;
/// The longest option 61 that is sent back. Those of firmware have 7 or 17 bytes; longer ones would not fit an answer.
const LONGEST_ID: usize = 64;
/// Option 175 (iPXE's own): sub-option 19 says that it has HTTP.
const IPXE_ENCAPSULATED: u8 = 175;
const IPXE_HTTP: u8 = 19;

/// What sort of machine sends it: the start of option 60.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// `PXEClient`.
    Pxe,
    /// `HTTPClient`.
    Http,
}

impl Class {
    /// As it stands in option 60.
    pub fn text(self) -> &'static str {
        match self {
            Self::Pxe => "PXEClient",
            Self::Http => "HTTPClient",
        }
    }
}

/// A client's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Which kind.
    pub kind: MessageType,
    /// The exchange that it belongs to.
    pub xid: u32,
    /// The flags as they came.
    pub flags: u16,
    /// The client's address, if it has one.
    pub ciaddr: Ipv4Addr,
    /// The relay's, if there is one.
    pub giaddr: Ipv4Addr,
    /// The card's.
    pub mac: Mac,
    /// What it boots by, if it boots from the network.
    pub class: Option<Class>,
    /// Option 93, else what option 60 says.
    pub arch: Option<Arch>,
    /// It is iPXE, and whether that has HTTP.
    pub ipxe: Option<bool>,
    /// Option 50.
    pub requested: Option<Ipv4Addr>,
    /// Option 54.
    pub server: Option<Ipv4Addr>,
    /// Option 97, which is sent back.
    pub uuid: Option<Vec<u8>>,
    /// Option 61, which is sent back (RFC 6842).
    pub client_id: Option<Vec<u8>>,
}

impl Query {
    /// Reads a packet. `None`: it is no client's message, or no card's with an Ethernet address.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let message = Message::new(packet).ok()?;
        let ethernet = message.htype() == HType::Eth && message.hlen() == 6;
        if message.opcode() != Opcode::BootRequest || !ethernet {
            return None;
        }
        let mac = Mac(packet.get(28..28 + CHADDR)?.first_chunk().copied()?);
        let mut query = Self {
            kind: MessageType::Unknown(0),
            xid: message.xid(),
            flags: message.flags().into(),
            ciaddr: message.ciaddr(),
            giaddr: message.giaddr(),
            mac,
            class: None,
            arch: None,
            ipxe: None,
            requested: None,
            server: None,
            uuid: None,
            client_id: None,
        };
        let (mut kind, mut from_class, mut has_http) = (None, None, None);
        for option in message.opts() {
            let data = option.data();
            match option.code() {
                OptionCode::MessageType => kind = Some(MessageType::from(*data.first()?)),
                OptionCode::RequestedIpAddress => query.requested = address(data),
                OptionCode::ServerIdentifier => query.server = address(data),
                OptionCode::ClassIdentifier => (query.class, from_class) = class(data),
                OptionCode::ClientSystemArchitecture => query.arch = number(data).map(Arch),
                OptionCode::UserClass if is_ipxe(data) => query.ipxe = Some(false),
                OptionCode::ClientMachineIdentifier if data.len() == UUID => query.uuid = Some(data.to_vec()),
                OptionCode::ClientIdentifier if data.len() <= LONGEST_ID => query.client_id = Some(data.to_vec()),
                OptionCode::Unknown(IPXE_ENCAPSULATED) => has_http = Some(has(data, IPXE_HTTP)),
                _ => {}
            }
        }
        query.kind = kind?;
        query.arch = query.arch.or(from_class);
        // Where it does not say what it has, it is an iPXE that somebody built, and those have HTTP unless told otherwise.
        query.ipxe = query.ipxe.map(|_| has_http.unwrap_or(true));
        Some(query)
    }

    /// The machine behind it, if that boots from the network.
    pub fn asker(&self) -> Option<Asker> {
        let class = self.class?;
        // A BIOS of before RFC 4578 says nothing of itself.
        Some(Asker { arch: self.arch.unwrap_or(Arch(0)), http: class == Class::Http, ipxe: self.ipxe })
    }
}

fn address(data: &[u8]) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?)).filter(|address| !address.is_unspecified())
}

fn number(data: &[u8]) -> Option<u16> {
    data.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

/// `PXEClient:Arch:00007:UNDI:003016`.
fn class(data: &[u8]) -> (Option<Class>, Option<Arch>) {
    let class = if data.starts_with(b"PXEClient") {
        Class::Pxe
    } else if data.starts_with(b"HTTPClient") {
        Class::Http
    } else {
        return (None, None);
    };
    let text = std::str::from_utf8(data).unwrap_or_default();
    let mut words = text.split(':');
    let arch = words.find(|word| *word == "Arch").and_then(|_| words.next()?.parse().ok());
    (Some(class), arch.map(Arch))
}

/// iPXE sends its name as it is; RFC 3004 wants a length before it.
fn is_ipxe(data: &[u8]) -> bool {
    data == b"iPXE" || data == b"\x04iPXE"
}

/// Whether an encapsulated option is there and not zero.
fn has(mut data: &[u8], wanted: u8) -> bool {
    while let [code, rest @ ..] = data {
        match (*code, rest) {
            (0, rest) => data = rest,
            (255, _) => return false,
            (code, [length, rest @ ..]) => {
                let Some((value, rest)) = rest.split_at_checked(usize::from(*length)) else { return false };
                if code == wanted {
                    return value.iter().any(|&byte| byte != 0);
                }
                data = rest;
            }
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A client's packet with these options.
    pub fn packet(kind: u8, options: &[(u8, &[u8])]) -> Vec<u8> {
        let mut packet = vec![0; 240];
        packet[..8].copy_from_slice(&[1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef]);
        packet[28..34].copy_from_slice(&[0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        packet[236..].copy_from_slice(&[99, 130, 83, 99]);
        packet.extend([53, 1, kind]);
        for (code, data) in options {
            packet.extend([*code, data.len() as u8]);
            packet.extend(*data);
        }
        packet.push(255);
        packet
    }

    #[test]
    fn firmware_says_what_it_is() {
        let query = Query::parse(&packet(
            1,
            &[(60, b"PXEClient:Arch:00007:UNDI:003016"), (93, &[0, 7]), (94, &[1]), (97, &[0; 17]), (121, &[200; 7])],
        ))
        .unwrap();
        assert_eq!((query.kind, query.class, query.arch), (MessageType::Discover, Some(Class::Pxe), Some(Arch(7))));
        assert_eq!((query.mac.to_string().as_str(), query.xid), ("52:54:00:12:34:56", 0xdead_beef));
        assert_eq!(query.ipxe, None);
        // Option 93 missing: option 60 says it too.
        let query = Query::parse(&packet(1, &[(60, b"HTTPClient:Arch:00016:UNDI:003001")])).unwrap();
        assert_eq!((query.class, query.arch), (Some(Class::Http), Some(Arch(16))));
        let query = Query::parse(&packet(1, &[(60, b"PXEClient"), (77, b"iPXE"), (175, &[0, 33, 1, 1, 19, 1, 1])]));
        assert_eq!(query.unwrap().ipxe, Some(true));
        let query = Query::parse(&packet(1, &[(60, b"PXEClient"), (77, b"\x04iPXE"), (175, &[33, 1, 1])]));
        assert_eq!(query.unwrap().ipxe, Some(false));
        // A system that has started asks for an address and no more.
        assert_eq!(Query::parse(&packet(1, &[(60, b"udhcp 1.35")])).unwrap().asker(), None);
    }

    #[test]
    fn what_is_no_request_of_an_ethernet_card_is_none() {
        let good = packet(1, &[]);
        for (at, byte) in [(0, 2), (1, 6), (2, 16), (2, 255), (236, 0)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(Query::parse(&bad), None, "byte {at}");
        }
        for length in 0..good.len() - 3 {
            assert_eq!(Query::parse(&good[..length]), None, "{length}");
        }
    }

    proptest! {
        #[test]
        fn no_packet_ends_the_server(packet in proptest::collection::vec(any::<u8>(), 0..1600)) {
            let _ = Query::parse(&packet);
        }

        #[test]
        fn no_options_end_the_server(options in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut packet = packet(1, &[]);
            packet.truncate(240);
            packet.extend(options);
            let _ = Query::parse(&packet);
        }
    }
}
