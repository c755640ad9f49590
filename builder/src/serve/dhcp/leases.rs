//! Who has which address. A card gets the same one again as long as nobody else needed it, the server's restarts
//! included: where it looks first is decided by the card's own address.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::serve::dhcp::range::Range;
use crate::serve::event::Mac;

/// How long an address is a card's. A node that has started renews it from half of that on.
pub const LEASE: Duration = Duration::from_secs(3600);
/// How long an offer stands.
const OFFER: Duration = Duration::from_secs(30);
/// How long an address rests that somebody uses who did not get it from here.
const DECLINED: Duration = Duration::from_secs(600);

/// An address that is not free.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// Whose it is; nobody's whom we know, if it was declined.
    mac: Option<Mac>,
    /// It was given, and not only offered.
    given: bool,
    until: Instant,
}

/// The table: no larger than the range.
#[derive(Debug)]
pub struct Leases {
    range: Range,
    /// In the range, and not to be given away: the server's own.
    own: Ipv4Addr,
    held: HashMap<Ipv4Addr, Held>,
    cards: HashMap<Mac, Ipv4Addr>,
}

impl Leases {
    /// All of `range` is free, but for `own`.
    pub fn new(range: Range, own: Ipv4Addr) -> Self {
        Self { range, own, held: HashMap::new(), cards: HashMap::new() }
    }

    /// An address to offer: the one it has, else the one it asks for, else a free one. `None`: there is none left.
    pub fn offer(&mut self, mac: Mac, wish: Option<Ipv4Addr>, now: Instant) -> Option<Ipv4Addr> {
        let begin = mac.0.iter().fold(0u32, |hash, &byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte)));
        let has = self.cards.get(&mac).copied();
        let any = (0..self.range.count()).map(|step| self.range.at(begin.wrapping_add(step)));
        let address = has.into_iter().chain(wish).chain(any).find(|&address| self.may_have(mac, address, now))?;
        let given = self.held.get(&address).is_some_and(|held| held.given && held.mac == Some(mac));
        if !given {
            self.hold(mac, address, false, now + OFFER);
        }
        Some(address)
    }

    /// Gives the card that address, or does not: it is another's, or none of ours.
    pub fn give(&mut self, mac: Mac, address: Ipv4Addr, now: Instant) -> bool {
        let may = self.may_have(mac, address, now);
        if may {
            self.hold(mac, address, true, now + LEASE);
        }
        may
    }

    /// The card needs its address no longer.
    pub fn release(&mut self, mac: Mac, address: Ipv4Addr) {
        if self.held.get(&address).is_some_and(|held| held.mac == Some(mac)) {
            self.held.remove(&address);
            self.cards.remove(&mac);
        }
    }

    /// The card found that somebody else uses the address that it was given.
    pub fn decline(&mut self, mac: Mac, address: Ipv4Addr, now: Instant) {
        if self.held.get(&address).is_some_and(|held| held.mac == Some(mac)) {
            self.cards.remove(&mac);
            self.held.insert(address, Held { mac: None, given: true, until: now + DECLINED });
        }
    }

    fn may_have(&self, mac: Mac, address: Ipv4Addr, now: Instant) -> bool {
        self.range.contains(address)
            && address != self.own
            && self.held.get(&address).is_none_or(|held| held.mac == Some(mac) || held.until <= now)
    }

    fn hold(&mut self, mac: Mac, address: Ipv4Addr, given: bool, until: Instant) {
        // A card has one address, and an address one card.
        if let Some(before) = self.cards.insert(mac, address).filter(|before| *before != address) {
            self.held.remove(&before);
        }
        if let Some(Held { mac: Some(other), .. }) = self.held.insert(address, Held { mac: Some(mac), given, until })
            && other != mac
        {
            self.cards.remove(&other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn mac(n: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, n])
    }

    fn leases(first: u8, last: u8) -> Leases {
        let ip = |last| Ipv4Addr::new(10, 0, 0, last);
        Leases::new(Range { first: ip(first), last: ip(last) }, ip(1))
    }

    #[test]
    fn each_card_has_one_address_and_gets_it_again() {
        let (mut leases, now) = (leases(1, 4), Instant::now());
        let got: Vec<_> = (0..3).map(|n| leases.offer(mac(n), None, now).unwrap()).collect();
        assert_eq!(got.iter().collect::<HashSet<_>>().len(), 3);
        assert!(!got.contains(&Ipv4Addr::new(10, 0, 0, 1)), "the server's own is never given");
        assert_eq!(leases.offer(mac(3), None, now), None, "there is none left");
        assert!(leases.give(mac(0), got[0], now));
        assert!(!leases.give(mac(1), got[0], now) && !leases.give(mac(0), Ipv4Addr::new(10, 0, 0, 9), now));
        assert_eq!(leases.offer(mac(0), Some(got[1]), now), Some(got[0]));
        // Offers fall, leases stand.
        let later = now + OFFER;
        assert!(leases.offer(mac(3), None, later).is_some_and(|address| address != got[0]));
        // What was declined rests.
        leases.decline(mac(0), got[0], later);
        assert!(!leases.give(mac(0), got[0], later));
        assert!(leases.give(mac(0), got[0], later + DECLINED));
        // And what was released is free.
        leases.release(mac(1), got[0]);
        leases.release(mac(0), got[0]);
        assert!(leases.give(mac(7), got[0], later));
    }

    #[test]
    fn the_same_card_gets_the_same_address_from_a_server_that_knows_nothing() {
        let now = Instant::now();
        assert_eq!(leases(100, 199).offer(mac(7), None, now), leases(100, 199).offer(mac(7), None, now));
    }

    proptest! {
        #[test]
        fn no_two_cards_have_one_address(steps in proptest::collection::vec((0u8..5, 0u8..12, 0u8..8, 0u64..2000), 1..200)) {
            let (mut leases, mut now) = (leases(1, 6), Instant::now());
            let mut given = HashMap::<Ipv4Addr, (Mac, Instant)>::new();
            for (what, card, last, wait) in steps {
                now += Duration::from_secs(wait);
                given.retain(|_, (_, until)| *until > now);
                let (mac, address) = (mac(card), Ipv4Addr::new(10, 0, 0, last));
                match what {
                    0 => {
                        if let Some(offered) = leases.offer(mac, Some(address), now) {
                            prop_assert!(given.get(&offered).is_none_or(|(owner, _)| *owner == mac));
                        }
                    }
                    1 | 2 => {
                        if leases.give(mac, address, now) {
                            prop_assert!(given.get(&address).is_none_or(|(owner, _)| *owner == mac));
                            given.retain(|_, (owner, _)| *owner != mac);
                            given.insert(address, (mac, now + LEASE));
                        }
                    }
                    3 => {
                        leases.release(mac, address);
                        given.retain(|at, (owner, _)| (*at, *owner) != (address, mac));
                    }
                    _ => {
                        leases.decline(mac, address, now);
                        given.retain(|at, (owner, _)| (*at, *owner) != (address, mac));
                    }
                }
                prop_assert!(leases.held.len() <= 6 && leases.cards.len() <= leases.held.len());
            }
        }
    }
}
