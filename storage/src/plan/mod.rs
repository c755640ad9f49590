//! What is to be done, from what is declared and what there is. Nothing is touched here.
//!
//! | file | what |
//! | --- | --- |
//! | `disks` | disks, partitions, and what may be written to: [`Planner::ready`] |
//! | `arrays` | RAID |
//! | `containers` | LUKS |
//! | `groups` | LVM |
//! | `uses` | file systems, swap |

mod arrays;
mod containers;
mod disks;
mod groups;
mod uses;

use std::collections::BTreeSet;

use serde::Serialize;
use thimble_spec::appliance::{Raid, Storage};

use crate::observed::{Block, Observed};
use crate::step::{Step, Target};

/// What is to be done now, and what keeps the rest from being done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// In this order. When one fails, those of the same device after it make no sense.
    pub steps: Vec<Step>,
    /// What somebody has to look at, a sentence each.
    pub problems: Vec<String>,
    /// What is not there, and may still come.
    pub waiting: Vec<String>,
    /// What cannot be, because something else of the plan is not there yet.
    pub held: Vec<String>,
    /// Paths of declared devices and mounts that may be used by now.
    pub ready: Vec<String>,
}

/// Whether missing disks may still come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Arrays that lack a member are not started yet.
    Wait,
    /// They are started without it, if they can be.
    Over,
}

/// Makes the plan.
pub fn plan(storage: &Storage, observed: &Observed, patience: Patience) -> Plan {
    let mut planner = Planner { storage, observed, patience, plan: Plan::default(), wiped: BTreeSet::new() };
    planner.disks();
    planner.arrays();
    planner.containers();
    planner.groups();
    planner.uses();
    planner.plan.ready = planner.ready_paths();
    planner.plan
}

/// The device of a path, or of the name of a declared disk or partition, and the steps after which something new may be made
/// on it, or the sentence that says why nothing may.
///
/// # Errors
/// It is not there.
pub fn clearance(
    storage: &Storage,
    observed: &Observed,
    path: &str,
) -> Result<(Target, Result<Vec<Step>, String>), String> {
    let path = if path.starts_with('/') { path.to_owned() } else { Storage::disk_path(path) };
    let mut planner =
        Planner { storage, observed, patience: Patience::Over, plan: Plan::default(), wiped: BTreeSet::new() };
    let device = planner.resolve(&path).ok_or_else(|| format!("{path} is not there"))?;
    let target = planner.target(&path, device);
    let steps = planner.ready(&path, device);
    Ok((target, steps.ok_or_else(|| planner.plan.problems.join("; "))))
}

/// The step that starts an array which Linux refuses to start, for it was written to without a member when the power failed;
/// or the one to be taken before it, as long as there is one.
///
/// # Errors
/// It runs, nothing of it is there, there are several of its name, or something else uses a member.
pub fn force(storage: &Storage, observed: &Observed, raid: &Raid) -> Result<Step, String> {
    Planner { storage, observed, patience: Patience::Over, plan: Plan::default(), wiped: BTreeSet::new() }.force(raid)
}

struct Planner<'a> {
    storage: &'a Storage,
    observed: &'a Observed,
    patience: Patience,
    plan: Plan,
    /// Kernel's names of devices that this plan has written to already: the next plan sees what they are then.
    wiped: BTreeSet<String>,
}

/// What a path of the definition leads to.
#[derive(Clone, Copy, Debug)]
struct Device<'a> {
    name: &'a str,
    block: &'a Block,
}

impl<'a> Planner<'a> {
    /// The device behind a path, if it is there.
    fn resolve(&self, path: &str) -> Option<Device<'a>> {
        let name = self.kernel_name(path)?;
        let (name, block) = self.observed.blocks.get_key_value(name)?;
        Some(Device { name, block })
    }

    fn kernel_name(&self, path: &str) -> Option<&'a str> {
        if let Some((disk, partition)) = self.declared_disk(path) {
            let disk = self.disk(disk)?;
            return match partition {
                Some(partition) => self.observed.partition(disk, partition),
                None => Some(disk),
            };
        }
        let rest = path.strip_prefix("/dev/")?;
        match rest.split_once('/') {
            None => self.observed.blocks.get_key_value(rest).map(|(name, _)| name.as_str()),
            Some(("md", name)) => self.array(name).filter(|array| array.active).map(|array| array.block.as_str()),
            Some(("luks", name)) => self.container(name).map(|container| container.block.as_str()),
            Some((group, volume)) => {
                let group = self.observed.groups.iter().find(|known| known.name == group)?;
                let volume = group.volumes.iter().find(|known| known.name == volume)?;
                volume.block.as_deref().filter(|_| !volume.fresh)
            }
        }
    }

    fn target(&self, path: &str, device: Device<'_>) -> Target {
        Target { block: device.name.to_owned(), path: path.to_owned() }
    }

    fn step(&mut self, step: Step) {
        self.wiped.extend(step.destroys().into_iter().map(|target| target.block.clone()));
        self.plan.steps.push(step);
    }

    fn problem(&mut self, sentence: String) {
        if !self.plan.problems.contains(&sentence) {
            self.plan.problems.push(sentence);
        }
    }

    fn wait_for(&mut self, sentence: String) {
        if !self.plan.waiting.contains(&sentence) {
            self.plan.waiting.push(sentence);
        }
    }

    /// Something waits for a device; whose fault that is was said where the device is declared.
    fn wait_for_device(&mut self, what: &str, path: &str) {
        let sentence = format!("{what} waits for {path}");
        if !self.storage.devices().any(|device| device == path) {
            self.wait_for(sentence);
        } else if !self.plan.held.contains(&sentence) {
            self.plan.held.push(sentence);
        }
    }

    /// What has its name and is not being made.
    fn ready_paths(&self) -> Vec<String> {
        let is_made = |device: &Device<'_>| {
            let block = device.block;
            let array = self.observed.arrays.iter().find(|array| array.block == device.name);
            let unfinished = |member: &String| self.observed.blocks.get(member).is_some_and(|it| it.found.unfinished());
            block.broken.is_none()
                && !block.found.unfinished()
                && !self.wiped.contains(device.name)
                && !array.is_some_and(|array| array.members.iter().any(unfinished))
        };
        let named = |path: &String| {
            let device = self.resolve(path)?;
            let known = self.observed.names.get(path).is_some_and(|name| name == device.name);
            (known && is_made(&device)).then_some(())
        };
        let mounted = self.storage.filesystems.iter().filter(|filesystem| {
            let device = self.resolve(&filesystem.device).map(|device| format!("/dev/{}", device.name));
            device.is_some_and(|device| self.observed.mounts.get(&filesystem.mount) == Some(&device))
        });
        let exports = self.storage.nfs.iter().map(|nfs| &nfs.mount);
        let exports = exports.filter(|mount| self.observed.mounts.contains_key(*mount)).cloned();
        let devices = self.storage.devices().filter(|path| named(path).is_some());
        devices.chain(mounted.map(|filesystem| filesystem.mount.clone())).chain(exports).collect()
    }

    /// Gives a device its declared name, if it hasn't it.
    fn name(&mut self, path: &str, device: Device<'_>) {
        if self.observed.names.get(path).map(String::as_str) != Some(device.name) {
            let target = self.target(path, device);
            self.plan.steps.push(Step::Name { target });
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
