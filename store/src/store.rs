//! The store itself: two slots, the objects that they share, and the state that says which is started.

use std::collections::BTreeSet;
use std::io::Read;
use std::ops::ControlFlow;

use serde::Serialize;
use sha2::{Digest, Sha256};
use thimble_spec::release::{Part, Release};
use thimble_spec::slot::{Slot, VolumeId};

use crate::device::Device;
use crate::envelope::{Envelope, MAX_TEXT};
use crate::error::{Error, Result};
use crate::fat::{Dir, Entry, Fat, Name, SECTOR};
use crate::script;
use crate::state::{self, State};
use crate::{hash, script::sums};

/// What is being done, for whoever shows it. All sizes are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// An object of the store is read and compared with its hash.
    Checking {
        /// The object.
        part: &'a Part,
        /// Bytes done.
        done: u64,
    },
    /// An object is written.
    Writing {
        /// The object.
        part: &'a Part,
        /// Bytes done.
        done: u64,
    },
    /// An object is there already; its bytes in the update are passed over.
    Sharing {
        /// The object.
        part: &'a Part,
    },
}

/// Is told each step; `Break` stops the work with [`Error::Stopped`], and everything stays sound.
pub type Progress<'a> = dyn FnMut(Step<'_>) -> ControlFlow<()> + 'a;

/// A progress that shows nothing and never stops.
pub fn silent(_: Step<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// What an update would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The slot that it goes to.
    pub into: Slot,
    /// Objects that are to be written.
    pub missing: Vec<Part>,
    /// Objects that are there, whole.
    pub shared: Vec<Part>,
    /// Bytes that the missing ones and the slot's own files take on the disk.
    pub needed: u64,
    /// Bytes that are free for them, once all is gone that the good slot does not need.
    pub free: u64,
}

/// An object of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stored {
    /// Its name: the first digits of its SHA-256.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// A slot all of whose objects were read and found right. Only [`Store::verify`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    slot: Slot,
    release: Release,
}

impl Whole {
    /// The slot.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// What it starts.
    pub fn release(&self) -> &Release {
        &self.release
    }
}

/// The boot partition.
///
/// The order of an update is [`Store::plan`], [`Store::begin`], [`Store::add_object`] for each missing one,
/// [`Store::install`], [`Store::verify`], [`Store::set_trial`]; [`crate::update::apply`] does all of that. Up to the last
/// step, which is one sector's write, the boot loader starts what it started before.
#[derive(Debug)]
pub struct Store<D> {
    fat: Fat<D>,
    thimble: Dir,
    objects: Dir,
}

impl<D: Device> Store<D> {
    /// Opens a store. Nothing is written.
    ///
    /// # Errors
    /// The device cannot be read, holds no sound FAT16, or one without `thimble/objects`.
    pub fn open(device: D) -> Result<Self> {
        let fat = Fat::open(device)?;
        let dir = |above, name: &str| -> Result<Dir> {
            let none = || Error::NoStore(format!("it has no directory {name}, so it was made without [update]"));
            let entry = fat.find(above, file_name(name)?)?.filter(|entry| entry.directory).ok_or_else(none)?;
            Ok(Dir::At(entry.cluster))
        };
        let thimble = dir(Dir::Root, "thimble")?;
        let objects = dir(thimble, "objects")?;
        Ok(Self { fat, thimble, objects })
    }

    /// Opens a new disk's store and gives it a state: its only slot is `good`, which is still to be installed.
    ///
    /// # Errors
    /// As [`Store::open`]; there is no room.
    pub fn create(device: D, good: Slot, tries: u8) -> Result<Self> {
        let mut store = Self::open(device)?;
        store.write_file("state", &State::new(good, tries).to_block())?;
        Ok(store)
    }

    /// The number that the kernel's command line names this partition by.
    pub fn volume(&self) -> VolumeId {
        self.fat.volume()
    }

    fn file(&self, name: &str) -> Result<Option<Entry>> {
        self.fat.find(self.thimble, file_name(name)?)
    }

    fn write_file(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.fat.add(self.thimble, file_name(name)?, content)
    }

    /// Which slot is started.
    ///
    /// # Errors
    /// There is no state, or it is damaged: the boot loader then starts slot a if it is whole, else b.
    pub fn state(&self) -> Result<State> {
        let entry = self.file("state")?.ok_or_else(|| Error::damaged("it has no file thimble/state"))?;
        State::from_block(&self.fat.read_small(&entry, state::BYTES)?)
    }

    /// Writes the state: one sector, in place.
    fn set_state(&mut self, state: State) -> Result<()> {
        let block = state.to_block();
        match self.file("state")? {
            Some(entry) if entry.size as usize == state::BYTES => {
                let mut sector = [0; SECTOR];
                sector.copy_from_slice(&block[..SECTOR]);
                self.fat.write_first_sector(&entry, &sector)?;
            }
            _ => {
                // Whatever damaged it may have damaged more: only clusters that are surely free are written.
                self.fat.reclaim()?;
                self.write_file("state", &block)?;
            }
        }
        if self.state()? == state {
            Ok(())
        } else {
            Err(Error::damaged("thimble/state does not hold what was written to it"))
        }
    }

    /// What a slot starts, without a look at its objects; none if the slot is empty.
    ///
    /// # Errors
    /// The device; a release that cannot be read.
    pub fn release(&self, slot: Slot) -> Result<Option<Envelope>> {
        let Some(entry) = self.file(&format!("{slot}.rel"))? else { return Ok(None) };
        let wrong = |reason: String| Error::Slot { slot, reason };
        let bytes = self.fat.read_small(&entry, MAX_TEXT + 1024)?;
        let envelope = Envelope::read(&bytes[..]).map_err(|error| match error {
            Error::Refused(reason) => wrong(format!("its release is not right: {reason}")),
            other => other,
        })?;
        if envelope.bytes() == bytes { Ok(Some(envelope)) } else { Err(wrong("its release is too long".to_owned())) }
    }

    /// All objects, by name.
    ///
    /// # Errors
    /// The device, or a damaged directory.
    pub fn objects(&self) -> Result<Vec<Stored>> {
        let mut objects: Vec<Stored> = self
            .fat
            .list(self.objects)?
            .into_iter()
            .map(|entry| Stored { name: entry.name.letters(), bytes: u64::from(entry.size) })
            .collect();
        objects.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(objects)
    }

    /// Whether the store has this object, whole.
    fn has(&self, part: &Part, progress: &mut Progress<'_>) -> Result<bool> {
        let Some(entry) = self.fat.find(self.objects, object_name(part)?)? else { return Ok(false) };
        if u64::from(entry.size) != part.size {
            return Ok(false);
        }
        let (mut hasher, mut done) = (Sha256::new(), 0);
        let read = self.fat.read(&entry, &mut |bytes| {
            hasher.update(bytes);
            done += bytes.len() as u64;
            tell(progress, Step::Checking { part, done })
        });
        match read {
            Ok(()) => Ok(hash::finish(hasher) == part.sha256),
            Err(Error::Damaged(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// An object of `most` bytes at most, compared with its hash.
    ///
    /// # Errors
    /// It is larger, missing or damaged; the device.
    pub fn object(&self, part: &Part, most: u64) -> Result<Vec<u8>> {
        let wrong = |what: &str| Error::damaged(format!("the object {} {what}", part.name));
        let entry = self.fat.find(self.objects, object_name(part)?)?.ok_or_else(|| wrong("is missing"))?;
        let most = usize::try_from(most.min(part.size)).unwrap_or(usize::MAX);
        let content = self.fat.read_small(&entry, most)?;
        if hash::hex(&content) == part.sha256 { Ok(content) } else { Err(wrong("is not what its hash says")) }
    }

    /// What installing `release` into the slot beside the good one would do. Reads all objects that it might share.
    ///
    /// # Errors
    /// The device; a damaged state; a good slot of which is not known what it needs.
    pub fn plan(&self, release: &Release, progress: &mut Progress<'_>) -> Result<Plan> {
        let into = self.state()?.good.other();
        let (mut missing, mut shared) = (Vec::new(), Vec::new());
        for part in release.objects() {
            let list = if self.has(part, progress)? { &mut shared } else { &mut missing };
            list.push(part.clone());
        }
        let kept = self.kept(into, &shared)?;
        let free = self.fat.free_without(&|dir, entry| {
            let garbage = dir == self.objects && !kept.contains(&entry.name);
            let replaced = dir == self.thimble && is_of(into, entry);
            !garbage && !replaced
        })?;
        let cluster = self.fat.cluster();
        // The slot's three files, and a cluster by which the directory of objects may grow.
        let own = [release_bytes(release)?, script::script(release, into, self.volume())?.len() as u64, 4096, cluster];
        let needed = missing.iter().map(|part| part.size).chain(own).map(|size| size.next_multiple_of(cluster)).sum();
        Ok(Plan { into, missing, shared, needed, free })
    }

    /// Names of the objects that stay when `into` is written anew: the other slot's, and those to share.
    fn kept(&self, into: Slot, shared: &[Part]) -> Result<BTreeSet<Name>> {
        let keep = into.other();
        let envelope = self.release(keep)?.ok_or(Error::Empty(keep))?;
        envelope.release().parts().chain(shared).map(object_name).collect()
    }

    /// Makes room: forgets the slot that the plan goes to, and all objects that neither the other slot nor the plan needs.
    ///
    /// # Errors
    /// There is not room enough (nothing is changed then), the device, damage.
    pub fn begin(&mut self, plan: &Plan) -> Result<()> {
        let state = self.state()?;
        if state.good == plan.into {
            return Err(Error::Wrong(format!("slot {} is the good one and stays as it is", plan.into)));
        }
        if plan.needed > plan.free {
            return Err(Error::Full { needed: plan.needed, free: plan.free });
        }
        let kept = self.kept(plan.into, &plan.shared)?;
        if state.trial == Some(plan.into) {
            self.set_state(State { trial: None, trial_left: 0, ..state })?;
        }
        self.forget(plan.into)?;
        self.fat.remove(self.objects, &|entry| !kept.contains(&entry.name))?;
        self.fat.reclaim()
    }

    /// Removes a slot's own files, its script first of all.
    fn forget(&mut self, slot: Slot) -> Result<()> {
        let script = file_name(&format!("{slot}.cfg"))?;
        self.fat.remove(self.thimble, &|entry| entry.name == script)?;
        self.fat.remove(self.thimble, &|entry| is_of(slot, entry))
    }

    /// Writes an object from `source`, of which exactly its bytes are read. It has a name only when it is whole and on the
    /// medium; one that is there under its name, damaged, is replaced.
    ///
    /// # Errors
    /// The source is too short or holds something else ([`Error::Refused`], and the store is as before), no room, the device.
    pub fn add_object(&mut self, part: &Part, source: &mut dyn Read, progress: &mut Progress<'_>) -> Result<()> {
        let name = object_name(part)?;
        let size = u32::try_from(part.size).map_err(|_| Error::Wrong(format!("{} is too large", part.name)))?;
        let room = self.fat.room(part.size)?;
        let (mut hasher, mut done) = (Sha256::new(), 0);
        self.fat.write_into(&room, part.size, &mut |buffer| {
            source.read_exact(buffer).map_err(|error| truncated(part, error))?;
            hasher.update(&*buffer);
            done += buffer.len() as u64;
            tell(progress, Step::Writing { part, done })
        })?;
        if hash::finish(hasher) != part.sha256 {
            return Err(altered(part));
        }
        self.fat.name(self.objects, name, room, size)
    }

    /// Writes a slot's own files, its script last; all objects are there.
    ///
    /// # Errors
    /// It is the good slot and not empty, no room, the device.
    pub fn install(&mut self, slot: Slot, envelope: &Envelope) -> Result<()> {
        if self.state()?.good == slot && self.file(&format!("{slot}.rel"))?.is_some() {
            return Err(Error::Wrong(format!("slot {slot} is the good one and stays as it is")));
        }
        let release = envelope.release();
        let script = script::script(release, slot, self.volume())?;
        self.write_file(&format!("{slot}.rel"), envelope.bytes())?;
        self.write_file(&format!("{slot}.sum"), sums(release, slot, &script).as_bytes())?;
        self.write_file(&format!("{slot}.cfg"), script.as_bytes())
    }

    /// Reads all of a slot and compares it with its release's hashes.
    ///
    /// # Errors
    /// It is empty, or damaged: the first thing that is not right, by name.
    pub fn verify(&self, slot: Slot, progress: &mut Progress<'_>) -> Result<Whole> {
        let wrong = |reason: String| Error::Slot { slot, reason };
        let envelope = self.release(slot)?.ok_or(Error::Empty(slot))?;
        let release = envelope.release();
        let script = script::script(release, slot, self.volume())?;
        for (file, expected) in [("sum", sums(release, slot, &script)), ("cfg", script)] {
            let name = format!("{slot}.{file}");
            let content = match self.file(&name)? {
                Some(entry) => self.fat.read_small(&entry, MAX_TEXT)?,
                None => return Err(wrong(format!("it has no file thimble/{name}"))),
            };
            if content != expected.as_bytes() {
                return Err(wrong(format!("thimble/{name} is not what its release says")));
            }
        }
        for part in release.objects() {
            if !self.has(part, progress)? {
                let path = script::object_path(part);
                return Err(wrong(format!("{} ({path}) is missing or not what its release says", part.name)));
            }
        }
        Ok(Whole { slot, release: release.clone() })
    }

    /// From now on the boot loader starts this slot, up to its release's number of tries, and the good one after that.
    /// One sector's write.
    ///
    /// # Errors
    /// It is the good one; the device.
    pub fn set_trial(&mut self, whole: &Whole) -> Result<()> {
        let state = self.state()?;
        if state.good == whole.slot {
            return Err(Error::Wrong(format!("slot {} is the good one, it needs no trial", whole.slot)));
        }
        let tries = whole.release.tries;
        self.set_state(State { trial: Some(whole.slot), trial_left: tries, tries, good_left: tries, ..state })
    }

    /// The good slot is started next, whatever was on trial. One sector's write, none if there is no trial with tries left.
    ///
    /// # Errors
    /// The device; a damaged state.
    pub fn forget_trial(&mut self) -> Result<()> {
        let state = self.state()?;
        if state.next() == state.good { Ok(()) } else { self.set_state(State { trial: None, trial_left: 0, ..state }) }
    }

    /// The running system works: its slot is the good one, with all its tries. One sector's write, none if it stands so
    /// already. A damaged state is made anew.
    ///
    /// # Errors
    /// The slot is empty, the device.
    pub fn confirm(&mut self, slot: Slot) -> Result<()> {
        let envelope = self.release(slot)?.ok_or(Error::Empty(slot))?;
        let tries = envelope.release().tries;
        match self.state() {
            Ok(state) => {
                let confirmed = State { tries, ..state }.confirmed(slot);
                if confirmed == state { Ok(()) } else { self.set_state(confirmed) }
            }
            Err(Error::Damaged(_)) => self.set_state(State::new(slot, tries)),
            Err(error) => Err(error),
        }
    }

    /// Bytes in clusters that hold nothing.
    ///
    /// # Errors
    /// The device, or damage.
    pub fn free(&self) -> Result<u64> {
        self.fat.free_without(&|_, _| true)
    }
}

/// An object's place among the others.
fn object_name(part: &Part) -> Result<Name> {
    let name = part.store_name();
    let (base, extension) = name.split_at_checked(8).unwrap_or((name, ""));
    file_name(&format!("{base}.{extension}"))
}

fn file_name(name: &str) -> Result<Name> {
    Name::new(name).ok_or_else(|| Error::Wrong(format!("{name} is no name on a FAT")))
}

/// Whether this is one of a slot's own files.
fn is_of(slot: Slot, entry: &Entry) -> bool {
    ["cfg", "rel", "sum"].iter().any(|file| Name::new(&format!("{slot}.{file}")) == Some(entry.name))
}

/// Bytes that a release has with its envelope, at most.
fn release_bytes(release: &Release) -> Result<u64> {
    Ok(Envelope::seal(release, None)?.bytes().len() as u64)
}

pub(crate) fn tell(progress: &mut Progress<'_>, step: Step<'_>) -> Result<()> {
    match progress(step) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Stopped),
    }
}

pub(crate) fn truncated(part: &Part, error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => Error::Refused(format!("it is truncated: it ends inside {}", part.name)),
        _ => Error::Source(error),
    }
}

pub(crate) fn altered(part: &Part) -> Error {
    Error::Refused(format!("{} is not what the release says: it was altered", part.name))
}
