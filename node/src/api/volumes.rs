//! Disks that the node has made for guests: those of guests that are no more stay until somebody takes them away.

use std::fs;
use std::os::unix::fs::MetadataExt;

use thimble_spec::api::audit::Who;
use thimble_spec::api::volume::{Volume, Volumes};
use thimble_spec::appliance::{DiskSource, Guest};

use super::Api;
use super::call::Refusal;
use crate::copy;

/// Unit of `st_blocks` (stat(2)).
const BLOCK: u64 = 512;

impl Api {
    /// All of them.
    pub fn volumes(&self) -> Volumes {
        let entries = fs::read_dir(&self.book.disks).into_iter().flatten().flatten();
        let volume = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            let path = entry.path().join(copy::DISK);
            let found = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
            let used = self.has_disk(&name);
            let path = path.display().to_string();
            Some(Volume { name, path, size: found.len(), allocated: found.blocks() * BLOCK, used })
        };
        let mut volumes: Vec<Volume> = entries.filter_map(volume).collect();
        volumes.sort_by(|one, other| one.name.cmp(&other.name));
        Volumes { volumes }
    }

    /// Takes one away, for good.
    ///
    /// # Errors
    /// A guest has it; there is none; it cannot be removed.
    pub async fn delete_volume(&self, name: &str, who: &Who) -> Result<Volume, Refusal> {
        let _turn = self.changes.lock().await;
        let found = self.volumes().volumes.into_iter().find(|volume| volume.name == name);
        let volume = found.ok_or_else(|| Refusal::missing("there is no disk of that name: thimblectl vol-list"))?;
        if volume.used {
            return Err(Refusal::conflict(format!(
                "guest {name} has this disk: thimblectl undefine {name}, or define it without, and shut it down first"
            )));
        }
        let removed = copy::remove(&self.book.disks, name);
        removed.map_err(|error| Refusal::broken(format!("removing {}: {error}", volume.path)))?;
        self.audited(who, name, "its disk is deleted");
        Ok(volume)
    }

    /// Whether a guest of this name has such a disk, now or from its next start on; or is being made on one.
    fn has_disk(&self, name: &str) -> bool {
        let made = |guest: &Guest| guest.disk.as_ref().is_some_and(|disk| matches!(disk.source, DiskSource::Size(_)));
        let known = self.guest(name).is_ok_and(|entry| made(&entry.guest()) || made(&entry.defined().guest));
        known || self.tasks.makes(name)
    }
}
