//! Disks in memory. What a step does here is what the kernel and the tools would do, as far as a plan can see it.

use std::collections::BTreeMap;

use thimble_spec::appliance::{Raid, Storage, VolumeKind};

use crate::observed::{Array, Block, Container, Group, Observed, VolumeState};
use crate::signature::{Found, Md, Signature};
use crate::step::{Step, Target};

/// What stays when the power is cut.
#[derive(Clone, Debug)]
pub struct Disk {
    serial: String,
    size: u64,
    found: Found,
    parts: Vec<(String, Found)>,
}

/// Name, whether it is still to be cleared, and what is on it, if it is a device.
type Volume = (String, bool, Option<Found>);

#[derive(Clone, Debug, Default)]
pub struct World {
    disks: BTreeMap<String, Disk>,
    /// Contents of arrays by identity, and of volumes by group and name.
    arrays: BTreeMap<[u8; 16], Found>,
    groups: BTreeMap<String, (Vec<String>, Vec<Volume>)>,
    orphans: Vec<String>,
    /// What is in containers, by the disk that they are on; and those that are open, by name.
    inner: BTreeMap<String, Found>,
    open: BTreeMap<String, String>,
    /// What runs: array name, identity, members.
    running: Vec<(String, [u8; 16], Vec<String>, u32)>,
    active: bool,
    mounts: BTreeMap<String, String>,
    swaps: Vec<String>,
    names: BTreeMap<String, String>,
    made: u8,
}

const SIZE: u64 = 256 << 20;

impl World {
    pub fn new(serials: &[&str]) -> Self {
        let mut world = Self::default();
        for (index, serial) in serials.iter().enumerate() {
            let name = format!("vd{}", char::from(b'a' + u8::try_from(index).unwrap()));
            world.plug_new(&name, serial, Found::nothing());
        }
        world
    }

    pub fn plug_new(&mut self, name: &str, serial: &str, found: Found) {
        let disk = Disk { serial: serial.to_owned(), size: SIZE, found, parts: Vec::new() };
        self.disks.insert(name.to_owned(), disk);
    }

    pub fn plug(&mut self, name: &str, disk: Disk) {
        self.disks.insert(name.to_owned(), disk);
    }

    pub fn put(&mut self, name: &str, found: Found) {
        self.disks.get_mut(name).unwrap().found = found;
    }

    pub fn pull(&mut self, name: &str) -> Disk {
        for (_, uuid, members, degraded) in &mut self.running {
            let before = members.len();
            members.retain(|member| !member.starts_with(name));
            if members.len() < before {
                *degraded += 1;
                let members = members.clone();
                let uuid = *uuid;
                for member in members {
                    // The others note that one is missing.
                    if let Some(found) = content(&mut self.disks, &member)
                        && let Some(Signature::Md(md)) =
                            found.signatures.iter_mut().find(|it| matches!(it, Signature::Md(md) if md.uuid == uuid))
                    {
                        md.events += 5;
                    }
                }
            }
        }
        self.disks.remove(name).unwrap()
    }

    /// Only what is on disks stays.
    pub fn reboot(&mut self) {
        self.running.clear();
        self.open.clear();
        self.active = false;
        self.mounts.clear();
        self.swaps.clear();
        self.names.clear();
    }

    /// Somebody else's, with this in it.
    pub fn foreign_container(&mut self, block: &str, inner: Found) {
        self.put(block, Found { blank: false, signatures: vec![Signature::Luks { fresh: false }] });
        self.inner.insert(block.to_owned(), inner);
    }

    /// What is on a volume.
    pub fn volume_content(&mut self, group: &str, volume: &str) -> &mut Found {
        let volumes = &mut self.groups.get_mut(group).unwrap().1;
        volumes.iter_mut().find(|(known, ..)| known == volume).unwrap().2.as_mut().unwrap()
    }

    /// What there is in the end, whatever way led there.
    pub fn shape(&self) -> String {
        let observed = self.observe();
        let kinds = observed.blocks.iter().map(|(name, block)| {
            let kinds: Vec<String> = block.found.signatures.iter().map(ToString::to_string).collect();
            format!("{name}: {kinds:?}\n")
        });
        let mut text =
            kinds.collect::<String>() + &format!("{:?} {:?} {:?}", observed.mounts, observed.swaps, observed.groups);
        for (index, (name, ..)) in self.running.iter().enumerate() {
            text = text.replace(&format!("md{index}"), name);
        }
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        lines.join("\n")
    }

    fn block(size: u64, found: &Found) -> Block {
        Block {
            size,
            sector: 512,
            serial: None,
            wwn: None,
            unit: None,
            part_of: None,
            found: found.clone(),
            used_by: None,
            broken: None,
        }
    }

    fn volume_blocks(&self) -> Vec<(String, String, String, &Option<Found>)> {
        let mut all = Vec::new();
        for (group, (_, volumes)) in &self.groups {
            for (name, _, found) in volumes {
                all.push((format!("dm-{}", all.len()), group.clone(), name.clone(), found));
            }
        }
        all
    }

    pub fn observe(&self) -> Observed {
        let mut observed = Observed::default();
        for (name, disk) in &self.disks {
            let block = Block { serial: Some(disk.serial.clone()), ..Self::block(disk.size, &disk.found) };
            observed.blocks.insert(name.clone(), block);
            for (index, (label, found)) in disk.parts.iter().enumerate() {
                let part_of = Some((name.clone(), Some(label.clone())));
                let block = Block { part_of, ..Self::block(disk.size / 2, found) };
                observed.blocks.insert(format!("{name}{}", index + 1), block);
            }
        }
        for (index, (name, uuid, members, degraded)) in self.running.iter().enumerate() {
            let block = format!("md{index}");
            observed.blocks.insert(block.clone(), Self::block(SIZE, &self.arrays[uuid]));
            let (name, members, degraded) = (name.clone(), members.clone(), *degraded);
            for member in &members {
                if let Some(block) = observed.blocks.get_mut(member) {
                    block.used_by = Some(format!("array {name}"));
                }
            }
            observed.arrays.push(Array {
                block,
                name,
                uuid: *uuid,
                active: true,
                degraded,
                members,
                failed: Vec::new(),
                gone: 0,
            });
        }
        for (block, _, _, found) in self.volume_blocks().into_iter().filter(|_| self.active) {
            if let Some(found) = found {
                observed.blocks.insert(block, Self::block(16 << 20, found));
            }
        }
        for (name, on) in &self.open {
            let block = format!("lk{on}");
            observed.blocks.insert(block.clone(), Self::block(SIZE - (16 << 20), &self.inner[on]));
            if let Some(below) = observed.blocks.get_mut(on) {
                below.used_by = Some(block.clone());
            }
            observed.containers.insert(name.clone(), Container { block, on: on.clone() });
        }
        for (name, (members, volumes)) in &self.groups {
            let there: Vec<String> = members.iter().filter_map(|member| self.kernel_name(member)).collect();
            if there.is_empty() {
                continue;
            }
            let missing = members.len() - there.len();
            let active = self.active && missing == 0;
            let blocks = self.volume_blocks();
            let there_are = volumes.iter().filter(|(volume, ..)| !volume.is_empty());
            let volumes = there_are.map(|(volume, fresh, found)| {
                let block = blocks.iter().find(|(_, group, known, _)| group == name && known == volume);
                let block = block.map(|(block, ..)| block.clone()).filter(|_| active && found.is_some());
                VolumeState { name: volume.clone(), block, active, partial: missing > 0, fresh: *fresh }
            });
            observed.groups.push(Group { name: name.clone(), volumes: volumes.collect(), members: there, missing });
        }
        observed.orphans = self.orphans.iter().filter_map(|path| self.kernel_name(path)).collect();
        for device in self.mounts.values() {
            if let Some(block) = observed.blocks.get_mut(device.trim_start_matches("/dev/")) {
                block.used_by = Some("a mount".to_owned());
            }
        }
        for swap in &self.swaps {
            if let Some(block) = observed.blocks.get_mut(swap) {
                block.used_by = Some("swap".to_owned());
            }
        }
        (observed.mounts, observed.swaps, observed.names) =
            (self.mounts.clone(), self.swaps.clone(), self.names.clone());
        observed
    }

    /// Paths of arrays are what stays of them; all else is named by the kernel.
    fn kernel_name(&self, path: &str) -> Option<String> {
        match path.strip_prefix("/dev/md/") {
            Some(name) => self.running.iter().position(|(known, ..)| known == name).map(|index| format!("md{index}")),
            None => content(&mut self.disks.clone(), path).is_some().then(|| path.to_owned()),
        }
    }

    fn kept(&self, target: &Target) -> String {
        if target.path.starts_with("/dev/md/") { target.path.clone() } else { target.block.clone() }
    }

    /// The rule of all rules.
    pub fn check(&self, storage: &Storage, step: &Step) {
        let observed = self.observe();
        for target in step.destroys() {
            let block = &observed.blocks[&target.block];
            assert_eq!(block.used_by, None, "{step}");
            let orphan = observed.orphans.contains(&target.block);
            let begun = matches!(step, Step::ClearVolume { .. });
            let free = block.found.blank || block.found.unfinished() || orphan || begun;
            assert!(free || matches!(step, Step::Wipe { .. }), "{step}: {:?}", block.found);
            assert!(free || self.given_up(storage, &observed, &target.block), "{step}: {:?}", block.found);
            for (_, part) in observed.partitions(&target.block) {
                assert_eq!(part.used_by, None, "{step}");
            }
        }
    }

    /// Whether each disk below a device is one of which the definition says `wipe = true`: told by the world, which knows
    /// what stands on what.
    fn given_up(&self, storage: &Storage, observed: &Observed, block: &str) -> bool {
        if let Some((_, _, members, _)) =
            self.running.iter().enumerate().find(|(index, _)| format!("md{index}") == block).map(|(_, it)| it)
        {
            return members.iter().all(|member| self.given_up(storage, observed, member));
        }
        if let Some(on) = block.strip_prefix("lk") {
            return self.given_up(storage, observed, on);
        }
        if block.starts_with("dm-") {
            return self.groups.values().all(|(members, _)| {
                members
                    .iter()
                    .filter_map(|member| self.kernel_name(member))
                    .all(|member| self.given_up(storage, observed, &member))
            });
        }
        let disk = observed.blocks[block].part_of.as_ref().map_or(block, |(disk, _)| disk);
        let serial = self.disks[disk].serial.as_str();
        storage.disks.get(serial).is_some_and(|disk| disk.wipe)
    }

    fn set(&mut self, target: &Target, found: Found) {
        if let Some(on) = target.block.strip_prefix("lk") {
            self.inner.insert(on.to_owned(), found);
            return;
        }
        self.inner.remove(&target.block);
        if let Some(name) = target.path.strip_prefix("/dev/md/") {
            let uuid = self.running.iter().find(|(known, ..)| known == name).unwrap().1;
            self.arrays.insert(uuid, found);
        } else if target.block.starts_with("dm-") {
            let (_, group, name, _) =
                self.volume_blocks().into_iter().find(|(block, ..)| *block == target.block).unwrap();
            let volumes = &mut self.groups.get_mut(&group).unwrap().1;
            volumes.iter_mut().find(|(known, ..)| *known == name).unwrap().2 = Some(found);
        } else {
            *content(&mut self.disks, &target.block).unwrap() = found;
            if let Some(disk) = self.disks.get_mut(&target.block) {
                disk.parts.clear();
            }
        }
    }

    fn mark(&mut self, target: &Target, more: Option<Signature>) {
        let signatures = std::iter::once(Signature::Unfinished).chain(more).collect();
        self.set(target, Found { blank: false, signatures });
    }

    fn superblock(&mut self, target: &Target, raid: &Raid, uuid: [u8; 16], role: Option<u16>, marked: bool) {
        let disks = u32::try_from(raid.members.len()).unwrap();
        let level = i32::from(raid.level);
        let md = Signature::Md(Md { uuid, name: raid.name.clone(), level, disks, role, events: 3 });
        if marked {
            self.mark(target, Some(md));
        } else {
            self.set(target, Found { blank: false, signatures: vec![md] });
        }
    }

    pub fn run(&mut self, storage: &Storage, step: &Step) {
        match step {
            Step::Wipe { target, .. } => self.set(target, Found::nothing()),
            Step::Partition { target, disk } => {
                let parts = storage.disks[disk].partitions.iter();
                let parts = parts.map(|partition| (partition.name.clone(), Found::nothing())).collect();
                self.set(target, Found { blank: false, signatures: vec![Signature::Gpt] });
                self.disks.get_mut(&target.block).unwrap().parts = parts;
            }
            Step::Finish { target, .. } => {
                let found = content(&mut self.disks, &target.block).unwrap();
                found.signatures.retain(|signature| *signature != Signature::Unfinished);
            }
            Step::CreateArray { raid, members, spares } => {
                self.made += 1;
                let uuid = [self.made; 16];
                for (role, target) in members.iter().enumerate() {
                    self.superblock(target, raid, uuid, u16::try_from(role).ok(), false);
                }
                for target in spares {
                    self.superblock(target, raid, uuid, None, false);
                }
                self.arrays.insert(uuid, Found::nothing());
                let members = members.iter().chain(spares).map(|target| target.block.clone()).collect();
                self.running.push((raid.name.clone(), uuid, members, 0));
            }
            Step::Assemble { name, members, missing, .. } => {
                let newest = members.iter().map(|target| self.md(target).events).max().unwrap();
                let (fresh, _): (Vec<&Target>, Vec<&Target>) =
                    members.iter().partition(|target| self.md(target).events + 1 >= newest);
                let uuid = self.md(fresh[0]).uuid;
                self.arrays.entry(uuid).or_insert_with(Found::nothing);
                let members = fresh.iter().map(|target| target.block.clone()).collect();
                self.running.push((name.clone(), uuid, members, *missing));
            }
            Step::AddMember { array, target, returns } => {
                let name = array.path.trim_start_matches("/dev/md/").to_owned();
                let raid = storage.raids.iter().find(|raid| raid.name == name).unwrap();
                let index = self.running.iter().position(|(known, ..)| *known == name).unwrap();
                let (uuid, events) = (
                    self.running[index].1,
                    self.md(&Target { block: self.running[index].2[0].clone(), path: String::new() }).events,
                );
                let role = if *returns { self.md(target).role } else { Some(0) };
                self.superblock(target, raid, uuid, role, false);
                for signature in &mut content(&mut self.disks, &target.block).unwrap().signatures {
                    if let Signature::Md(md) = signature {
                        md.events = events;
                    }
                }
                let running = &mut self.running[index];
                running.2.push(target.block.clone());
                running.3 = running.3.saturating_sub(1);
            }
            Step::CreateGroup { name, members } => {
                let kept = self.volume(members);
                self.groups.insert(name.clone(), (kept, Vec::new()));
            }
            Step::ExtendGroup { name, members } => {
                let kept = self.volume(members);
                self.groups.get_mut(name).unwrap().0.extend(kept);
            }
            Step::MakeLuks { target, luks, .. } => self.container(target, &luks.name, false),
            Step::OpenLuks { target, luks, .. } => {
                assert!(self.inner.contains_key(&target.block), "{step}");
                self.open.insert(luks.name.clone(), target.block.clone());
            }
            Step::CloseLuks { name } => drop(self.open.remove(name).unwrap()),
            Step::ActivateGroup { .. } => self.active = true,
            Step::CreateVolume { group, volume } => {
                self.active = true;
                let linear = matches!(volume.kind, VolumeKind::Linear(_));
                // What was in its extents before.
                let old = Found { blank: false, signatures: Vec::new() };
                let found = match volume.kind {
                    VolumeKind::Linear(_) => Some(old),
                    VolumeKind::ThinPool(_) => None,
                    _ => Some(Found::nothing()),
                };
                self.groups.get_mut(group).unwrap().1.push((volume.name.clone(), linear, found));
            }
            Step::CopyVolume { group, of, to, .. } => {
                let volumes = &mut self.groups.get_mut(group).unwrap().1;
                assert!(volumes.iter().all(|(known, ..)| known != to), "{step}");
                let found = volumes.iter().find(|(known, ..)| known == of).unwrap().2.clone();
                volumes.push((to.clone(), false, found));
            }
            Step::RenameVolume { group, from, to } => {
                let volumes = &mut self.groups.get_mut(group).unwrap().1;
                assert!(volumes.iter().all(|(known, ..)| known != to), "{step}");
                volumes.iter_mut().find(|(known, ..)| known == from).unwrap().0.clone_from(to);
                self.names.remove(&format!("/dev/{group}/{from}"));
            }
            Step::RemoveVolume { group, volume } => {
                let volumes = &mut self.groups.get_mut(group).unwrap().1;
                // The others keep their devices.
                *volumes.iter_mut().find(|(known, ..)| known == volume).unwrap() = Volume::default();
                self.names.remove(&format!("/dev/{group}/{volume}"));
            }
            Step::ClearVolume { group, target, volume } => {
                self.set(target, Found::nothing());
                let volumes = &mut self.groups.get_mut(group).unwrap().1;
                volumes.iter_mut().find(|(known, ..)| known == volume).unwrap().1 = false;
            }
            Step::MakeFilesystem { target, filesystem } => {
                let signatures = vec![Signature::Filesystem(filesystem.kind)];
                self.set(target, Found { blank: false, signatures });
            }
            Step::Mount { target, filesystem } => {
                self.mounts.insert(filesystem.mount.clone(), format!("/dev/{}", target.block));
            }
            Step::MakeSwap { target } => {
                self.set(target, Found { blank: false, signatures: vec![Signature::Swap] });
            }
            Step::SwapOn { target } => self.swaps.push(target.block.clone()),
            Step::Name { target } => {
                self.names.insert(target.path.clone(), target.block.clone());
            }
            Step::Stop { .. } | Step::Release { .. } | Step::Zram { .. } => {}
        }
    }

    /// An open one; in a fresh one is noise.
    fn container(&mut self, target: &Target, name: &str, fresh: bool) {
        self.set(target, Found { blank: false, signatures: vec![Signature::Luks { fresh }] });
        let inner = if fresh { Found { blank: false, signatures: Vec::new() } } else { Found::nothing() };
        self.inner.insert(target.block.clone(), inner);
        self.open.insert(name.to_owned(), target.block.clone());
    }

    fn volume(&mut self, members: &[Target]) -> Vec<String> {
        for target in members {
            self.set(target, Found { blank: false, signatures: vec![Signature::Lvm] });
        }
        let kept: Vec<String> = members.iter().map(|target| self.kept(target)).collect();
        self.orphans.retain(|orphan| !kept.contains(orphan));
        kept
    }

    fn md(&self, target: &Target) -> Md {
        content(&mut self.disks.clone(), &target.block).unwrap().md().unwrap().clone()
    }

    /// The power is cut in the middle of a step: `part` says how far it came.
    pub fn cut_in(&mut self, storage: &Storage, step: &Step, part: u8) {
        match (step, part) {
            // Before it began, and after it ended.
            (_, 0) => {}
            (_, 3) => self.run(storage, step),
            (Step::Partition { target, .. }, 1) => self.mark(target, None),
            (Step::Partition { target, .. }, _) => {
                // The table is there, and the mark still is.
                self.run(storage, step);
                self.disks.get_mut(&target.block).unwrap().found.signatures.insert(0, Signature::Unfinished);
            }
            (Step::CreateArray { raid, members, spares }, part) => {
                self.made += 1;
                let all: Vec<&Target> = members.iter().chain(spares).collect();
                let written = if part == 1 { all.len() / 2 } else { all.len() };
                self.arrays.insert([self.made; 16], Found::nothing());
                for (index, target) in all.into_iter().enumerate() {
                    let role = u16::try_from(index).ok().filter(|_| index < members.len());
                    if index < written {
                        self.superblock(target, raid, [self.made; 16], role, true);
                    } else {
                        self.mark(target, None);
                    }
                }
            }
            (Step::CreateGroup { members, .. } | Step::ExtendGroup { members, .. }, part) => {
                let begun = if part == 1 { &members[..1] } else { &members[..] };
                let kept = self.volume(begun);
                self.orphans.extend(kept);
            }
            (Step::MakeFilesystem { target, filesystem }, 1) => {
                let _ = filesystem;
                self.mark(target, None);
            }
            (Step::MakeFilesystem { target, filesystem }, _) => {
                self.mark(target, Some(Signature::Filesystem(filesystem.kind)));
            }
            (Step::MakeLuks { target, .. }, 1) => self.mark(target, None),
            (Step::MakeLuks { target, luks, .. }, _) => self.container(target, &luks.name, true),
            (Step::MakeSwap { target }, _) => self.mark(target, Some(Signature::Swap)),
            _ => {}
        }
    }
}

fn content<'a>(disks: &'a mut BTreeMap<String, Disk>, block: &str) -> Option<&'a mut Found> {
    if disks.contains_key(block) {
        return disks.get_mut(block).map(|disk| &mut disk.found);
    }
    let (disk, number) = block.split_at(block.len().checked_sub(1)?);
    let number: usize = number.parse().ok()?;
    Some(&mut disks.get_mut(disk)?.parts.get_mut(number.checked_sub(1)?)?.1)
}
