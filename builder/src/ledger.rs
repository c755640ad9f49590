//! Who spends each byte, as a table.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;
use thimble_spec::manifest::Room;

/// A line of the ledger: who spends how much of the disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Space {
    /// Which part of the appliance pays.
    pub room: Room,
    /// What it is: a path on the EFI system partition, or words.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
}

impl Space {
    /// A line.
    pub fn new(room: Room, name: impl Into<String>, bytes: u64) -> Self {
        Self { room, name: name.into(), bytes }
    }
}

/// The name of a room, as the manifest writes it.
pub fn room_name(room: Room) -> &'static str {
    match room {
        Room::Boot => "boot",
        Room::HostKernel => "host-kernel",
        Room::HostModules => "host-modules",
        Room::Host => "host",
        Room::GuestKernel => "guest-kernel",
        Room::GuestInitrd => "guest-initrd",
        Room::Images => "images",
        Room::Data => "data",
        Room::Artefact => "artefact",
    }
}

/// Bytes of each room.
pub fn by_room(spaces: &[Space]) -> BTreeMap<Room, u64> {
    let mut rooms = BTreeMap::new();
    for space in spaces {
        *rooms.entry(space.room).or_insert(0) += space.bytes;
    }
    rooms
}

/// The rooms with their shares of the budget, then what is in them; each largest first.
pub fn table(spaces: &[Space], budget: u64) -> String {
    let mut rooms: Vec<(Room, u64)> = by_room(spaces).into_iter().collect();
    rooms.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let mut objects: Vec<&Space> = spaces.iter().collect();
    objects.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));

    let mut text = String::from("       bytes       %  room\n");
    let mut line = |bytes: u64, what: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{bytes:>12}  {:>6}  {what}", percent(bytes, budget));
    };
    for (room, bytes) in &rooms {
        line(*bytes, room_name(*room));
    }
    line(rooms.iter().map(|(_, bytes)| bytes).sum(), "together");
    text.push_str("\n       bytes       %  room          object\n");
    for space in objects {
        let share = percent(space.bytes, budget);
        let _ = writeln!(text, "{:>12}  {share:>6}  {:<12}  {}", space.bytes, room_name(space.room), space.name);
    }
    text
}

/// `12.3%`, in whole tenths.
fn percent(bytes: u64, budget: u64) -> String {
    let tenths = u128::from(bytes) * 1000 / u128::from(budget.max(1));
    format!("{}.{}%", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_stand_first_and_shares_are_of_the_budget() {
        let space = |room, name: &str, bytes| Space { room, name: name.to_owned(), bytes };
        let spaces = [
            space(Room::Boot, "MBR and GPT", 24),
            space(Room::Images, "web.erofs", 400),
            space(Room::Images, "db.erofs", 500),
        ];
        assert_eq!(
            table(&spaces, 1000),
            "       bytes       %  room\n\
             \x20        900   90.0%  images\n\
             \x20         24    2.4%  boot\n\
             \x20        924   92.4%  together\n\
             \n\
             \x20      bytes       %  room          object\n\
             \x20        500   50.0%  images        db.erofs\n\
             \x20        400   40.0%  images        web.erofs\n\
             \x20         24    2.4%  boot          MBR and GPT\n"
        );
        assert_eq!(room_name(Room::GuestInitrd), "guest-initrd");
    }
}
