//! Which packets the driver wants (virtio 1.2, sections 5.1.6.5.1 to 5.1.6.5.3).
//!
//! A driver that has not taken `CTRL_RX` cannot say, and gets them all. One that has gets, before it says anything, what
//! is for its address and what is for all. A list that is too long counts as one that names every address: the
//! specification leaves that to the device, and guest input must not decide how much memory it takes.

use thimble_spec::names::Mac;

use super::config::{F_CTRL_RX, F_CTRL_VLAN};

/// Most addresses of a list; a longer one lets all addresses of its kind pass.
pub const TABLE_MOST: usize = 64;
/// Number of VLANs (IEEE 802.1Q).
const VLANS: usize = 4096;
/// Ethernet's address for all.
const BROADCAST: [u8; 6] = [0xff; 6];
/// EtherType of a frame with a VLAN tag (IEEE 802.1Q).
const TAGGED: [u8; 2] = [0x81, 0x00];

/// A switch of the receive modes; its number is the command's (section 5.1.6.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Everything.
    Promiscuous = 0,
    /// Every multicast address.
    AllMulticast = 1,
    /// Every unicast address.
    AllUnicast = 2,
    /// No multicast address but broadcast.
    NoMulticast = 3,
    /// No unicast address.
    NoUnicast = 4,
    /// No broadcast.
    NoBroadcast = 5,
}

impl Mode {
    /// All of them, by their numbers.
    pub const ALL: [Self; 6] = [
        Self::Promiscuous,
        Self::AllMulticast,
        Self::AllUnicast,
        Self::NoMulticast,
        Self::NoUnicast,
        Self::NoBroadcast,
    ];
}

/// A list of addresses.
#[derive(Clone, Debug, Default)]
pub struct Table {
    macs: Vec<[u8; 6]>,
    overflown: bool,
}

impl Table {
    /// A list of these addresses, or of all if they are too many.
    pub fn new(macs: &[[u8; 6]]) -> Self {
        let overflown = macs.len() > TABLE_MOST;
        Self { macs: if overflown { Vec::new() } else { macs.to_vec() }, overflown }
    }

    fn holds(&self, mac: [u8; 6]) -> bool {
        self.overflown || self.macs.contains(&mac)
    }
}

/// What the driver has said so far.
#[derive(Clone, Debug)]
pub struct Filter {
    mac: Mac,
    modes: u8,
    unicast: Table,
    multicast: Table,
    /// A bit for each VLAN that passes; none where all do.
    vlans: Option<Box<[u64; VLANS / 64]>>,
}

impl Filter {
    /// That of a driver that took `features` and has said nothing yet.
    pub fn new(mac: Mac, features: u64) -> Self {
        let mut filter = Self { mac, modes: 0, unicast: Table::default(), multicast: Table::default(), vlans: None };
        filter.set_mode(Mode::Promiscuous, features & F_CTRL_RX == 0);
        filter.vlans = (features & F_CTRL_VLAN != 0).then(|| Box::new([0; VLANS / 64]));
        filter
    }

    /// The device's address.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// Gives the device another address.
    pub fn set_mac(&mut self, mac: Mac) {
        self.mac = mac;
    }

    /// Turns a mode on or off.
    pub fn set_mode(&mut self, mode: Mode, on: bool) {
        self.modes = (self.modes & !(1 << mode as u8)) | (u8::from(on) << mode as u8);
    }

    fn is(&self, mode: Mode) -> bool {
        self.modes & (1 << mode as u8) != 0
    }

    /// Replaces the lists.
    pub fn set_tables(&mut self, unicast: Table, multicast: Table) {
        (self.unicast, self.multicast) = (unicast, multicast);
    }

    /// Lets a VLAN pass, or not any more; false if there is no such VLAN.
    pub fn set_vlan(&mut self, vlan: u16, passes: bool) -> bool {
        let (word, bit) = (usize::from(vlan) / 64, vlan % 64);
        let Some(word) = self.vlans.as_mut().and_then(|vlans| vlans.get_mut(word)) else { return false };
        *word = (*word & !(1 << bit)) | (u64::from(passes) << bit);
        true
    }

    /// Whether the driver wants this Ethernet frame. What is too short to be one is left to the driver.
    pub fn wants(&self, frame: &[u8]) -> bool {
        let Some(to) = frame.first_chunk::<6>() else { return true };
        if self.is(Mode::Promiscuous) {
            return true;
        }
        if let Some(vlans) = &self.vlans
            && frame.get(12..14) == Some(&TAGGED)
            && let Some(tag) = frame.get(14..16)
        {
            let vlan = usize::from(u16::from_be_bytes([tag[0], tag[1]])) % VLANS;
            if vlans[vlan / 64] & (1 << (vlan % 64)) == 0 {
                return false;
            }
        }
        if *to == BROADCAST {
            !self.is(Mode::NoBroadcast)
        } else if Mac(*to).is_multicast() {
            !self.is(Mode::NoMulticast) && (self.is(Mode::AllMulticast) || self.multicast.holds(*to))
        } else {
            !self.is(Mode::NoUnicast) && (self.is(Mode::AllUnicast) || self.mac.0 == *to || self.unicast.holds(*to))
        }
    }

    /// The addresses that [`Self::wants`] lets pass, for a filter that knows addresses only; none if that cannot be
    /// said by a list. Such a filter may let more pass than wanted, not less.
    pub fn addresses(&self) -> Option<Vec<[u8; 6]>> {
        let every = self.is(Mode::Promiscuous)
            || self.is(Mode::AllUnicast)
            || self.is(Mode::AllMulticast)
            || self.unicast.overflown
            || self.multicast.overflown;
        if every {
            return None;
        }
        Some([&[self.mac.0], &*self.unicast.macs, &[BROADCAST], &*self.multicast.macs].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const OTHERS: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const GROUP: [u8; 6] = [1, 0, 0x5e, 0, 0, 1];

    fn filter(features: u64) -> Filter {
        Filter::new(Mac(OURS), features)
    }

    fn frame(to: [u8; 6]) -> Vec<u8> {
        [&to[..], &[0; 54]].concat()
    }

    fn tagged(to: [u8; 6], vlan: u16) -> Vec<u8> {
        let mut frame = frame(to);
        frame[12..14].copy_from_slice(&TAGGED);
        frame[14..16].copy_from_slice(&(0x6000 | vlan).to_be_bytes());
        frame
    }

    #[test]
    fn a_driver_that_cannot_say_gets_all_and_one_that_can_gets_its_own() {
        let passes = |features| [OURS, OTHERS, GROUP, BROADCAST].map(|to| filter(features).wants(&frame(to)));
        assert_eq!(passes(0), [true; 4]);
        assert_eq!(passes(F_CTRL_RX), [true, false, false, true]);
    }

    #[test]
    fn each_mode_does_what_it_is_called() {
        for (mode, expected) in [
            (Mode::Promiscuous, [true, true, true, true]),
            (Mode::AllMulticast, [true, false, true, true]),
            (Mode::AllUnicast, [true, true, false, true]),
            (Mode::NoMulticast, [true, false, false, true]),
            (Mode::NoUnicast, [false, false, false, true]),
            (Mode::NoBroadcast, [true, false, false, false]),
        ] {
            let mut filter = filter(F_CTRL_RX);
            filter.set_mode(mode, true);
            assert_eq!([OURS, OTHERS, GROUP, BROADCAST].map(|to| filter.wants(&frame(to))), expected, "{mode:?}");
            filter.set_mode(mode, false);
            assert!(filter.wants(&frame(OURS)) && !filter.wants(&frame(OTHERS)) && filter.wants(&frame(BROADCAST)));
        }
        let mut filter = filter(F_CTRL_RX);
        filter.set_mode(Mode::AllMulticast, true);
        filter.set_mode(Mode::NoMulticast, true);
        assert!(!filter.wants(&frame(GROUP)), "the suppression goes first");
    }

    #[test]
    fn lists_let_pass_what_they_name_and_everything_when_they_are_too_long() {
        let mut filter = filter(F_CTRL_RX);
        filter.set_tables(Table::new(&[OTHERS]), Table::new(&[GROUP]));
        assert!(filter.wants(&frame(OTHERS)) && filter.wants(&frame(GROUP)));
        assert_eq!(filter.addresses().unwrap(), [OURS, OTHERS, BROADCAST, GROUP]);
        filter.set_tables(Table::default(), Table::new(&[[3; 6]; TABLE_MOST + 1]));
        assert!(!filter.wants(&frame(OTHERS)) && filter.wants(&frame(GROUP)));
        assert_eq!(filter.addresses(), None);
        filter.set_mac(Mac(OTHERS));
        assert!(filter.wants(&frame(OTHERS)) && !filter.wants(&frame(OURS)));
    }

    #[test]
    fn vlans_pass_that_were_added_and_frames_without_a_tag() {
        assert!(filter(F_CTRL_RX).wants(&tagged(OURS, 7)), "a driver that cannot say gets all");
        let mut filter = filter(F_CTRL_RX | F_CTRL_VLAN);
        assert!(!filter.wants(&tagged(OURS, 7)) && filter.wants(&frame(OURS)));
        assert!(filter.set_vlan(7, true) && filter.set_vlan(4095, true) && !filter.set_vlan(4096, true));
        assert!(filter.wants(&tagged(OURS, 7)) && !filter.wants(&tagged(OURS, 8)));
        assert!(filter.set_vlan(7, false) && !filter.wants(&tagged(OURS, 7)));
    }

    proptest! {
        #[test]
        fn any_frame_is_judged(bytes in prop::collection::vec(any::<u8>(), 0..24), modes in any::<u8>()) {
            let mut filter = filter(F_CTRL_RX | F_CTRL_VLAN);
            Mode::ALL.into_iter().for_each(|mode| filter.set_mode(mode, modes & (1 << mode as u8) != 0));
            let wanted = filter.wants(&bytes);
            prop_assert!(wanted || bytes.len() >= 6);
            // The coarser filter never drops what the finer one wants.
            if let (true, Some(addresses), Some(to)) = (wanted, filter.addresses(), bytes.first_chunk::<6>()) {
                prop_assert!(addresses.contains(to));
            }
        }
    }
}
