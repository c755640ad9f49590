//! Definitions of guests on the node's data partition: a file each, which is replaced as a whole. After a power cut or a
//! `kill -9` there is the one or the other.
//!
//! ```text
//! /data/definitions/web3.json             {"version":1,"slot":0,"guest":{...}}
//! /data/definitions/web3.json.damaged     one that could not be read, set aside
//! ```

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use thimble_spec::api::guest::Origin;
use thimble_spec::appliance::Guest;
use thimble_spec::json::Json;
use thimble_spec::names::check_name;
use thimble_spec::paths;

use super::text::{TEXT_MAX, value};
use crate::proc::is_kept;

/// Of the format.
const VERSION: u64 = 1;
/// What a file's name ends with, and that of one that is set aside.
const ENDING: &str = "json";
/// See [`ENDING`].
const DAMAGED: &str = "json.damaged";
/// The longest file: a definition with its white space, and what is around it.
const FILE_MAX: u64 = 2 * TEXT_MAX as u64;
/// Guests that can be defined on a node: each has a user of its own.
pub const SLOTS: u32 = 10_000;

/// A definition that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Tells the users of the VMMs apart.
    pub slot: u32,
    /// The definition.
    pub guest: Guest,
}

/// A file that cannot be used.
#[derive(Debug)]
pub struct Damage {
    /// Which.
    pub path: PathBuf,
    /// Why.
    pub error: anyhow::Error,
    /// It is nothing that any release could read.
    pub hopeless: bool,
}

/// Where they are.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
    /// Whose the word of a definition is that lies there.
    pub origin: Origin,
}

impl Store {
    /// On the data partition; below the run directory, which goes with the host, where there is none.
    pub fn open() -> Self {
        let kept = is_kept(paths::DATA_DIR, &fs::read_to_string("/proc/self/mounts").unwrap_or_default());
        match kept {
            true => Self { directory: paths::DEFINITIONS_DIR.into(), origin: Origin::Node },
            false => Self { directory: Path::new(paths::RUN_DIR).join("definitions"), origin: Origin::Run },
        }
    }

    /// In this directory.
    #[cfg(test)]
    pub fn at(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), origin: Origin::Node }
    }

    /// All of them, by name; and what cannot be read. What a cut-off writer left behind is no definition.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn read(&self) -> Result<(Vec<Kept>, Vec<Damage>)> {
        let doing = || format!("reading {}", self.directory.display());
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok((Vec::new(), Vec::new())),
            entries => entries.with_context(doing)?,
        };
        let mut paths: Vec<PathBuf> = Vec::new();
        for entry in entries {
            let path = entry.with_context(doing)?.path();
            if path.extension().is_some_and(|ending| ending == ENDING) {
                paths.insert(paths.partition_point(|other| *other < path), path);
            }
        }
        let (mut kept, mut damaged) = (Vec::new(), Vec::new());
        for path in paths {
            let text = text(&path);
            match text.and_then(|text| read(&path, &text)) {
                Ok(one) => kept.push(one),
                Err((error, hopeless)) => damaged.push(Damage { path, error, hopeless }),
            }
        }
        Ok((kept, damaged))
    }

    /// Gives a file another name, by which nobody looks at it.
    ///
    /// # Errors
    /// It stays.
    pub fn set_aside(path: &Path) -> Result<PathBuf> {
        let aside = path.with_extension(DAMAGED);
        fs::rename(path, &aside).with_context(|| format!("renaming {}", path.display()))?;
        Ok(aside)
    }

    /// Keeps one, in the place of the one before.
    ///
    /// # Errors
    /// It cannot be written: the one before stays.
    pub fn write(&self, kept: &Kept) -> Result<()> {
        let path = self.path(&kept.guest.name);
        let content = json!({ "version": VERSION, "slot": kept.slot, "guest": value(&kept.guest) });
        let beside = path.with_extension("new");
        let written = (|| {
            self.make_directory()?;
            let mut file = File::create(&beside)?;
            file.write_all(&serde_json::to_vec_pretty(&content)?)?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            File::open(&self.directory)?.sync_all()
        })();
        if written.is_err() {
            // It would only take room.
            let _ = fs::remove_file(&beside);
        }
        written.with_context(|| format!("the definition cannot be kept in {}", path.display()))
    }

    /// With its own entry on disk.
    fn make_directory(&self) -> std::io::Result<()> {
        if !self.directory.exists() {
            fs::create_dir_all(&self.directory)?;
            if let Some(parent) = self.directory.parent() {
                File::open(parent)?.sync_all()?;
            }
        }
        Ok(())
    }

    /// Forgets one.
    ///
    /// # Errors
    /// It stays.
    pub fn remove(&self, guest: &str) -> Result<()> {
        let path = self.path(guest);
        let removed = fs::remove_file(&path).and_then(|()| File::open(&self.directory)?.sync_all());
        removed.with_context(|| format!("{} cannot be removed", path.display()))
    }

    /// A guest's name is a host name: it leads to no other directory.
    fn path(&self, guest: &str) -> PathBuf {
        self.directory.join(format!("{guest}.{ENDING}"))
    }
}

fn text(path: &Path) -> Result<Vec<u8>, (anyhow::Error, bool)> {
    let read = || {
        ensure!(fs::symlink_metadata(path)?.is_file(), "it is no file");
        let mut text = Vec::new();
        File::open(path)?.take(FILE_MAX + 1).read_to_end(&mut text)?;
        Ok(text)
    };
    read().map_err(|error: anyhow::Error| (error, true))
}

/// What the file says; or why not, and whether another release could read it.
pub fn read(path: &Path, text: &[u8]) -> Result<Kept, (anyhow::Error, bool)> {
    let read = || {
        ensure!(text.len() as u64 <= FILE_MAX, "it has more than {FILE_MAX} bytes");
        let content: Value = serde_json::from_slice(text)?;
        match content["version"].as_u64() {
            Some(VERSION) => {}
            Some(version) if version > VERSION => return Ok(Err(version)),
            _ => bail!("it does not say which version it has"),
        }
        let slot = content["slot"].as_u64().and_then(|slot| u32::try_from(slot).ok());
        let slot = slot.filter(|slot| *slot < SLOTS).context("its slot is none")?;
        let guest = Guest::from_json(content["guest"].to_string().as_bytes())?;
        check_name(&guest.name)?;
        let named = path.file_stem().is_some_and(|stem| stem == guest.name.as_str());
        ensure!(named, "it is the definition of `{}`", guest.name);
        Ok(Ok(Kept { slot, guest }))
    };
    match read() {
        Ok(Ok(kept)) => Ok(kept),
        Ok(Err(version)) => Err((anyhow::anyhow!("a newer release wrote it: it has version {version}"), false)),
        Err(error) => Err((error, true)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use proptest::prelude::*;

    fn kept() -> Kept {
        Kept { slot: 7, guest: testing::guest("memory = \"64MiB\"\ndisk = { size = \"16MiB\" }") }
    }

    #[test]
    fn a_definition_is_there_or_not() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::at(&directory.path().join("definitions"));
        assert!(store.read().unwrap().0.is_empty());
        store.write(&kept()).unwrap();
        assert_eq!(store.read().unwrap().0, [kept()]);
        // What a writer leaves that was cut off is none, and does not keep the next one.
        let beside = store.path("web1").with_extension("new");
        fs::write(&beside, "{\"vers").unwrap();
        assert_eq!(store.read().unwrap().0, [kept()]);
        let other = Kept { slot: 8, ..kept() };
        store.write(&other).unwrap();
        assert!(!beside.exists());
        assert_eq!(store.read().unwrap().0, std::slice::from_ref(&other));
        // One that cannot be written leaves the one before.
        fs::create_dir(&beside).unwrap();
        assert!(store.write(&kept()).is_err());
        assert_eq!(store.read().unwrap().0, [other]);
        store.remove("web1").unwrap();
        assert!(store.read().unwrap().0.is_empty() && store.remove("web1").is_err());
    }

    #[test]
    fn a_damaged_one_is_told_and_the_others_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::at(directory.path());
        store.write(&kept()).unwrap();
        let text = fs::read_to_string(store.path("web1")).unwrap();
        let long = " ".repeat(FILE_MAX as usize + 1);
        for (name, text, hopeless) in [
            ("cut", &text[..text.len() / 2], true),
            ("web2", text.as_str(), true),
            ("newer", &text.replace("\"version\": 1", "\"version\": 2"), false),
            ("older", &text.replace("\"version\": 1", "\"version\": 0"), true),
            ("slot", &text.replace("\"slot\": 7", "\"slot\": 4294967295"), true),
            ("empty", "", true),
            ("long", &long, true),
        ] {
            fs::write(store.path(name), text).unwrap();
            let (read, damaged) = store.read().unwrap();
            assert_eq!(read, [kept()]);
            assert_eq!((damaged.len(), damaged[0].hopeless), (1, hopeless), "{name}: {}", damaged[0].error);
            assert_eq!(damaged[0].path, store.path(name));
            let aside = Store::set_aside(&damaged[0].path).unwrap();
            assert!(aside.ends_with(format!("{name}.json.damaged")));
            assert!(store.read().unwrap().1.is_empty());
        }
        std::os::unix::fs::symlink("/etc/passwd", store.path("link")).unwrap();
        assert_eq!(store.read().unwrap().1.len(), 1);
    }

    proptest! {
        #[test]
        fn any_file_is_safe(bytes in prop::collection::vec(any::<u8>(), 0..300), place in 0..600usize, byte in any::<u8>()) {
            let _ = read(Path::new("/x/web1.json"), &bytes);
            let content = json!({ "version": 1, "slot": 7, "guest": value(&kept().guest) });
            let mut text = content.to_string().into_bytes();
            let length = text.len();
            text[place % length] = byte;
            if let Ok(read) = read(Path::new("/x/web1.json"), &text) {
                prop_assert_eq!(read.guest.name, "web1");
            }
        }
    }
}
