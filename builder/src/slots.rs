//! What the slots of a flash disk hold, for people and programs that ask.

use std::fmt::Write;
use std::fs::File;
use std::path::Path;

use serde::Serialize;
use thimble_spec::slot::Slot;
use thimble_store::{Device, Error as StoreError, Partition, Store, silent};

use crate::error::{Error, Result};
use crate::flash::read::{self, Image};

/// The slots of a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Slots {
    /// The one that was last confirmed to work.
    pub good: Slot,
    /// `tries`, less its starts that were not confirmed since.
    pub good_left: u8,
    /// The one on trial.
    pub trial: Option<Slot>,
    /// How often it is started yet; 0: it was given up.
    pub trial_left: u8,
    /// How many tries there are at first.
    pub tries: u8,
    /// What is in them, those that are not empty.
    pub slots: Vec<View>,
    /// All objects, by name.
    pub objects: Vec<Object>,
    /// Bytes that are free for updates.
    pub free: u64,
}

/// A slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct View {
    /// Which.
    pub slot: Slot,
    /// The appliance.
    pub appliance: String,
    /// Its manifest hash.
    pub manifest: String,
    /// Whether somebody signed it.
    pub signed: bool,
    /// What is wrong with it, if anything is.
    pub damage: Option<String>,
}

/// An object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Object {
    /// Its name on the disk: the first digits of its SHA-256.
    pub name: String,
    /// What a release calls it; nothing if none needs it.
    pub part: Option<String>,
    /// Its size in bytes.
    pub bytes: u64,
    /// The slots that start it.
    pub slots: Vec<Slot>,
}

/// Reads the slots of an image, and all that they hold. None if it has no boot partition with slots.
///
/// # Errors
/// It cannot be read, or its FAT or its state is damaged; a damaged slot is no error but said of it.
pub fn of_image(path: &Path, image: &Image) -> Result<Option<Slots>> {
    let Some(part) = image.partitions.iter().find(|part| part.name == read::BOOT_PARTITION) else { return Ok(None) };
    let file = File::open(path).map_err(Error::io("read", path))?;
    let told = |error: StoreError| Error::environment(format!("{}: {error}", path.display()));
    match Store::open(Partition::of_file(file, part.start, part.bytes)) {
        Ok(store) => of_store(&store).map(Some).map_err(told),
        Err(StoreError::NoStore(_)) => Ok(None),
        Err(error) => Err(told(error)),
    }
}

/// Reads the slots of a store.
///
/// # Errors
/// See [`of_image`].
pub fn of_store<D: Device>(store: &Store<D>) -> Result<Slots, StoreError> {
    let state = store.state()?;
    let mut objects: Vec<Object> = store
        .objects()?
        .into_iter()
        .map(|stored| Object { name: stored.name, part: None, bytes: stored.bytes, slots: Vec::new() })
        .collect();
    let mut slots = Vec::new();
    for slot in Slot::BOTH {
        let envelope = match store.release(slot) {
            Ok(Some(envelope)) => envelope,
            Ok(None) => continue,
            Err(StoreError::Slot { reason, .. }) => {
                let unknown = String::new;
                slots.push(View {
                    slot,
                    appliance: unknown(),
                    manifest: unknown(),
                    signed: false,
                    damage: Some(reason),
                });
                continue;
            }
            Err(error) => return Err(error),
        };
        let release = envelope.release();
        for part in release.parts() {
            let named = objects.iter_mut().find(|object| object.name == part.store_name());
            if let Some(object) = named.filter(|object| !object.slots.contains(&slot)) {
                object.slots.push(slot);
                object.part.get_or_insert_with(|| part.name.clone());
            }
        }
        let damage = match store.verify(slot, &mut silent) {
            Ok(_) => None,
            Err(StoreError::Slot { reason, .. }) => Some(reason),
            Err(error) => return Err(error),
        };
        let (appliance, manifest) = (release.appliance.clone(), release.manifest.clone());
        slots.push(View { slot, appliance, manifest, signed: envelope.is_signed(), damage });
    }
    Ok(Slots {
        good: state.good,
        good_left: state.good_left,
        trial: state.trial,
        trial_left: state.trial_left,
        tries: state.tries,
        slots,
        objects,
        free: store.free()?,
    })
}

impl Slots {
    /// What is wrong with the slots, a sentence each.
    pub fn damage(&self) -> Vec<String> {
        let wrong = |view: &View| view.damage.as_ref().map(|damage| format!("slot {} is damaged: {damage}", view.slot));
        self.slots.iter().filter_map(wrong).collect()
    }

    /// As people read it.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        for slot in Slot::BOTH {
            let Some(view) = self.slots.iter().find(|view| view.slot == slot) else {
                let _ = writeln!(text, "slot {slot}: empty");
                continue;
            };
            let signed = if view.signed { "signed" } else { "not signed" };
            let what = match &view.damage {
                Some(damage) => format!("damaged: {damage}"),
                None => format!("{} {:.12}, {signed}", view.appliance, view.manifest),
            };
            let _ = writeln!(text, "slot {slot}: {what}{}", self.role(slot));
        }
        text.push_str("\n       bytes  slots  object       what it is\n");
        for object in &self.objects {
            let used = |slot| if object.slots.contains(&slot) { slot.as_str() } else { " " };
            let what = object.part.as_deref().unwrap_or("nobody's: the next update removes it");
            let _ =
                writeln!(text, "{:>12}  {} {}    {}  {what}", object.bytes, used(Slot::A), used(Slot::B), object.name);
        }
        let _ = writeln!(text, "{:>12}                      free for updates", self.free);
        text
    }

    fn role(&self, slot: Slot) -> String {
        if slot == self.good {
            let unconfirmed = if self.good_left == self.tries { "" } else { "; its last start was not confirmed" };
            return format!("; the good one{unconfirmed}");
        }
        match (self.trial == Some(slot), self.trial_left) {
            (false, _) => String::new(),
            (true, 0) => "; on trial, and given up".to_owned(),
            (true, left) => format!("; on trial, {left} of {} tries left", self.tries),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_shown_with_what_they_share() {
        let view = |slot, manifest: &str, damage: Option<&str>| View {
            slot,
            appliance: "demo".into(),
            manifest: manifest.repeat(64),
            signed: true,
            damage: damage.map(str::to_owned),
        };
        let object = |name: &str, part: Option<&str>, bytes, slots: &[Slot]| Object {
            name: name.into(),
            part: part.map(str::to_owned),
            bytes,
            slots: slots.to_vec(),
        };
        let mut slots = Slots {
            good: Slot::A,
            good_left: 3,
            trial: Some(Slot::B),
            trial_left: 2,
            tries: 3,
            slots: vec![view(Slot::A, "1", None), view(Slot::B, "2", None)],
            objects: vec![
                object("0123456789a", Some("vmlinuz"), 8_000_000, &Slot::BOTH),
                object("11111111111", Some("node.cpio"), 5120, &[Slot::B]),
                object("22222222222", None, 7, &[]),
            ],
            free: 1024,
        };
        assert_eq!(
            slots.text(),
            "slot a: demo 111111111111, signed; the good one\n\
             slot b: demo 222222222222, signed; on trial, 2 of 3 tries left\n\
             \n\
             \x20      bytes  slots  object       what it is\n\
             \x20    8000000  a b    0123456789a  vmlinuz\n\
             \x20       5120    b    11111111111  node.cpio\n\
             \x20          7         22222222222  nobody's: the next update removes it\n\
             \x20       1024                      free for updates\n"
        );
        slots.slots = vec![view(Slot::B, "2", Some("vmlinuz is missing"))];
        slots.trial_left = 0;
        assert!(
            slots.text().starts_with("slot a: empty\nslot b: damaged: vmlinuz is missing; on trial, and given up\n")
        );
        assert_eq!(slots.damage(), ["slot b is damaged: vmlinuz is missing"]);
    }
}
