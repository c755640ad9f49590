//! Questions to bytes and bytes to answers: the format of RFC 2131, section 2, and the options of RFC 2132.
//!
//! By hand and not by a crate: what a server says is anybody's word on the link, PID 1 must not panic over it, and
//! dhcproto does (0.15 asserts lengths of options that it reads). Nothing here indexes what it has not measured.

use std::net::Ipv4Addr;

use super::client::{Answer, AnswerKind, Question, QuestionKind};

// `op`, `htype` (RFC 1700's Ethernet) and `hlen` of a message.
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const ETHERNET: u8 = 1;
const ETHERNET_LENGTH: u8 = 6;

// Where the fields are.
const XID: usize = 4;
const YIADDR: usize = 16;
const CHADDR: usize = 28;
const SNAME: usize = 44;
const FILE: usize = 108;
const COOKIE: usize = 236;
const OPTIONS: usize = 240;

/// What stands before the options (RFC 2131, section 3).
const MAGIC: [u8; 4] = [99, 130, 83, 99];
/// Shortest message that BOOTP relays let through (RFC 951, section 3).
const SHORTEST: usize = 300;

/// Codes of options (RFC 2132).
mod option {
    pub const PAD: u8 = 0;
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const NAME_SERVER: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER: u8 = 54;
    pub const WANTED: u8 = 55;
    pub const RENEWAL_TIME: u8 = 58;
    pub const REBINDING_TIME: u8 = 59;
    pub const CLIENT: u8 = 61;
    pub const END: u8 = 255;
}

/// The options that a server is asked for.
const WANTED: [u8; 7] = [
    option::SUBNET_MASK,
    option::ROUTER,
    option::NAME_SERVER,
    option::LEASE_TIME,
    option::SERVER,
    option::RENEWAL_TIME,
    option::REBINDING_TIME,
];

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Its host name.
    pub host: String,
}

/// The bytes of a question.
pub fn encode(identity: &Identity, question: &Question) -> Vec<u8> {
    let mut bytes = vec![REQUEST, ETHERNET, ETHERNET_LENGTH, 0];
    bytes.extend(question.xid.to_be_bytes());
    bytes.extend(question.seconds.to_be_bytes());
    // No broadcast flag: the packet socket hears answers to an address that the interface does not have yet.
    bytes.extend([0, 0]);
    bytes.extend(question.current.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
    bytes.resize(CHADDR, 0);
    bytes.extend(identity.mac);
    bytes.resize(COOKIE, 0);
    bytes.extend(MAGIC);
    let mut add = |code: u8, value: &[u8]| {
        if let Ok(length) = u8::try_from(value.len()) {
            bytes.extend([code, length]);
            bytes.extend(value);
        }
    };
    add(
        option::MESSAGE_TYPE,
        &[match question.kind {
            QuestionKind::Discover => 1,
            QuestionKind::Request => 3,
            QuestionKind::Release => 7,
        }],
    );
    add(option::CLIENT, &[&[ETHERNET], &identity.mac[..]].concat());
    if let Some(wanted) = question.wanted {
        add(option::REQUESTED_ADDRESS, &wanted.octets());
    }
    if let Some(server) = question.server {
        add(option::SERVER, &server.octets());
    }
    if question.kind != QuestionKind::Release {
        add(option::HOST_NAME, identity.host.as_bytes());
        add(option::WANTED, &WANTED);
    }
    bytes.push(option::END);
    bytes.resize(bytes.len().max(SHORTEST), 0);
    bytes
}

/// What a server says to the client with this Ethernet address; everything else is `None`.
pub fn decode(mac: [u8; 6], bytes: &[u8]) -> Option<Answer> {
    let head: &[u8; OPTIONS] = bytes.first_chunk()?;
    if head[..3] != [REPLY, ETHERNET, ETHERNET_LENGTH] || head[CHADDR..CHADDR + 6] != mac || head[COOKIE..] != MAGIC {
        return None;
    }
    let options = Options::new(head, &bytes[OPTIONS..]);
    let address = |code| options.addresses(code).next();
    let seconds = |code| options.get(code).and_then(|value| value.try_into().ok()).map(u32::from_be_bytes);
    Some(Answer {
        kind: match options.get(option::MESSAGE_TYPE)? {
            [2] => AnswerKind::Offer,
            [5] => AnswerKind::Ack,
            [6] => AnswerKind::Nak,
            _ => return None,
        },
        xid: u32::from_be_bytes([head[XID], head[XID + 1], head[XID + 2], head[XID + 3]]),
        address: Ipv4Addr::new(head[YIADDR], head[YIADDR + 1], head[YIADDR + 2], head[YIADDR + 3]),
        server: address(option::SERVER)?,
        prefix: address(option::SUBNET_MASK).and_then(prefix),
        gateway: address(option::ROUTER),
        dns: options.addresses(option::NAME_SERVER).collect(),
        times: (seconds(option::LEASE_TIME), seconds(option::RENEWAL_TIME), seconds(option::REBINDING_TIME)),
    })
}

/// The parts of a message in which options may stand, in the order of reading (RFC 2131, section 4.1).
struct Options<'a> {
    parts: [&'a [u8]; 3],
}

impl<'a> Options<'a> {
    fn new(head: &'a [u8; OPTIONS], options: &'a [u8]) -> Self {
        // Bits: `file` holds options too, `sname` does (RFC 2132, section 9.3).
        let overload = find(options, option::OVERLOAD).and_then(|value| value.first()).copied().unwrap_or(0);
        let file = if overload & 1 == 0 { &[][..] } else { &head[FILE..COOKIE] };
        let sname = if overload & 2 == 0 { &[][..] } else { &head[SNAME..FILE] };
        Self { parts: [options, file, sname] }
    }

    fn get(&self, code: u8) -> Option<&'a [u8]> {
        self.parts.iter().find_map(|part| find(part, code))
    }

    fn addresses(&self, code: u8) -> impl Iterator<Item = Ipv4Addr> {
        let value = self.get(code).unwrap_or_default();
        value.chunks_exact(4).map(|octets| Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]))
    }
}

/// The value of the first option with this code.
fn find(mut options: &[u8], code: u8) -> Option<&[u8]> {
    loop {
        match options {
            [option::PAD, rest @ ..] => options = rest,
            [] | [option::END, ..] | [_] => return None,
            [found, length, rest @ ..] => {
                let (value, rest) = rest.split_at_checked(usize::from(*length))?;
                if *found == code {
                    return Some(value);
                }
                options = rest;
            }
        }
    }
}

/// The length of a mask, if it is one.
fn prefix(mask: Ipv4Addr) -> Option<u8> {
    let bits = mask.to_bits();
    let length = bits.leading_ones();
    (bits.count_ones() == length && length > 0).then(|| u8::try_from(length).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

    fn identity() -> Identity {
        Identity { mac: MAC, host: "demo".to_owned() }
    }

    fn question(kind: QuestionKind) -> Question {
        Question { kind, xid: 0x0102_0304, seconds: 9, current: None, wanted: None, server: None }
    }

    /// An acknowledgement as a server makes it, byte by byte.
    fn acknowledgement() -> Vec<u8> {
        let mut bytes = vec![2, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0, 0];
        bytes.extend([0; 4]);
        bytes.extend([10, 1, 1, 50]);
        bytes.extend([0; 8]);
        bytes.extend(MAC);
        bytes.resize(236, 0);
        bytes.extend([99, 130, 83, 99, 53, 1, 5, 54, 4, 10, 1, 1, 1, 1, 4, 255, 255, 255, 0]);
        bytes.extend([3, 4, 10, 1, 1, 1, 6, 8, 10, 1, 1, 3, 10, 1, 1, 4, 51, 4, 0, 1, 81, 128, 255]);
        bytes
    }

    #[test]
    fn reads_what_a_server_says() {
        let answer = decode(MAC, &acknowledgement()).unwrap();
        assert_eq!((answer.kind, answer.xid), (AnswerKind::Ack, 0x0102_0304));
        assert_eq!(answer.address, Ipv4Addr::new(10, 1, 1, 50));
        assert_eq!((answer.prefix, answer.gateway), (Some(24), Some(Ipv4Addr::new(10, 1, 1, 1))));
        assert_eq!(answer.dns, [Ipv4Addr::new(10, 1, 1, 3), Ipv4Addr::new(10, 1, 1, 4)]);
        assert_eq!(answer.times, (Some(86400), None, None));
    }

    #[test]
    fn what_is_for_others_is_nothing() {
        assert_eq!(decode([2; 6], &acknowledgement()), None);
        let mut request = acknowledgement();
        request[0] = 1;
        assert_eq!(decode(MAC, &request), None);
        assert_eq!(decode(MAC, &acknowledgement()[..200]), None);
    }

    #[test]
    fn a_question_holds_what_servers_need() {
        let bytes = encode(&identity(), &question(QuestionKind::Discover));
        assert!(bytes.len() >= SHORTEST);
        assert_eq!(bytes[..8], [1, 1, 6, 0, 1, 2, 3, 4]);
        assert_eq!(bytes[28..34], MAC);
        let contains = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
        assert!(contains(&[53, 1, 1]) && contains(b"\x0c\x04demo") && contains(&[61, 7, 1, 0x52, 0x54]));
    }

    #[test]
    fn options_may_overflow_into_other_fields() {
        // Given a message whose options say that `file` and `sname` hold options too,
        let mut bytes = acknowledgement();
        bytes.truncate(OPTIONS);
        bytes.extend([option::OVERLOAD, 1, 3, option::MESSAGE_TYPE, 1, 5, option::END]);
        bytes[FILE..FILE + 6].copy_from_slice(&[option::SERVER, 4, 10, 1, 1, 1]);
        bytes[SNAME..SNAME + 7].copy_from_slice(&[0, option::ROUTER, 4, 10, 1, 1, 2]);
        // then both are read.
        let answer = decode(MAC, &bytes).unwrap();
        assert_eq!((answer.server, answer.gateway), (Ipv4Addr::new(10, 1, 1, 1), Some(Ipv4Addr::new(10, 1, 1, 2))));
        assert_eq!(answer.prefix, None);
    }

    #[test]
    fn masks() {
        assert_eq!(prefix(Ipv4Addr::new(255, 255, 255, 252)), Some(30));
        assert_eq!(prefix(Ipv4Addr::new(255, 0, 255, 0)), None);
        assert_eq!(prefix(Ipv4Addr::UNSPECIFIED), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn any_bytes_are_safe(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            decode(MAC, &bytes);
        }

        /// Bytes behind a sound header reach the options; the length of `chaddr` is anything.
        #[test]
        fn any_options_are_safe(length in any::<u8>(), options in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut bytes = acknowledgement();
            bytes[2] = length;
            bytes.truncate(OPTIONS);
            bytes.extend(options);
            decode(MAC, &bytes);
        }
    }
}
