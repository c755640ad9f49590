//! Disks and partitions, and the one rule about what may be written to.

use thimble_spec::appliance::{DISK_NAMES, Disk, DiskMatch, Storage};

use super::{Device, Planner};
use crate::observed::Block;
use crate::signature::Signature;
use crate::step::{Step, Target};

/// The least that anything is made on: what is looked at on both ends, twice.
const LEAST: u64 = 4 << 20;

impl<'a> Planner<'a> {
    /// The parts of a path below [`DISK_NAMES`]: a declared disk, and a partition of it.
    pub(super) fn declared_disk<'p>(&self, path: &'p str) -> Option<(&'p str, Option<&'p str>)> {
        let name = path.strip_prefix(DISK_NAMES)?.strip_prefix('/')?;
        Some(name.split_once('.').map_or((name, None), |(disk, partition)| (disk, Some(partition))))
    }

    /// The kernel's name of a declared disk, if exactly one is it.
    pub(super) fn disk(&self, name: &str) -> Option<&'a str> {
        let disk = self.storage.disks.get(name)?;
        let mut found = self.matching(disk);
        let first = found.next()?;
        found.next().is_none().then_some(first)
    }

    fn matching(&self, disk: &Disk) -> impl Iterator<Item = &'a str> {
        let identity = disk.identity.clone();
        let targets = &self.storage.iscsi;
        let is = move |name: &str, block: &Block| match &identity {
            DiskMatch::Serial(serial) => block.serial.as_ref() == Some(serial),
            DiskMatch::Wwn(wwn) => block.wwn.as_ref() == Some(wwn),
            DiskMatch::Path(path) => path.strip_prefix("/dev/") == Some(name),
            DiskMatch::Iscsi { target, lun } => block.unit.as_ref().is_some_and(|(known, number)| {
                number == lun && targets.iter().any(|iscsi| iscsi.name == *target && iscsi.target == *known)
            }),
        };
        let whole = self.observed.blocks.iter().filter(|(_, block)| block.part_of.is_none());
        whole.filter(move |(name, block)| is(name, block)).map(|(name, _)| name.as_str())
    }

    pub(super) fn disks(&mut self) {
        let storage = self.storage;
        for (name, disk) in &storage.disks {
            let path = Storage::disk_path(name);
            if self.matching(disk).count() > 1 {
                let all: Vec<&str> = self.matching(disk).collect();
                let all = all.join(" and ");
                self.problem(format!(
                    "storage.disks.{name} is both {all}: neither is touched; match it by something else"
                ));
                continue;
            }
            let Some(device) = self.resolve(&path) else {
                self.wait_for(format!("disk {name} is not there"));
                continue;
            };
            self.name(&path, device);
            if !disk.partitions.is_empty() {
                self.partitions(name, disk, &path, device);
            }
        }
    }

    fn partitions(&mut self, name: &str, disk: &Disk, path: &str, device: Device<'a>) {
        let has = |partition: &str| self.observed.partition(device.name, partition).is_some();
        let complete = disk.partitions.iter().all(|partition| has(&partition.name));
        let table = device.block.found.has(&Signature::Gpt);
        if complete && table {
            for partition in &disk.partitions {
                let path = Storage::partition_path(name, &partition.name);
                if let Some(device) = self.resolve(&path) {
                    self.name(&path, device);
                }
            }
            if device.block.found.unfinished() {
                let target = self.target(path, device);
                self.plan.steps.push(Step::Finish { target, place: crate::mark::Place::Table });
            }
            return;
        }
        let needed: u64 = disk.partitions.iter().filter_map(|partition| Some(partition.size?.bytes())).sum();
        // A MiB before the first one and behind the last one, and one for a partition that takes the rest.
        if device.block.size < needed.saturating_add(3 << 20) {
            self.problem(format!("storage.disks.{name} is smaller than its partitions: it is left alone"));
            return;
        }
        if let Some(steps) = self.ready(path, device) {
            self.take(steps);
            let target = self.target(path, device);
            self.step(Step::Partition { target, disk: name.to_owned() });
        }
    }

    /// Whether something new may be made on a device: the steps that clear it for that. **Nothing else allows writing.**
    ///
    /// A device may be written to if nothing is on it, if Thimble was making something on it and was cut off, or if the
    /// definition says so of every disk below it; and if nobody uses it.
    pub(super) fn ready(&mut self, path: &str, device: Device<'a>) -> Option<Vec<Step>> {
        let Device { name, block } = device;
        let target = self.target(path, device);
        if self.wiped.contains(name) {
            return None;
        }
        let in_use = block.used_by.clone().or_else(|| {
            let mut parts = self.observed.partitions(name);
            parts.find_map(|(part, block)| block.used_by.as_ref().map(|user| format!("{user} by {part}")))
        });
        if let Some(user) = in_use {
            self.problem(format!("{target} is used by {user}: it is left alone"));
            return None;
        }
        if let Some(broken) = &block.broken {
            self.problem(format!("{target} {broken}: it is left alone"));
            return None;
        }
        if block.size < LEAST {
            self.problem(format!("{target} is smaller than {} MiB: nothing is made on it", LEAST >> 20));
            return None;
        }
        if block.found.blank {
            return Some(Vec::new());
        }
        let content = block.found.describe();
        if block.found.unfinished() || self.may_wipe(path) {
            return Some(vec![Step::Wipe { target, content }]);
        }
        self.problem(format!(
            "{target} has {content}, which is not what is declared: it is left alone; if nothing on it is needed, declare \
             the disk in [storage.disks] with wipe = true"
        ));
        None
    }

    /// The same for several devices, of which all or none are taken.
    pub(super) fn all_ready(&mut self, devices: &[(Target, Device<'a>)]) -> Option<Vec<Step>> {
        let steps: Vec<_> = devices.iter().map(|(target, device)| self.ready(&target.path, *device)).collect();
        steps.into_iter().collect::<Option<Vec<_>>>().map(|steps| steps.into_iter().flatten().collect())
    }

    pub(super) fn take(&mut self, steps: Vec<Step>) {
        for step in steps {
            self.step(step);
        }
    }

    /// Whether the definition gives up what is on a device: it says so of each disk that the device stands on.
    fn may_wipe(&self, path: &str) -> bool {
        // Definitions have no circles; this ends whatever they have.
        fn below(planner: &Planner<'_>, path: &str, depth: u8) -> bool {
            if depth == 0 {
                return false;
            }
            if let Some((disk, _)) = planner.declared_disk(path) {
                return planner.storage.disks.get(disk).is_some_and(|disk| disk.wipe);
            }
            if let Some(luks) = planner.storage.luks.iter().find(|luks| luks.path() == path) {
                return below(planner, &luks.device, depth - 1);
            }
            let raid = planner.storage.raids.iter().find(|raid| raid.path() == path);
            let raid = raid.map(|raid| raid.members.iter().chain(&raid.spares).collect::<Vec<_>>());
            let group = || {
                let (group, _) = path.strip_prefix("/dev/")?.split_once('/')?;
                let group = planner.storage.groups.iter().find(|known| known.name == group)?;
                Some(group.members.iter().collect())
            };
            raid.or_else(group).is_some_and(|members| members.iter().all(|member| below(planner, member, depth - 1)))
        }
        below(self, path, 8)
    }
}
