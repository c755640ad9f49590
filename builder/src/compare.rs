//! What two builds differ in: who needs more bytes, who needs less, what came, what went, which packages are new.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde::Serialize;
use thimble_spec::manifest::{Object, Origin, Room};

use crate::ledger::room_name;

/// How many objects a text names; JSON has all.
const SHOWN: usize = 40;
/// How many a hint names.
const HINTED: usize = 5;

/// What differs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Bytes of all objects, before and now.
    pub total: Bytes,
    /// Rooms whose bytes changed, the largest change first.
    pub rooms: Vec<RoomChange>,
    /// Objects with other content, that came, or that went; the largest change first.
    pub objects: Vec<ObjectChange>,
    /// Bytes that objects of the same content take more or less, because what they are packed with changed.
    pub repacked: i64,
    /// Packages with another version, that came, or that went, by name.
    pub packages: Vec<PackageChange>,
}

/// Bytes before and now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Bytes {
    /// Before.
    pub old: u64,
    /// Now.
    pub new: u64,
}

impl Bytes {
    fn change(self) -> i64 {
        // Artefacts have far fewer bytes than 2^63.
        self.new.cast_signed().saturating_sub(self.old.cast_signed())
    }
}

/// A room that changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RoomChange {
    /// Which.
    pub room: Room,
    /// Its bytes.
    pub bytes: Bytes,
}

/// An object that changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ObjectChange {
    /// Its name.
    pub name: String,
    /// Who pays.
    pub room: Room,
    /// Its bytes as they are packed.
    pub bytes: Bytes,
    /// `came`, `went`, `grew`, `shrank`, `changed`.
    pub how: &'static str,
}

/// A package that changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PackageChange {
    /// Its name.
    pub package: String,
    /// Versions before: more than one where two images were made on different days.
    pub old: Vec<String>,
    /// Versions now.
    pub new: Vec<String>,
}

/// Compares.
pub fn between(old: &[Object], new: &[Object]) -> Difference {
    let by_name = |objects: &'_ [Object]| -> BTreeMap<(Room, String), Object> {
        let one = |object: &Object| ((object.room, object.name.clone()), object.clone());
        objects.iter().filter(|object| object.room != Room::Artefact).map(one).collect()
    };
    let (old, new) = (by_name(old), by_name(new));
    let mut difference = Difference::default();
    let mut rooms: BTreeMap<Room, Bytes> = BTreeMap::new();
    let names: BTreeSet<&(Room, String)> = old.keys().chain(new.keys()).collect();
    for key in names {
        let (before, now) = (old.get(key), new.get(key));
        let packed = |object: Option<&Object>| object.map_or(0, |object| object.packed);
        let bytes = Bytes { old: packed(before), new: packed(now) };
        for sum in [&mut difference.total, rooms.entry(key.0).or_default()] {
            sum.old += bytes.old;
            sum.new += bytes.new;
        }
        let how = match (before, now) {
            (None, _) => "came",
            (_, None) => "went",
            (Some(before), Some(now)) if before.sha256 == now.sha256 => {
                difference.repacked += bytes.change();
                continue;
            }
            _ if bytes.new > bytes.old => "grew",
            _ if bytes.new < bytes.old => "shrank",
            _ => "changed",
        };
        difference.objects.push(ObjectChange { name: key.1.clone(), room: key.0, bytes, how });
    }
    difference.objects.sort_by_key(|object| std::cmp::Reverse(object.bytes.change().unsigned_abs()));
    let changed = rooms.into_iter().filter(|(_, bytes)| bytes.change() != 0);
    difference.rooms = changed.map(|(room, bytes)| RoomChange { room, bytes }).collect();
    difference.rooms.sort_by_key(|room| std::cmp::Reverse(room.bytes.change().unsigned_abs()));
    difference.packages = packages(&old, &new);
    difference
}

type Objects = BTreeMap<(Room, String), Object>;

fn packages(old: &Objects, new: &Objects) -> Vec<PackageChange> {
    let (old, new) = (versions(old), versions(new));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let of = |map: &BTreeMap<String, BTreeSet<String>>, name: &String| -> Vec<String> {
        map.get(name).into_iter().flatten().cloned().collect()
    };
    let change = |name: &String| PackageChange { package: name.clone(), old: of(&old, name), new: of(&new, name) };
    names.into_iter().map(change).filter(|change| change.old != change.new).collect()
}

fn versions(objects: &Objects) -> BTreeMap<String, BTreeSet<String>> {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut add = |name: &str, version: &str| {
        versions.entry(name.to_owned()).or_default().insert(version.to_owned());
    };
    for object in objects.values() {
        match &object.origin {
            Origin::Package { package, version } | Origin::Source { package, version, .. } => add(package, version),
            Origin::Image { packages, .. } => {
                for (name, version) in packages.iter().filter_map(|exact| exact.split_once('=')) {
                    add(name, version);
                }
            }
            Origin::Thimble => {}
        }
    }
    versions
}

impl Difference {
    /// All of it, for people.
    pub fn text(&self) -> String {
        // Writing to a string does not fail.
        let mut text = String::from("      change           old           new  room\n");
        for change in &self.rooms {
            let _ = writeln!(text, "{}  {}", numbers(change.bytes), room_name(change.room));
        }
        let _ = writeln!(text, "{}  together", numbers(self.total));
        if self.objects.is_empty() && self.packages.is_empty() {
            text.push_str("\nno object differs\n");
            return text;
        }
        text.push_str("\n      change           old           new  room          object\n");
        for change in self.objects.iter().take(SHOWN) {
            let room = room_name(change.room);
            let how = match change.how {
                how @ ("came" | "went" | "changed") => format!(" ({how})"),
                _ => String::new(),
            };
            let _ = writeln!(text, "{}  {room:<12}  {}{how}", numbers(change.bytes), change.name);
        }
        let rest = &self.objects[self.objects.len().min(SHOWN)..];
        if !rest.is_empty() {
            let change: i64 = rest.iter().map(|object| object.bytes.change()).sum();
            let _ = writeln!(text, "{change:>+12}  {:26}  {:<12}  {} more objects", "", "", rest.len());
        }
        if self.repacked != 0 {
            let _ = writeln!(
                text,
                "{:>+12}  {:26}  {:<12}  objects of the same content, packed with others",
                self.repacked, "", ""
            );
        }
        if !self.packages.is_empty() {
            text.push_str("\npackage\n");
        }
        for change in &self.packages {
            let versions = |versions: &[String]| match versions {
                [] => "-".to_owned(),
                some => some.join(", "),
            };
            let _ = writeln!(text, "  {}  {} -> {}", change.package, versions(&change.old), versions(&change.new));
        }
        text
    }

    /// What grew most, in a few lines; nothing if nothing grew.
    pub fn growth(&self) -> String {
        let grew: Vec<&ObjectChange> = self.objects.iter().filter(|object| object.bytes.change() > 0).collect();
        let mut text = String::new();
        for object in grew.iter().take(HINTED) {
            let _ = writeln!(text, "{:>+12}  {:<12}  {}", object.bytes.change(), room_name(object.room), object.name);
        }
        text
    }
}

fn numbers(bytes: Bytes) -> String {
    format!("{:>+12}  {:>12}  {:>12}", bytes.change(), bytes.old, bytes.new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn object(name: &str, room: Room, packed: u64, content: &str) -> Object {
        let origin = Origin::Image { recipe: "web".into(), packages: vec![format!("nginx={content}")] };
        Object { name: name.into(), room, size: packed * 2, packed, sha256: content.into(), origin }
    }

    #[test]
    fn the_largest_change_comes_first_and_versions_are_told() {
        let old = [
            object("web.erofs", Room::Images, 1000, "1.22"),
            object("gone.ko", Room::HostModules, 50, "1.22"),
            object("same.ko", Room::HostModules, 70, "1.22"),
        ];
        let mut new = [
            object("web.erofs", Room::Images, 1500, "1.23"),
            object("new.ko", Room::HostModules, 20, "1.22"),
            object("same.ko", Room::HostModules, 72, "1.22"),
        ];
        new[1].origin = Origin::Thimble;
        new[2].origin = Origin::Thimble;
        let difference = between(&old, &new);
        assert_eq!(
            difference.text(),
            "      change           old           new  room\n\
             \x20       +500          1000          1500  images\n\
             \x20        -28           120            92  host-modules\n\
             \x20       +472          1120          1592  together\n\
             \n\
             \x20     change           old           new  room          object\n\
             \x20       +500          1000          1500  images        web.erofs\n\
             \x20        -50            50             0  host-modules  gone.ko (went)\n\
             \x20        +20             0            20  host-modules  new.ko (came)\n\
             \x20         +2                              \x20             objects of the same content, packed with others\n\
             \n\
             package\n\
             \x20 nginx  1.22 -> 1.23\n"
        );
        assert_eq!(difference.growth(), "        +500  images        web.erofs\n         +20  host-modules  new.ko\n");
    }

    #[test]
    fn the_same_build_differs_in_nothing() {
        let objects = [object("web.erofs", Room::Images, 1000, "1.22")];
        let difference = between(&objects, &objects);
        assert!(difference.rooms.is_empty() && difference.objects.is_empty());
        assert!(difference.text().ends_with("no object differs\n"));
        assert_eq!(difference.growth(), "");
    }

    proptest! {
        #[test]
        fn every_byte_of_the_change_is_accounted_for(
            old in proptest::collection::btree_map("[a-f]", (0u64..1000, "[xy]"), 0..8),
            new in proptest::collection::btree_map("[a-f]", (0u64..1000, "[xy]"), 0..8),
        ) {
            let objects = |map: &std::collections::BTreeMap<String, (u64, String)>| -> Vec<Object> {
                map.iter().map(|(name, (packed, content))| object(name, Room::Host, *packed, content)).collect()
            };
            let difference = between(&objects(&old), &objects(&new));
            let named: i64 = difference.objects.iter().map(|object| object.bytes.change()).sum();
            prop_assert_eq!(named + difference.repacked, difference.total.change());
            let rooms: i64 = difference.rooms.iter().map(|room| room.bytes.change()).sum();
            prop_assert_eq!(rooms, difference.total.change());
        }
    }
}
