//! Disks that the node has made for guests: those of guests that are no more stay until somebody takes them away.

use std::fs;
use std::os::unix::fs::MetadataExt;

use thimble_spec::api::audit::Who;
use thimble_spec::api::volume::{Volume, Volumes};
use thimble_spec::appliance::{DiskSource, Guest};
use thimble_spec::names::check_name;
use thimble_spec::units::{ByteSize, MIB};

use super::Api;
use super::call::Refusal;
use crate::copy;

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
            Some(Volume { name, path, size: found.len(), allocated: found.blocks() * copy::BLOCK, used })
        };
        let mut volumes: Vec<Volume> = entries.filter_map(volume).collect();
        volumes.sort_by(|one, other| one.name.cmp(&other.name));
        Volumes { volumes }
    }

    /// Makes one, with nothing on it, for a guest of this name.
    ///
    /// # Errors
    /// There is one, or a guest makes it as it starts; it cannot be made.
    pub async fn create_volume(&self, name: &str, size: ByteSize, who: &Who) -> Result<Volume, Refusal> {
        let _turn = self.changes.lock().await;
        check_name(name).map_err(|error| Refusal::wrong(format!("name: {error}")))?;
        if size.bytes() == 0 || !size.bytes().is_multiple_of(MIB) {
            return Err(Refusal::wrong(format!("size: {size} is no whole number of MiB")));
        }
        if self.has_disk(name) {
            return Err(Refusal::conflict(format!("guest {name} has a disk, or gets it as it starts")));
        }
        copy::empty(&self.book.disks, name, size).map_err(|error| Refusal::conflict(format!("{error:#}")))?;
        self.audited(who, name, &format!("a disk of {size} is made"));
        let made = self.volumes().volumes.into_iter().find(|volume| volume.name == name);
        made.ok_or_else(|| Refusal::broken("it is not there any more".to_owned()))
    }

    /// Takes one away, for good, and its snapshots.
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
