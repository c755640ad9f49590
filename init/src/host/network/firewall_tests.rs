//! Frame by frame: what a guest sends into its bridge passes, or is counted under its reason.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use super::firewall;
use crate::net::nft::NftSocket;
use crate::net::tests::in_namespace;

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 12];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 66];

/// Everybody's, from `source`.
fn ethernet(source: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [[0xff; 6], source].concat();
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    // The least that a wire carries (IEEE 802.3, 4A.4.2), less its checksum.
    frame.resize(frame.len().max(60), 0);
    frame
}

fn arp(mac: [u8; 6], sender: &str) -> Vec<u8> {
    let sender: Ipv4Addr = sender.parse().unwrap();
    let rest = [&sender.octets()[..], &[0; 6], &[10, 1, 1, 1]].concat();
    ethernet(OWN, 0x0806, &[&[0, 1, 8, 0, 6, 4, 0, 1][..], &mac, &rest].concat())
}

/// A datagram for a port.
fn ipv4(mac: [u8; 6], source: &str, port: u16) -> Vec<u8> {
    let source: Ipv4Addr = source.parse().unwrap();
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(source.octets());
    packet.extend([255; 4]);
    packet.extend([0, 68]);
    packet.extend(port.to_be_bytes());
    packet.extend([0, 8, 0, 0]);
    ethernet(mac, 0x0800, &packet)
}

/// A message of ICMPv6 with a target.
fn ipv6(source: &str, message: u8, target: &str) -> Vec<u8> {
    let [source, target] = [source, target].map(|text| text.parse::<Ipv6Addr>().unwrap().octets());
    let mut packet = vec![0x60, 0, 0, 0, 0, 24, 58, 255];
    packet.extend(source);
    packet.extend([0xff; 16]);
    packet.extend([message, 0, 0, 0, 0, 0, 0, 0]);
    packet.extend(target);
    ethernet(OWN, 0x86dd, &packet)
}

fn ip(words: &str) -> bool {
    Command::new("ip").args(words.split(' ')).status().is_ok_and(|status| status.success())
}

fn send(interface: u32, frame: &[u8]) {
    // SAFETY: a socket is made, and owned from then on.
    let socket = unsafe { OwnedFd::from_raw_fd(libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)) };
    // SAFETY: all-zero bytes are a valid `sockaddr_ll`.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_ifindex = interface.cast_signed();
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    let data = frame.as_ptr().cast();
    // SAFETY: the frame and the address are there as long as the call.
    let sent = unsafe { libc::sendto(socket.as_raw_fd(), data, frame.len(), 0, (&raw const to).cast(), length) };
    assert_eq!(sent, frame.len().cast_signed());
}

#[test]
fn every_frame_of_a_guest_passes_or_is_counted_under_its_reason() {
    let text = "[appliance]\nname = \"demo\"\n[kernel.host]\npackage = \"linux-image-amd64\"\nhardware = []\n\
        [kernel.guest]\nsource = \"linux-source-6.12\"\nfragments = []\n[network.bridges.br0]\n[firewall]\n\
        [[guest]]\nname = \"web2\"\nimage = \"web\"\nmemory = \"64MiB\"\n[guest.network]\nbridge = \"br0\"\n\
        address = \"10.1.1.12/24\"\nmac = \"02:00:00:00:00:0c\"\nallowed-addresses = [\"2001:db8::/64\"]\n";
    let appliance = thimble_spec::definition::parse("a.toml", text).unwrap().appliance;
    let tables = firewall::tables(&appliance.network, appliance.firewall.as_ref(), &appliance.guests);
    in_namespace(move || {
        let mut socket = NftSocket::open().unwrap();
        if let Err(error) = socket.counters() {
            eprintln!("skipped: {}", error.sentence());
            return;
        }
        for words in [
            "link add br0 type bridge",
            "link set br0 up",
            "link add tap-web2 type veth peer name guest",
            "link set tap-web2 master br0 up",
            "link set guest up",
        ] {
            if !ip(words) {
                eprintln!("skipped: no `ip {words}`");
                return;
            }
        }
        socket.replace(&tables).unwrap();
        let guest = crate::net::index_of("guest").unwrap();
        let mut counted = move || -> BTreeMap<String, u64> {
            let counters = socket.counters().unwrap().into_iter();
            counters.map(|((_, name), counter)| (name, counter.packets)).filter(|(_, packets)| *packets > 0).collect()
        };
        let (global, foreign, of_link) = ("2001:db8::12", "2001:db9::12", "fe80::12");
        let mut expected = counted();
        for (what, frame, counter) in [
            ("its own ARP", arp(OWN, "10.1.1.12"), ""),
            ("a question whether an address is free", arp(OWN, "0.0.0.0"), ""),
            ("ARP for another address", arp(OWN, "10.1.1.1"), "web2 arp"),
            ("ARP for another MAC", arp(OTHER, "10.1.1.12"), "web2 arp"),
            ("ARP of another kind", ethernet(OWN, 0x0806, &[0, 6, 8, 0, 6, 4]), "web2 arp"),
            ("its own IPv4", ipv4(OWN, "10.1.1.12", 9), ""),
            ("a question for an address", ipv4(OWN, "0.0.0.0", 67), ""),
            ("IPv4 from nowhere", ipv4(OWN, "0.0.0.0", 9), "web2 ip"),
            ("IPv4 from another address", ipv4(OWN, "10.1.1.13", 9), "web2 ip"),
            ("IPv4 from another MAC", ipv4(OTHER, "10.1.1.12", 9), "web2 mac"),
            ("IPv6 from an allowed address", ipv6(global, 128, "::"), ""),
            ("IPv6 of the link", ipv6(of_link, 128, "::"), ""),
            ("a question for a neighbour from nowhere", ipv6("::", 135, of_link), ""),
            ("IPv6 from another address", ipv6(foreign, 128, "::"), "web2 ip"),
            ("its own advertisement", ipv6(global, 136, global), ""),
            ("the advertisement of another", ipv6(global, 136, foreign), "web2 ip"),
            ("that of a router", ipv6(of_link, 134, "::"), "web2 ip"),
            ("a redirect", ipv6(of_link, 137, foreign), "web2 ip"),
            ("LLDP", ethernet(OWN, 0x88cc, &[2, 7]), "web2 other"),
        ] {
            send(guest, &frame);
            if !counter.is_empty() {
                *expected.entry(counter.to_owned()).or_default() += 1;
            }
            // What the kernel itself sends by the interface, as that of the link, is from another MAC.
            let same = |found: &BTreeMap<String, u64>| {
                let others = |counters: &BTreeMap<String, u64>| {
                    counters
                        .iter()
                        .filter(|(name, _)| *name != "web2 mac")
                        .map(|(a, b)| (a.clone(), *b))
                        .collect::<Vec<_>>()
                };
                others(found) == others(&expected) && found.get("web2 mac") >= expected.get("web2 mac")
            };
            let began = Instant::now();
            let mut found = counted();
            while !same(&found) && began.elapsed() < Duration::from_secs(2) {
                found = counted();
            }
            assert!(same(&found), "{what}: {found:?} is not {expected:?}");
        }
    });
}
