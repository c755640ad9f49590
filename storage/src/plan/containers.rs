//! LUKS containers: opened with their key, or made where nothing is.

use thimble_spec::appliance::Luks;

use super::{Device, Planner};
use crate::observed::Container;
use crate::signature::Signature;
use crate::step::Step;

/// The least that a container is made on: its headers and keys take 16 MiB.
const LEAST: u64 = 32 << 20;

impl<'a> Planner<'a> {
    /// The container of this name that is open, and whole.
    pub(super) fn container(&self, name: &str) -> Option<&'a Container> {
        self.observed.containers.get(name).filter(|container| !self.is_begun(container))
    }

    /// Whether it was being made.
    fn is_begun(&self, container: &Container) -> bool {
        self.observed.blocks.get(&container.on).is_some_and(|block| block.found.unfinished())
    }

    pub(super) fn containers(&mut self) {
        let storage = self.storage;
        for luks in &storage.luks {
            match self.observed.containers.get(&luks.name) {
                Some(container) if self.is_begun(container) => self.step(Step::CloseLuks { name: luks.name.clone() }),
                Some(container) => self.keep(luks, container),
                None => self.bring(luks),
            }
        }
    }

    fn keep(&mut self, luks: &Luks, container: &Container) {
        let path = luks.path();
        if let Some(device) = self.resolve(&path) {
            self.name(&path, device);
        }
        if let Some(device) = self.resolve(&luks.device).filter(|device| device.name != container.on) {
            let (name, on) = (&luks.name, &container.on);
            self.problem(format!("the LUKS container {name} is on {on}, not on {}: reboot", device.name));
        }
    }

    fn bring(&mut self, luks: &Luks) {
        let what = format!("LUKS container {}", luks.name);
        let Some(device) = self.device(&luks.device, &what) else { return };
        let Some(key) = self.device(&luks.key.device, &what) else { return };
        let target = self.target(&luks.device, device);
        let key = self.target(&luks.key.device, key);
        let luks = luks.clone();
        if is_container(device) {
            match &device.block.used_by {
                Some(user) => self.problem(format!("{target} is used by {user}: it is not opened")),
                None => self.step(Step::OpenLuks { target, key, luks }),
            }
        } else if device.block.size < LEAST {
            self.problem(format!("{target} is smaller than {} MiB: no container is made on it", LEAST >> 20));
        } else if let Some(steps) = self.ready(&luks.device, device) {
            self.take(steps);
            self.step(Step::MakeLuks { target, key, luks });
        }
    }
}

/// A whole one, and not a part of something else.
fn is_container(device: Device<'_>) -> bool {
    let found = &device.block.found;
    let enclosed = found.md().is_some() || found.has(&Signature::Lvm);
    found.has(&Signature::Luks { fresh: false }) && !found.unfinished() && !enclosed
}
