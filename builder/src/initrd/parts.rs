//! The host's initramfs, in parts: each an archive of its own, so that one that did not change is not packed again. The
//! kernel unpacks them one behind the other.

use std::path::PathBuf;

use thimble_spec::manifest::{Object, Origin, Room};

use super::archive::{Archive, Content};
use super::compress::{self, Method};
use crate::context::Context;
use crate::error::Result;
use crate::files::{self, Digests, Key};

/// Changes when the same archive would be packed differently.
const FORMAT: &str = "initramfs part 1";

/// A part before it is packed.
#[derive(Clone, Debug)]
pub struct Plan {
    name: &'static str,
    method: Method,
    archive: Archive,
    origins: Vec<(String, Room, Origin)>,
}

/// A packed part.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its file name.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// What is in it.
    pub objects: Vec<Object>,
    /// Path and hashes of each of them.
    pub digests: Vec<(String, Digests)>,
    /// Whether it was there before.
    pub reused: bool,
}

impl Plan {
    /// A part without content.
    pub fn new(name: &'static str, method: Method) -> Self {
        Self { name, method, archive: Archive::default(), origins: Vec::new() }
    }

    /// Adds a file that the manifest tells of.
    pub fn file(&mut self, path: &str, mode: u32, content: Content, room: Room, origin: Origin) {
        self.archive.file(path, mode, content);
        self.origins.retain(|(known, ..)| known != path);
        self.origins.push((path.to_owned(), room, origin));
    }

    /// The archive, for what the manifest does not tell of.
    pub fn archive(&mut self) -> &mut Archive {
        &mut self.archive
    }

    /// Packs it, or finds it packed.
    ///
    /// # Errors
    /// A file cannot be read, the cache cannot be written, the user interrupts.
    pub fn pack(&self, context: &Context) -> Result<Part> {
        let name = format!("{}.cpio{}", self.name, self.method.suffix());
        let key = Key::new(FORMAT).with(&name).with(self.archive.key()?).finish();
        let entry = context.cache.dir_for("parts", &key, |out| {
            let step = context.progress.step(format!("packing {name}"));
            compress::write(&self.archive, self.method, &out.join(&name))?;
            step.done();
            Ok(())
        })?;
        let path = entry.path.join(&name);
        let digests = self.archive.files().map(|(path, content)| Ok((path.to_owned(), content.digests()?)));
        let digests: Vec<(String, Digests)> = digests.collect::<Result<_>>()?;
        let hashes = digests.iter().map(|(_, digests)| digests.sha256.clone());
        let objects = self.objects_with(hashes, files::size(&path)?)?;
        Ok(Part { name, path, objects, digests, reused: entry.reused })
    }

    /// What is in it; where all is compressed together, each has its share by size.
    pub fn objects(&self, packed: u64) -> Result<Vec<Object>> {
        let hashes = self.archive.files().map(|(_, content)| content.sha256()).collect::<Result<Vec<_>>>()?;
        self.objects_with(hashes, packed)
    }

    /// The same, with their hashes in the order of the archive.
    fn objects_with(&self, hashes: impl IntoIterator<Item = String>, packed: u64) -> Result<Vec<Object>> {
        let mut objects = Vec::new();
        for ((path, content), sha256) in self.archive.files().zip(hashes) {
            let Some((_, room, origin)) = self.origins.iter().find(|(known, ..)| known == path) else { continue };
            let size = content.size()?;
            objects.push(Object {
                name: path.to_owned(),
                room: *room,
                size,
                packed: size,
                sha256,
                origin: origin.clone(),
            });
        }
        let total: u64 = objects.iter().map(|object| object.size).sum();
        for object in &mut objects {
            object.packed = share(object.size, total, packed);
        }
        Ok(objects)
    }
}

/// `part` of `whole`, of `packed`.
fn share(part: u64, whole: u64, packed: u64) -> u64 {
    let share = u128::from(part) * u128::from(packed) / u128::from(whole.max(1));
    u64::try_from(share).unwrap_or(packed)
}

/// The hash that the host prints: over the names and the hashes of all that its initramfs holds.
pub fn manifest_hash(objects: &[Object]) -> String {
    let mut lines: Vec<String> = objects.iter().map(|object| format!("{} {}\n", object.name, object.sha256)).collect();
    lines.sort();
    files::sha256(lines.concat().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use crate::progress::Progress;

    #[test]
    fn a_part_is_packed_once_and_its_bytes_are_shared_out() {
        let dir = tempfile::tempdir().unwrap();
        let context = Context { cache: Cache::open_at(dir.path()).unwrap(), progress: Progress::quiet() };
        let mut plan = Plan::new("test", Method::Zstd);
        plan.archive().dir("/run", 0o755);
        for (path, size) in [("/a", 3000), ("/b", 1000)] {
            plan.file(path, 0o644, Content::Bytes(vec![7; size]), Room::Host, Origin::Thimble);
        }
        let first = plan.pack(&context).unwrap();
        let second = plan.pack(&context).unwrap();
        assert!(!first.reused && second.reused);
        assert_eq!(first.name, "test.cpio.zst");
        let packed = files::size(&first.path).unwrap();
        assert_eq!(first.objects[0].packed, packed * 3 / 4);
        assert_eq!(first.objects[1].size, 1000);
    }

    #[test]
    fn the_hash_does_not_depend_on_the_order() {
        let object = |name: &str| Object {
            name: name.into(),
            room: Room::Host,
            size: 0,
            packed: 0,
            sha256: "00".into(),
            origin: Origin::Thimble,
        };
        let hash = manifest_hash(&[object("/a"), object("/b")]);
        assert_eq!(hash, manifest_hash(&[object("/b"), object("/a")]));
        assert_eq!(hash, files::sha256(b"/a 00\n/b 00\n"));
    }
}
