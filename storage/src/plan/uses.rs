//! What block devices are for: file systems, swap. And what needs none: compressed memory. Exports of NFS servers wait for the
//! network, and are the daemon's.

use thimble_spec::appliance::Filesystem;

use super::{Device, Planner};
use crate::signature::Signature;
use crate::step::Step;

impl<'a> Planner<'a> {
    pub(super) fn uses(&mut self) {
        let storage = self.storage;
        for filesystem in &storage.filesystems {
            self.filesystem(filesystem);
        }
        for path in &storage.swaps {
            self.swap(path);
        }
        if let Some(size) = storage.zram.filter(|_| !self.observed.zram) {
            self.plan.steps.push(Step::Zram { bytes: size.bytes() });
        }
    }

    /// The device, or that it is waited for.
    pub(super) fn device(&mut self, path: &str, what: &str) -> Option<Device<'a>> {
        let device = self.resolve(path);
        if device.is_none() {
            self.wait_for_device(what, path);
        }
        // What this plan changes is looked at again before anything is made on it.
        device.filter(|device| !self.wiped.contains(device.name))
    }

    fn filesystem(&mut self, filesystem: &Filesystem) {
        let path = &filesystem.device;
        if let Some(mounted) = self.observed.mounts.get(&filesystem.mount) {
            let there = self.resolve(path).is_some_and(|device| *mounted == format!("/dev/{}", device.name));
            if !there && self.resolve(path).is_some() {
                let mount = &filesystem.mount;
                self.problem(format!("{mount} has {mounted} mounted, not {path}: unmount it, or reboot"));
            }
            return;
        }
        let Some(device) = self.device(path, &format!("file system {}", filesystem.mount)) else { return };
        let target = self.target(path, device);
        let found = &device.block.found;
        let enclosed = found.md().is_some() || found.has(&Signature::Lvm);
        if found.has(&Signature::Filesystem(filesystem.kind)) && !enclosed && !found.unfinished() {
            match &device.block.used_by {
                Some(user) => self.problem(format!("{target} is used by {user}: it is not mounted")),
                None => self.step(Step::Mount { target, filesystem: filesystem.clone() }),
            }
            return;
        }
        if let Some(steps) = self.ready(path, device) {
            self.take(steps);
            self.step(Step::MakeFilesystem { target, filesystem: filesystem.clone() });
        }
    }

    fn swap(&mut self, path: &str) {
        let Some(device) = self.device(path, "swap") else { return };
        if self.observed.swaps.iter().any(|name| name == device.name) {
            return;
        }
        let target = self.target(path, device);
        let found = &device.block.found;
        if found.has(&Signature::Swap) && !found.unfinished() {
            self.step(Step::SwapOn { target });
        } else if let Some(steps) = self.ready(path, device) {
            self.take(steps);
            self.step(Step::MakeSwap { target });
        }
    }
}
