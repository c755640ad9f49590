//! Volume groups and their volumes.

use thimble_spec::appliance::{VolumeGroup, VolumeKind};

use super::{Device, Planner};
use crate::observed::{Group, VolumeState};
use crate::signature::Signature;
use crate::snapshots::{is_beside, new, old};
use crate::step::{Step, Target};

impl<'a> Planner<'a> {
    pub(super) fn groups(&mut self) {
        let storage = self.storage;
        for group in &storage.groups {
            let devices: Vec<_> = group.members.iter().map(|path| (path, self.resolve(path))).collect();
            let found: Vec<(Target, Device<'a>)> = devices
                .iter()
                .filter_map(|(path, device)| device.map(|device| (self.target(path, device), device)))
                .collect();
            let missing: Vec<&str> =
                devices.iter().filter(|(_, device)| device.is_none()).map(|(path, _)| path.as_str()).collect();
            let of_ours = |known: &&Group| {
                let ours = |member: &String| found.iter().any(|(_, device)| device.name == member);
                known.name == group.name && known.members.iter().any(ours)
            };
            match self.observed.groups.iter().find(of_ours) {
                Some(known) => self.extend(group, known, &found),
                None if !missing.is_empty() => {
                    for path in missing {
                        self.wait_for_device(&format!("volume group {}", group.name), path);
                    }
                }
                None if self.observed.groups.iter().any(|known| known.name == group.name) => self.problem(format!(
                    "there is a volume group {} on other disks than its definition says: it is left alone",
                    group.name
                )),
                None => {
                    if let Some((steps, members)) = self.new_members(&found) {
                        self.take(steps);
                        self.step(Step::CreateGroup { name: group.name.clone(), members });
                    }
                }
            }
        }
    }

    /// Devices that a group may take: those on which nothing is, and those that were made for it when the power was cut.
    fn new_members(&mut self, devices: &[(Target, Device<'a>)]) -> Option<(Vec<Step>, Vec<Target>)> {
        let begun = |device: &Device<'_>| {
            device.block.found.signatures == [Signature::Lvm]
                && self.observed.orphans.iter().any(|orphan| orphan == device.name)
        };
        let others: Vec<_> = devices.iter().filter(|(_, device)| !begun(device)).cloned().collect();
        let steps = self.all_ready(&others)?;
        Some((steps, devices.iter().map(|(target, _)| target.clone()).collect()))
    }

    fn extend(&mut self, group: &VolumeGroup, known: &Group, devices: &[(Target, Device<'a>)]) {
        if known.missing > 0 {
            self.problem(format!(
                "volume group {} lacks {} of its disks: volumes on them are not there",
                group.name, known.missing
            ));
        }
        let strangers: Vec<_> =
            devices.iter().filter(|(_, device)| !known.members.iter().any(|it| it == device.name)).cloned().collect();
        if !strangers.is_empty()
            && known.missing == 0
            && let Some((steps, members)) = self.new_members(&strangers)
        {
            self.take(steps);
            self.step(Step::ExtendGroup { name: group.name.clone(), members });
            return;
        }
        if known.missing == 0 && !self.settle(group, known) {
            return;
        }
        let state = |name: &str| known.volumes.iter().find(|volume| volume.name == name);
        let sleeps = |state: &VolumeState| !state.active && !state.partial;
        if group.volumes.iter().any(|volume| state(&volume.name).is_some_and(sleeps)) {
            let sleeping = known.volumes.iter().filter(|state| sleeps(state) && !is_beside(&state.name));
            let volumes = sleeping.map(|state| state.name.clone()).collect();
            self.step(Step::ActivateGroup { name: group.name.clone(), volumes });
        }
        for volume in &group.volumes {
            let path = group.path(&volume.name);
            match state(&volume.name) {
                None if known.missing > 0 => {}
                None => {
                    let after = match &volume.kind {
                        VolumeKind::Thin { pool: of, .. } | VolumeKind::Snapshot { of } => state(of).is_some(),
                        VolumeKind::Linear(_) | VolumeKind::ThinPool(_) => true,
                    };
                    // One after the other: what a volume takes from is there before it.
                    if after {
                        self.step(Step::CreateVolume { group: group.name.clone(), volume: volume.clone() });
                    }
                    return;
                }
                Some(state) if state.fresh => {
                    if let Some(block) = &state.block {
                        let target = Target { block: block.clone(), path };
                        self.step(Step::ClearVolume { group: group.name.clone(), target, volume: volume.name.clone() });
                    }
                }
                Some(_) => {
                    if let Some(device) = self.resolve(&path) {
                        self.name(&path, device);
                    }
                }
            }
        }
    }

    /// Ends what was begun with thin volumes and their snapshots ([`crate::snapshots`]): one that is about to be what it was is
    /// that, and is not made anew. Says whether all declared ones have their names.
    fn settle(&mut self, group: &VolumeGroup, known: &Group) -> bool {
        let is_there = |name: &String| known.volumes.iter().any(|state| state.name == *name);
        let mut complete = true;
        for volume in group.volumes.iter().filter(|volume| volume.kind.is_thin()) {
            let mut left = [new(&volume.name), old(&volume.name)].into_iter().filter(is_there);
            let group = group.name.clone();
            if is_there(&volume.name) {
                left.for_each(|volume| self.step(Step::RemoveVolume { group: group.clone(), volume }));
            } else if let Some(from) = left.next() {
                complete = false;
                self.step(Step::RenameVolume { group, from, to: volume.name.clone() });
            }
        }
        complete
    }
}
