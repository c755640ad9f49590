//! What is answered to whom: no sockets here, so that each case can be looked at.
//!
//! Two roles. With a range we are the network's DHCP server (RFC 2131), and a boot file is a part of each lease. Without one
//! we are a proxy (PXE specification 2.1 section 2.2.3): a site's server gives addresses and we never do; a machine
//! that boots from the network hears two offers, the site's with its address and ours with its boot file. Some firmware then
//! takes the file from our offer, other asks us once more, at port 4011; the answer is the same.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

use dhcproto::v4::{DhcpOption, DhcpOptions, Flags, Message, MessageType, Opcode};
use dhcproto::{Encodable, Encoder};

use crate::serve::board::Board;
use crate::serve::boot::Files;
use crate::serve::dhcp::leases::{LEASE, Leases};
use crate::serve::dhcp::query::{Class, Query};
use crate::serve::event::Who;
use crate::serve::place::Place;

/// Clients' port.
const CLIENT: u16 = 68;
/// Relays', and ours.
const SERVER: u16 = 67;
/// The boot service's (PXE specification 2.1 section 2.2.4).
pub const BOOT_SERVICE: u16 = 4011;
/// Some old ROMs drop shorter packets: BOOTP's were never shorter (RFC 1542 section 2.1).
const SHORTEST: usize = 300;
/// Bytes of the message's own field for the boot file, its final zero not counted; longer names are in option 67 only.
const FILE_FIELD: usize = 127;
/// Option 43 for PXE: sub-option 6, discovery control, bit 3: fetch the boot file from this answer, look for no menu and no
/// other boot server (PXE specification 2.1, table 2-2).
const BOOT_AT_ONCE: [u8; 4] = [6, 1, 8, 255];

/// What a lease carries besides the address.
#[derive(Clone, Debug, Default)]
pub struct Network {
    /// Option 3, if there is a way out.
    pub router: Option<Ipv4Addr>,
    /// Option 6.
    pub dns: Vec<Ipv4Addr>,
}

/// The server.
#[derive(Debug)]
pub struct Server {
    /// Where it is.
    pub place: Place,
    /// What it has to boot.
    pub files: Files,
    /// What it knows of the network.
    pub network: Network,
    /// What it gives away; nothing, as a proxy.
    pub leases: Option<Leases>,
}

/// A packet to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its bytes.
    pub packet: Vec<u8>,
    /// Whereto.
    pub to: SocketAddrV4,
}

impl Server {
    /// Answers a packet that came to `port` from `from`. `None`: it is not for us, or there is nothing to say.
    pub fn answer(
        &mut self,
        packet: &[u8],
        port: u16,
        from: SocketAddrV4,
        now: Instant,
        board: &Board,
    ) -> Option<Answer> {
        let query = Query::parse(packet)?;
        // A message that names another server is that one's.
        let elsewhere = query.server.is_some_and(|server| server != self.place.address);
        if port == BOOT_SERVICE {
            return if elsewhere { None } else { self.boot_service(&query, from, board) };
        }
        if self.leases.is_some() { self.lease(&query, elsewhere, now, board) } else { self.proxy(&query, board) }
    }

    /// As a proxy, at port 67: offers are answered with a boot file; what else is said tells who has which address.
    fn proxy(&self, query: &Query, board: &Board) -> Option<Answer> {
        match query.kind {
            MessageType::Discover => {
                let boot = self.boot(query, None, board)?;
                self.send(query, MessageType::Offer, Ipv4Addr::UNSPECIFIED, Some(boot), None)
            }
            MessageType::Request => {
                if let Some(address) = query.requested.or(Some(query.ciaddr)).filter(|ip| self.place.reaches(*ip)) {
                    board.met(query.mac, address);
                }
                None
            }
            _ => None,
        }
    }

    /// Port 4011.
    fn boot_service(&self, query: &Query, from: SocketAddrV4, board: &Board) -> Option<Answer> {
        if !matches!(query.kind, MessageType::Request | MessageType::Inform) {
            return None;
        }
        // Who asks here has an address; one from elsewhere is not told anything at it.
        let address = *from.ip();
        if !self.place.reaches(address) || query.ciaddr != address && !query.ciaddr.is_unspecified() {
            return None;
        }
        let boot = self.boot(query, Some(address), board)?;
        self.send(query, MessageType::Ack, Ipv4Addr::UNSPECIFIED, Some(boot), Some(from))
    }

    /// As the network's server.
    fn lease(&mut self, query: &Query, elsewhere: bool, now: Instant, board: &Board) -> Option<Answer> {
        let leases = self.leases.as_mut()?;
        let who = Who { mac: Some(query.mac), ip: None };
        match query.kind {
            MessageType::Discover => {
                let Some(address) = leases.offer(query.mac, query.requested, now) else {
                    board.refused(who, "an address", "all of the range are given away: make it larger");
                    return None;
                };
                let boot = self.boot(query, None, board);
                self.send(query, MessageType::Offer, address, boot, None)
            }
            // It has chosen another server.
            MessageType::Request if elsewhere => None,
            MessageType::Request => {
                let wanted = query.requested.unwrap_or(query.ciaddr);
                if leases.give(query.mac, wanted, now) {
                    board.leased(query.mac, wanted);
                    let boot = self.boot_silently(query);
                    return self.send(query, MessageType::Ack, wanted, boot, None);
                }
                // The only server here says so at once: the client asks anew without waiting (RFC 2131 section 4.3.2).
                board.refused(who, &wanted.to_string(), "that address is another's, or not of the range");
                self.send(query, MessageType::Nak, Ipv4Addr::UNSPECIFIED, None, None)
            }
            MessageType::Inform => {
                let boot = self.boot_silently(query);
                self.send(query, MessageType::Ack, Ipv4Addr::UNSPECIFIED, boot, None)
            }
            MessageType::Release => {
                leases.release(query.mac, query.ciaddr);
                None
            }
            MessageType::Decline => {
                let address = query.requested?;
                leases.decline(query.mac, address, now);
                board.refused(who, &address.to_string(), "the machine says that somebody else uses it");
                None
            }
            _ => None,
        }
    }

    /// The boot file for a machine, and a word on the board about it.
    fn boot(&self, query: &Query, address: Option<Ipv4Addr>, board: &Board) -> Option<(Class, String)> {
        let asker = query.asker()?;
        let boot = self.boot_silently(query);
        match &boot {
            Some((_, file)) => board.offered(query.mac, address, Some(asker.arch), Some(file)),
            None => {
                let who = Who { mac: Some(query.mac), ip: address };
                let what = format!("a boot file for architecture {}", asker.arch.0);
                board.refused(who, &what, "there is none in an appliance for x86-64");
            }
        }
        boot
    }

    fn boot_silently(&self, query: &Query) -> Option<(Class, String)> {
        Some((query.class?, self.files.boot_file(&query.asker()?)?))
    }

    fn send(
        &self,
        query: &Query,
        kind: MessageType,
        yiaddr: Ipv4Addr,
        boot: Option<(Class, String)>,
        to: Option<SocketAddrV4>,
    ) -> Option<Answer> {
        let own = self.place.address;
        let ciaddr = if kind == MessageType::Ack { query.ciaddr } else { Ipv4Addr::UNSPECIFIED };
        let siaddr = if boot.is_some() { own } else { Ipv4Addr::UNSPECIFIED };
        let mut message = Message::new_with_id(query.xid, ciaddr, yiaddr, siaddr, query.giaddr, &query.mac.0);
        message.set_opcode(Opcode::BootReply).set_flags(Flags::from(query.flags));
        let options = message.opts_mut();
        options.insert(DhcpOption::MessageType(kind));
        options.insert(DhcpOption::ServerIdentifier(own));
        if let Some(id) = &query.client_id {
            options.insert(DhcpOption::ClientIdentifier(id.clone()));
        }
        if self.leases.is_some() && kind != MessageType::Nak {
            self.network_options(options, !yiaddr.is_unspecified());
        }
        if let Some((class, file)) = boot {
            options.insert(DhcpOption::ClassIdentifier(class.text().into()));
            options.insert(DhcpOption::BootfileName(file.clone().into_bytes()));
            if class == Class::Pxe {
                options.insert(DhcpOption::TFTPServerName(own.to_string().into_bytes()));
                options.insert(DhcpOption::VendorExtensions(BOOT_AT_ONCE.to_vec()));
            }
            if let Some(uuid) = &query.uuid {
                options.insert(DhcpOption::ClientMachineIdentifier(uuid.clone()));
            }
            if file.len() <= FILE_FIELD {
                message.set_fname(file.as_bytes());
            }
        }
        let mut packet = Vec::with_capacity(SHORTEST);
        message.encode(&mut Encoder::new(&mut packet)).ok()?;
        packet.resize(packet.len().max(SHORTEST), 0);
        Some(Answer { packet, to: to.unwrap_or_else(|| whereto(query, kind)) })
    }

    fn network_options(&self, options: &mut DhcpOptions, with_lease: bool) {
        let seconds = LEASE.as_secs() as u32;
        options.insert(DhcpOption::SubnetMask(self.place.mask));
        if let Some(router) = self.network.router {
            options.insert(DhcpOption::Router(vec![router]));
        }
        if !self.network.dns.is_empty() {
            options.insert(DhcpOption::DomainNameServer(self.network.dns.clone()));
        }
        if with_lease {
            // RFC 2131 section 4.4.5 has these defaults for T1 and T2; not every client knows them.
            options.insert(DhcpOption::AddressLeaseTime(seconds));
            options.insert(DhcpOption::Renewal(seconds / 2));
            options.insert(DhcpOption::Rebinding(seconds / 8 * 7));
        }
    }
}

/// Where an answer goes (RFC 2131 section 4.1). To a client without an address it goes to all: without a raw socket
/// nothing else reaches it, and the RFC allows it.
fn whereto(query: &Query, kind: MessageType) -> SocketAddrV4 {
    if !query.giaddr.is_unspecified() {
        SocketAddrV4::new(query.giaddr, SERVER)
    } else if !query.ciaddr.is_unspecified() && kind != MessageType::Nak {
        SocketAddrV4::new(query.ciaddr, CLIENT)
    } else {
        SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::boot::Loader;
    use crate::serve::dhcp::query::tests::packet;
    use crate::serve::dhcp::range::Range;
    use crate::serve::journal::Journal;
    use dhcproto::v4::OptionCode;
    use dhcproto::{Decodable, Decoder};
    use proptest::prelude::*;

    const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const NOBODY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT);
    const UEFI: &[u8] = b"PXEClient:Arch:00007:UNDI:003016";

    fn server(range: Option<&str>) -> Server {
        let mask = Ipv4Addr::new(255, 255, 255, 0);
        Server {
            place: Place { interface: "eth0".to_owned(), address: OWN, mask },
            files: Files { address: OWN, http_port: 80, loader: Loader::Auto },
            network: Network { router: Some(OWN), dns: vec![Ipv4Addr::new(10, 0, 0, 53)] },
            leases: range.map(|range| Leases::new(range.parse::<Range>().unwrap(), OWN)),
        }
    }

    fn ask(server: &mut Server, packet: &[u8], port: u16, from: SocketAddrV4) -> Option<(Message, SocketAddrV4)> {
        let board = Board::new(Journal::silent());
        let answer = server.answer(packet, port, from, Instant::now(), &board)?;
        assert!(answer.packet.len() >= SHORTEST && answer.packet.len() < 576);
        Some((Message::decode(&mut Decoder::new(&answer.packet)).unwrap(), answer.to))
    }

    fn text(message: &Message, code: OptionCode) -> Option<String> {
        match message.opts().get(code)? {
            DhcpOption::BootfileName(bytes)
            | DhcpOption::ClassIdentifier(bytes)
            | DhcpOption::TFTPServerName(bytes) => Some(String::from_utf8(bytes.clone()).unwrap()),
            _ => None,
        }
    }

    #[test]
    fn a_proxy_offers_a_boot_file_and_never_an_address() {
        let mut server = server(None);
        let discover = packet(1, &[(60, UEFI), (93, &[0, 7]), (97, &[7; 17])]);
        let (offer, to) = ask(&mut server, &discover, 67, NOBODY).unwrap();
        assert_eq!(to.to_string(), "255.255.255.255:68");
        assert_eq!((offer.yiaddr(), offer.siaddr()), (Ipv4Addr::UNSPECIFIED, OWN));
        assert_eq!(text(&offer, OptionCode::ClassIdentifier).as_deref(), Some("PXEClient"));
        assert_eq!(text(&offer, OptionCode::BootfileName).as_deref(), Some("grub/x86_64-efi/core.efi"));
        assert_eq!(offer.fname_str().unwrap().unwrap().trim_end_matches('\0'), "grub/x86_64-efi/core.efi");
        for code in [OptionCode::AddressLeaseTime, OptionCode::SubnetMask, OptionCode::Router] {
            assert!(offer.opts().get(code).is_none(), "{code:?}");
        }
        // The site's own business: requests to its server, and machines that do not boot from the network.
        for other in [packet(3, &[(60, UEFI), (50, &[10, 0, 0, 9])]), packet(1, &[]), packet(8, &[]), packet(4, &[])] {
            assert_eq!(ask(&mut server, &other, 67, NOBODY), None);
        }
        // Who asks at port 4011 gets the same, at the address and port it asked from.
        let from = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 9), 4011);
        let (ack, to) = ask(&mut server, &packet(3, &[(60, UEFI), (93, &[0, 7])]), 4011, from).unwrap();
        assert_eq!((to, ack.opts().msg_type()), (from, Some(MessageType::Ack)));
        assert_eq!(text(&ack, OptionCode::BootfileName).as_deref(), Some("grub/x86_64-efi/core.efi"));
        // Nobody uses it to send packets elsewhere.
        let elsewhere = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 4011);
        assert_eq!(ask(&mut server, &packet(3, &[(60, UEFI)]), 4011, elsewhere), None);
    }

    #[test]
    fn http_boot_is_told_a_url() {
        let http: &[u8] = b"HTTPClient:Arch:00016:UNDI:003001";
        let (offer, _) = ask(&mut server(None), &packet(1, &[(60, http), (93, &[0, 16])]), 67, NOBODY).unwrap();
        assert_eq!(text(&offer, OptionCode::ClassIdentifier).as_deref(), Some("HTTPClient"));
        assert_eq!(text(&offer, OptionCode::BootfileName).as_deref(), Some("http://10.0.0.1/grub/x86_64-efi/core.efi"));
        assert!(offer.opts().get(OptionCode::VendorExtensions).is_none());
    }

    #[test]
    fn a_server_leases_and_boots() {
        let mut server = server(Some("10.0.0.100-10.0.0.101"));
        let (offer, _) = ask(&mut server, &packet(1, &[(60, b"PXEClient"), (77, b"iPXE")]), 67, NOBODY).unwrap();
        let address = offer.yiaddr();
        assert!(address.octets()[3] >= 100);
        assert_eq!(text(&offer, OptionCode::BootfileName).as_deref(), Some("http://10.0.0.1/boot.ipxe"));
        let wish = address.octets();
        let request = packet(3, &[(60, b"PXEClient"), (54, &OWN.octets()), (50, &wish)]);
        let (ack, _) = ask(&mut server, &request, 67, NOBODY).unwrap();
        assert_eq!((ack.opts().msg_type(), ack.yiaddr()), (Some(MessageType::Ack), address));
        assert_eq!(ack.opts().get(OptionCode::AddressLeaseTime), Some(&DhcpOption::AddressLeaseTime(3600)));
        assert_eq!(ack.opts().get(OptionCode::Router), Some(&DhcpOption::Router(vec![OWN])));
        // It renews, by its address, as a system that has started: no boot file any more.
        let mut renew = packet(3, &[]);
        renew[12..16].copy_from_slice(&wish);
        let (ack, to) = ask(&mut server, &renew, 67, SocketAddrV4::new(address, CLIENT)).unwrap();
        assert_eq!((ack.yiaddr(), to), (address, SocketAddrV4::new(address, CLIENT)));
        assert_eq!((ack.siaddr(), ack.fname()), (Ipv4Addr::UNSPECIFIED, None));
        // Another card does not get it, and is told.
        let mut other = packet(3, &[(50, &wish)]);
        other[33] = 0xff;
        assert_eq!(ask(&mut server, &other, 67, NOBODY).unwrap().0.opts().msg_type(), Some(MessageType::Nak));
        // Who chose another server gets no word.
        assert_eq!(ask(&mut server, &packet(3, &[(54, &[10, 0, 0, 2]), (50, &wish)]), 67, NOBODY), None);
        // A relay gets its answer where relays listen.
        let mut relayed = packet(1, &[]);
        relayed[24..28].copy_from_slice(&[10, 0, 9, 1]);
        assert_eq!(ask(&mut server, &relayed, 67, NOBODY).unwrap().1.to_string(), "10.0.9.1:67");
    }

    #[test]
    fn a_machine_of_another_kind_gets_an_address_and_no_boot_file() {
        let mut server = server(Some("10.0.0.100-10.0.0.101"));
        let (offer, _) = ask(&mut server, &packet(1, &[(60, b"PXEClient"), (93, &[0, 11])]), 67, NOBODY).unwrap();
        assert_eq!((offer.fname(), offer.yiaddr().octets()[3] >= 100), (None, true));
        assert_eq!(
            ask(&mut super::tests::server(None), &packet(1, &[(60, b"PXEClient"), (93, &[0, 11])]), 67, NOBODY),
            None
        );
    }

    proptest! {
        #[test]
        fn no_packet_ends_it_and_no_answer_leaves_the_network(
            head in proptest::collection::vec(any::<u8>(), 28),
            options in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..40)), 0..12),
            kind in 0u8..20, lease: bool, service: bool, last: u8,
        ) {
            let options: Vec<(u8, &[u8])> = options.iter().map(|(code, data)| (*code, data.as_slice())).collect();
            let mut packet = packet(kind, &options);
            packet[4..28].copy_from_slice(&head[4..28]);
            packet[24..28].fill(0);
            let mut server = server(lease.then_some("10.0.0.100-10.0.0.103"));
            let from = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, last), 68);
            let board = Board::new(Journal::silent());
            let port = if service { BOOT_SERVICE } else { SERVER };
            if let Some(answer) = server.answer(&packet, port, from, Instant::now(), &board) {
                prop_assert!(answer.packet.len() < 1500);
                let message = Message::decode(&mut Decoder::new(&answer.packet)).unwrap();
                prop_assert!(lease || message.yiaddr().is_unspecified());
            }
        }
    }
}
