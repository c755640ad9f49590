//! Arrays: made when all members are there and nothing is on them, started when their superblocks say that they are one,
//! completed when a member comes back.

use std::collections::{BTreeMap, BTreeSet};

use thimble_spec::appliance::{Metadata, Raid};

use super::{Device, Patience, Planner};
use crate::mark::Place;
use crate::observed::Array;
use crate::signature::Md;
use crate::step::{Step, Target};

/// A device, and what its superblock says of the array that it is a member of.
type Member<'a> = (Target, Device<'a>, &'a Md);

/// The member that something else uses, and what that is.
fn used(members: &[Member<'_>]) -> Option<String> {
    members
        .iter()
        .find_map(|(target, device, _)| Some(format!("{target} is used by {}", device.block.used_by.as_ref()?)))
}

/// How many of an array's places none of these has.
fn lacks<'m>(disks: u32, members: impl Iterator<Item = &'m Md>) -> u32 {
    let roles: BTreeSet<u16> = members.filter_map(|md| md.role).collect();
    disks.saturating_sub(u32::try_from(roles.len()).unwrap_or(u32::MAX))
}

impl<'a> Planner<'a> {
    /// The array of this name that the kernel has.
    pub(super) fn array(&self, name: &str) -> Option<&'a Array> {
        let raid = self.storage.raids.iter().find(|raid| raid.name == name)?;
        let ours: BTreeSet<&str> =
            raid.members.iter().chain(&raid.spares).filter_map(|path| self.declared_member(path)).collect();
        let of_ours = |array: &&Array| {
            let mut members = array.members.iter().chain(&array.failed).peekable();
            members.peek().is_none() || members.any(|it| ours.contains(it.as_str()))
        };
        self.observed.arrays.iter().filter(|array| array.name == name).find(of_ours)
    }

    /// The kernel's name of a member; one that is an array itself is looked for by the array's name only, so that arrays
    /// of arrays end somewhere.
    fn declared_member(&self, path: &str) -> Option<&'a str> {
        if path.starts_with(thimble_spec::appliance::ARRAY_NAMES) {
            let name = path.rsplit('/').next()?;
            return self.observed.arrays.iter().find(|array| array.name == name).map(|array| array.block.as_str());
        }
        self.kernel_name(path)
    }

    pub(super) fn arrays(&mut self) {
        let storage = self.storage;
        for raid in &storage.raids {
            match self.array(&raid.name) {
                Some(array) if array.active => self.complete(raid, array),
                // Whatever was begun is begun anew: its members are free then, and the next look sees them so.
                Some(array) => self.step(Step::Stop { block: array.block.clone() }),
                None => self.bring_up(raid),
            }
        }
    }

    /// Members and spares of an array that are there, and the paths of those that are not.
    fn present(&self, raid: &Raid) -> (Vec<(Target, Device<'a>)>, Vec<String>) {
        let mut missing = Vec::new();
        let mut present = Vec::new();
        for path in raid.members.iter().chain(&raid.spares) {
            match self.resolve(path) {
                Some(device) => present.push((self.target(path, device), device)),
                None => missing.push(path.clone()),
            }
        }
        (present, missing)
    }

    /// An array that runs: it has its name, and gets the members that it lacks.
    fn complete(&mut self, raid: &Raid, array: &Array) {
        let path = raid.path();
        let Some(device) = self.resolve(&path) else { return };
        self.name(&path, device);
        let target = self.target(&path, device);
        let (present, missing) = self.present(raid);
        for path in missing.iter().filter(|_| array.degraded > 0) {
            self.wait_for_device(&format!("array {}", raid.name), path);
        }
        if raid.level == 0 {
            return;
        }
        if array.gone > 0 {
            self.step(Step::Release { array: target.clone() });
        }
        for (member, device) in present {
            if array.failed.iter().any(|name| name == device.name) {
                continue;
            }
            if array.members.iter().any(|name| name == device.name) {
                if device.block.found.unfinished() {
                    self.finish(raid, member);
                }
                continue;
            }
            let returns = device.block.found.md().is_some_and(|md| md.uuid == array.uuid);
            if returns && device.block.used_by.is_none() {
                self.step(Step::AddMember { array: target.clone(), target: member, returns });
            } else if let Some(steps) = self.ready(&member.path.clone(), device) {
                self.take(steps);
                self.step(Step::AddMember { array: target.clone(), target: member, returns: false });
            }
        }
    }

    fn finish(&mut self, raid: &Raid, target: Target) {
        let place = match raid.metadata {
            Metadata::Start => Place::First,
            Metadata::End => Place::Last,
        };
        self.plan.steps.push(Step::Finish { target, place });
    }

    /// What is there of an array, by its identity: the devices whose superblocks say that they are its members.
    fn superblocks(&self, raid: &Raid, present: &[(Target, Device<'a>)]) -> BTreeMap<[u8; 16], Vec<Member<'a>>> {
        let ours = |md: &Md| md.name == raid.name && md.level == i32::from(raid.level);
        let mut found: BTreeMap<[u8; 16], Vec<Member<'a>>> = BTreeMap::new();
        for (target, device) in present {
            if let Some(md) = device.block.found.md().filter(|md| ours(md)) {
                found.entry(md.uuid).or_default().push((target.clone(), *device, md));
            }
        }
        // One that took another's place is not in the definition yet: its superblock says that it belongs here.
        let strangers = self.strangers(present, found.keys());
        for (target, device, md) in strangers {
            found.entry(md.uuid).or_default().push((target, device, md));
        }
        found
    }

    /// The step that starts an array with what is there of it, whatever its superblocks say of a crash, or the one before it.
    ///
    /// # Errors
    /// It runs, nothing of it is there, there are several of its name, or something else uses a member.
    pub(super) fn force(&self, raid: &Raid) -> Result<Step, String> {
        let name = raid.name.clone();
        match self.array(&name) {
            Some(array) if array.active => {
                return Err(format!("the array {name} runs, and is not to be forced: see thimble-node storage status"));
            }
            // What is left of a start that was refused holds the members.
            Some(array) => return Ok(Step::Stop { block: array.block.clone() }),
            None => {}
        }
        let (present, _) = self.present(raid);
        let found = self.superblocks(raid, &present);
        let members = match found.len() {
            0 => return Err(format!("nothing of the array {name} is there: see thimble-node storage status")),
            1 => found.into_values().next().unwrap_or_default(),
            several => {
                return Err(format!("there are members of {several} arrays {name}: take out those of the others"));
            }
        };
        if let Some(used) = used(&members) {
            return Err(used);
        }
        let disks = members.first().map_or(0, |(.., md)| md.disks);
        let missing = lacks(disks, members.iter().map(|(.., md)| *md));
        let members = members.into_iter().map(|(target, ..)| target).collect();
        Ok(Step::Assemble { name, members, missing, force: true })
    }

    /// An array that does not run: started if its superblocks are there, made if nothing is.
    fn bring_up(&mut self, raid: &Raid) {
        let (present, missing) = self.present(raid);
        let found = self.superblocks(raid, &present);
        let making = present.iter().any(|(_, device)| device.block.found.unfinished());
        // Cut off while it was made: nothing is on it yet, so it is made anew. If all superblocks were written, it is made.
        let whole = found.values().any(|members| members.len() >= present.len()) && missing.is_empty();
        match found.len() {
            _ if making && !whole => self.make(raid, &present, &missing),
            0 => self.make(raid, &present, &missing),
            1 => self.start(raid, found.into_values().next().unwrap_or_default(), &missing),
            _ => self.problem(format!(
                "the members of array {} come from {} arrays of that name: none is started; take the disks out that do not \
                 belong to it",
                raid.name,
                found.len()
            )),
        }
    }

    /// Devices that the definition does not name as members, and that are in one of these arrays.
    fn strangers<'m>(
        &self,
        present: &[(Target, Device<'a>)],
        arrays: impl Iterator<Item = &'m [u8; 16]>,
    ) -> Vec<(Target, Device<'a>, &'a Md)> {
        let arrays: Vec<&[u8; 16]> = arrays.collect();
        let blocks = self.observed.blocks.iter().filter(|(_, block)| block.used_by.is_none());
        let others = blocks.filter(|(name, _)| !present.iter().any(|(_, device)| device.name == name.as_str()));
        let member = others.filter_map(|(name, block)| {
            let md = block.found.md().filter(|md| arrays.contains(&&md.uuid))?;
            let target = Target { block: name.clone(), path: format!("/dev/{name}") };
            Some((target, Device { name, block }, md))
        });
        member.collect()
    }

    fn start(&mut self, raid: &Raid, members: Vec<Member<'a>>, missing: &[String]) {
        let disks = members.first().map_or(0, |(.., md)| md.disks);
        let newest = members.iter().map(|(.., md)| md.events).max().unwrap_or_default();
        // A member that was away is behind the others by more than the moment of a cut.
        let lacks = lacks(disks, members.iter().map(|(.., md)| *md).filter(|md| md.events + 1 >= newest));
        if let Some(used) = used(&members) {
            self.problem(format!("array {} is not started: {used}", raid.name));
            return;
        }
        if lacks > 0 {
            let names = missing.join(", ");
            let about = if names.is_empty() { String::new() } else { format!(" ({names})") };
            // The superblocks know how many members there are, whatever the definition says by now.
            let lost = usize::try_from(lacks).unwrap_or(usize::MAX);
            if lost > raid.members.len().saturating_sub(raid.needed()) {
                self.wait_for(format!("array {} lacks {lacks} of its {disks} members{about}", raid.name));
                return;
            }
            if self.patience == Patience::Wait && !missing.is_empty() {
                self.wait_for(format!("array {} waits for {lacks} of its {disks} members{about}", raid.name));
                return;
            }
        }
        for (target, device, _) in &members {
            if device.block.found.unfinished() {
                self.finish(raid, target.clone());
            }
        }
        let members = members.into_iter().map(|(target, ..)| target).collect();
        self.step(Step::Assemble { name: raid.name.clone(), members, missing: lacks, force: false });
    }

    fn make(&mut self, raid: &Raid, present: &[(Target, Device<'a>)], missing: &[String]) {
        if !missing.is_empty() {
            let names = missing.join(", ");
            self.wait_for(format!("array {} is made as soon as all its members are there: {names}", raid.name));
            return;
        }
        let Some(steps) = self.all_ready(present) else { return };
        self.take(steps);
        let mut members: Vec<Target> = present.iter().map(|(target, _)| target.clone()).collect();
        let spares = members.split_off(raid.members.len());
        self.step(Step::CreateArray { raid: raid.clone(), members, spares });
    }
}
