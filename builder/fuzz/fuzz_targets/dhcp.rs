//! Packets from a network, to a DHCP server and to a proxy that live on from one packet to the next. A packet of the input
//! is a byte of choices, the sender's last number, a length, and the bytes; one choice puts the fields before them that make
//! it a client's message (RFC 2131 section 2), so that the options are reached.
#![no_main]

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

use dhcproto::v4::Message;
use dhcproto::{Decodable, Decoder};
use libfuzzer_sys::fuzz_target;
use thimble_builder::serve::board::Board;
use thimble_builder::serve::boot::{Files, Loader};
use thimble_builder::serve::dhcp::answer::{BOOT_SERVICE, Network, Server};
use thimble_builder::serve::dhcp::leases::Leases;
use thimble_builder::serve::journal::Journal;
use thimble_builder::serve::place::Place;

const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

fn server(leases: bool) -> Server {
    Server {
        place: Place { interface: "eth0".to_owned(), address: OWN, mask: Ipv4Addr::new(255, 255, 255, 0) },
        files: Files { address: OWN, http_port: 80, loader: Loader::Auto },
        network: Network { router: Some(OWN), dns: vec![OWN] },
        leases: leases.then(|| Leases::new("10.0.0.100-10.0.0.103".parse().expect("a range"), OWN)),
    }
}

/// A client's message without options.
fn head(last: u8) -> Vec<u8> {
    let mut packet = vec![0; 236];
    packet[..3].copy_from_slice(&[1, 1, 6]);
    packet[28..34].copy_from_slice(&[0x52, 0x54, 0, 0, 0, last]);
    packet.extend([99, 130, 83, 99]);
    packet
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, mut rest)) = data.split_first() else { return };
    let leases = choice & 1 != 0;
    let (mut server, board) = (server(leases), Board::new(Journal::silent()));
    while let Some(([choice, last, length], behind)) = rest.split_first_chunk() {
        let (bytes, behind) = behind.split_at(usize::from(*length).min(behind.len()));
        let packet = if choice & 1 != 0 { [&head(*last), bytes].concat() } else { bytes.to_vec() };
        let port = if choice & 2 != 0 { BOOT_SERVICE } else { 67 };
        let from = SocketAddrV4::new(Ipv4Addr::new(10, 0, if choice & 4 != 0 { 9 } else { 0 }, *last), 68);
        if let Some(answer) = server.answer(&packet, port, from, Instant::now(), &board) {
            assert!(answer.packet.len() < 1500);
            let message = Message::decode(&mut Decoder::new(&answer.packet)).expect("a message");
            let given = message.yiaddr();
            assert!(given.is_unspecified() || leases && (100..=103).contains(&given.octets()[3]), "{given}");
        }
        rest = behind;
    }
});
