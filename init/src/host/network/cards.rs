//! Which card gets which name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use thimble_spec::appliance::{Match, PciPath};
use thimble_spec::names::Mac;

use crate::net::INTERFACES;

/// A network card, as far as definitions tell cards apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// Its number, the same as long as it is there.
    pub index: u32,
    /// Its name now.
    pub name: String,
    /// The address that it was made with.
    pub mac: Option<Mac>,
    /// Where it is plugged in.
    pub path: Option<PciPath>,
    /// Its driver.
    pub driver: Option<String>,
}

/// A card gets another name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rename {
    /// Its number.
    pub index: u32,
    /// Its name before.
    pub from: String,
    /// And then.
    pub to: String,
}

/// The cards that have got their names, by number; those that are gone are forgotten.
#[derive(Debug, Default)]
pub struct Names {
    given: BTreeMap<u32, String>,
}

impl Names {
    /// What is to be renamed, in order. A card that has a name that another shall have, and none of its own, gets
    /// `cardN`, N being its number.
    pub fn give(&mut self, declared: &BTreeMap<String, Match>, cards: &[Card]) -> Vec<Rename> {
        self.given.retain(|index, name| {
            declared.contains_key(name) && cards.iter().any(|card| card.index == *index && card.name == *name)
        });
        let taken: BTreeSet<String> = self.given.values().cloned().collect();
        for (name, matches) in declared.iter().filter(|(name, _)| !taken.contains(*name)) {
            let free = cards.iter().filter(|card| !self.given.contains_key(&card.index) && is_meant(matches, card));
            // Of several the first by place, which is the same at every boot.
            if let Some(card) = free.min_by_key(|card| (card.path.is_none(), card.path, card.index)) {
                self.given.insert(card.index, name.clone());
            }
        }
        let mut now: BTreeMap<u32, String> = cards.iter().map(|card| (card.index, card.name.clone())).collect();
        let mut renames = Vec::new();
        for (index, to) in &self.given {
            let Some(from) = now.get(index).cloned().filter(|from| from != to) else { continue };
            if let Some((other, name)) = now.iter().find(|(_, name)| *name == to).map(|(a, b)| (*a, b.clone())) {
                let aside = format!("card{other}");
                renames.push(Rename { index: other, from: name, to: aside.clone() });
                now.insert(other, aside);
            }
            renames.push(Rename { index: *index, from, to: to.clone() });
            now.insert(*index, to.clone());
        }
        renames
    }
}

/// Whether all that is said holds.
fn is_meant(matches: &Match, card: &Card) -> bool {
    let Match { mac, path, driver, name } = matches;
    (mac.is_none() || *mac == card.mac)
        && (path.is_none() || *path == card.path)
        && (driver.is_none() || *driver == card.driver)
        && name.as_ref().is_none_or(|name| *name == card.name)
}

/// Where a card is plugged in and what drives it, from sysfs.
pub fn place(name: &str) -> (Option<PciPath>, Option<String>) {
    let device = Path::new(INTERFACES).join(name).join("device");
    // A virtio card is a device of its PCI device.
    let path = fs::canonicalize(&device)
        .ok()
        .and_then(|path| path.iter().rev().find_map(|part| part.to_str()?.parse::<PciPath>().ok()));
    let driver = fs::read_link(device.join("driver")).ok();
    (path, driver.and_then(|driver| Some(driver.file_name()?.to_str()?.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn card(index: u32, name: &str) -> Card {
        let mac = format!("52:54:00:00:00:{index:02x}").parse().ok();
        let path = format!("00:{index:02x}.0").parse().ok();
        Card { index, name: name.to_owned(), mac, path, driver: Some("virtio_net".to_owned()) }
    }

    fn by_mac(index: u32) -> Match {
        Match { mac: card(index, "").mac, ..Match::default() }
    }

    fn declared(names: &[(&str, Match)]) -> BTreeMap<String, Match> {
        names.iter().map(|(name, matches)| ((*name).to_owned(), matches.clone())).collect()
    }

    fn after(cards: &[Card], renames: &[Rename]) -> Vec<String> {
        let mut cards = cards.to_vec();
        for rename in renames {
            assert!(!cards.iter().any(|card| card.name == rename.to), "{renames:?}");
            let card = cards.iter_mut().find(|card| card.index == rename.index).unwrap();
            assert_eq!(card.name, rename.from);
            card.name.clone_from(&rename.to);
        }
        cards.into_iter().map(|card| card.name).collect()
    }

    #[test]
    fn cards_swap_their_names() {
        let cards = [card(2, "eth0"), card(3, "eth1")];
        for declared in [
            declared(&[("eth0", by_mac(3)), ("eth1", by_mac(2))]),
            declared(&[
                ("eth0", Match { name: Some("eth1".to_owned()), ..Match::default() }),
                ("eth1", Match { name: Some("eth0".to_owned()), ..Match::default() }),
            ]),
        ] {
            let mut names = Names::default();
            let renames = names.give(&declared, &cards);
            assert_eq!(after(&cards, &renames), ["eth1", "eth0"]);
            // Once: the names that they have now are not the kernel's.
            let cards = [card(2, "eth1"), card(3, "eth0")];
            assert_eq!(names.give(&declared, &cards), []);
        }
    }

    #[test]
    fn a_card_that_was_pulled_is_forgotten_and_its_successor_gets_the_name() {
        let declared = declared(&[("lan0", Match { driver: Some("virtio_net".to_owned()), ..Match::default() })]);
        let mut names = Names::default();
        // The first by its place, whatever the order in which they came.
        let cards = [card(9, "eth0"), card(4, "eth1")];
        assert_eq!(after(&cards, &names.give(&declared, &cards)), ["eth0", "lan0"]);
        assert_eq!(names.give(&declared, &[card(9, "eth0"), card(4, "lan0")]), []);
        assert_eq!(names.give(&declared, &[card(9, "eth0")]).len(), 1);
        assert_eq!(names.give(&declared, &[card(9, "lan0"), card(10, "eth1")]), []);
    }

    proptest! {
        /// Any names, in any order: each declared card that is there ends with its name, and no name is ever taken twice.
        #[test]
        fn all_get_their_names(wanted in Just((2u32..7).collect::<Vec<_>>()).prop_shuffle(), said in 0usize..=5) {
            let cards: Vec<Card> = (2..7).map(|index| card(index, &format!("eth{}", index - 2))).collect();
            let pairs: Vec<(String, Match)> =
                wanted.iter().enumerate().take(said).map(|(number, index)| (format!("eth{number}"), by_mac(*index))).collect();
            let declared: BTreeMap<String, Match> = pairs.iter().cloned().collect();
            let mut names = Names::default();
            let result = after(&cards, &names.give(&declared, &cards));
            for (number, index) in wanted.iter().enumerate().take(said) {
                prop_assert_eq!(&result[*index as usize - 2], &format!("eth{number}"));
            }
        }
    }
}
