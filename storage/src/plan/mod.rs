//! What is to be done, from what is declared and what there is. Nothing is touched here.
//!
//! | file | what |
//! | --- | --- |
//! | `disks` | disks, partitions, and what may be written to: [`Planner::ready`] |
//! | `arrays` | RAID |
//! | `groups` | LVM |
//! | `uses` | file systems, swap |

mod arrays;
mod disks;
mod groups;
mod uses;

use std::collections::BTreeSet;

use serde::Serialize;
use thimble_spec::appliance::Storage;

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
    planner.groups();
    planner.uses();
    planner.plan
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

    /// Gives a device its declared name, if it hasn't it.
    fn name(&mut self, path: &str, device: Device<'_>) {
        if self.observed.names.get(path).map(String::as_str) != Some(device.name) {
            let target = self.target(path, device);
            self.plan.steps.push(Step::Name { target });
        }
    }
}

#[cfg(test)]
mod tests;
