//! What was fetched, unpacked or built before, by the hash of what it was made from.
//!
//! An entry is a directory `KIND/KEY`. It is built in `tmp/` and renamed when it is whole, so an entry that is there is
//! complete, whatever happened to the build that wanted to write it. Builds at the same time wait for each other per
//! entry; leftovers of builds that were killed go away when the next one starts and no other runs.

use std::env;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::{files, interrupt};

/// Time between two looks at a lock that another build holds.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// The cache of this user.
#[derive(Debug)]
pub struct Cache {
    root: PathBuf,
    /// Held, shared, as long as this build may have something in `tmp/`.
    _alive: File,
}

/// Something in the cache.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its directory.
    pub path: PathBuf,
    /// Whether it was there before.
    pub reused: bool,
}

impl Cache {
    /// Opens the cache: `$THIMBLE_CACHE`, else `$XDG_CACHE_HOME/thimble`, else `~/.cache/thimble`.
    ///
    /// # Errors
    /// None of those is set, or the directory cannot be made.
    pub fn open() -> Result<Self> {
        let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = variable("THIMBLE_CACHE")
            .or_else(|| variable("XDG_CACHE_HOME").map(|home| home.join("thimble")))
            .or_else(|| variable("HOME").map(|home| home.join(".cache/thimble")))
            .ok_or_else(|| Error::environment("no place for the cache: set THIMBLE_CACHE to a directory, or HOME"))?;
        Self::open_at(&root)
    }

    /// Opens the cache in `root`.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn open_at(root: &Path) -> Result<Self> {
        let root = std::path::absolute(root).map_err(Error::io("find", root))?;
        for dir in ["tmp", "locks", "logs"] {
            files::make_dir(&root.join(dir))?;
        }
        let path = root.join("locks/alive");
        let alive = open_lock(&path)?;
        if alive.try_lock().is_ok() {
            for leftover in files::list(&root.join("tmp"))? {
                let _ = fs::remove_dir_all(leftover);
            }
            alive.unlock().map_err(Error::io("unlock", &path))?;
        }
        alive.lock_shared().map_err(Error::io("lock", &path))?;
        Ok(Self { root, _alive: alive })
    }

    /// Its directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// For files that go away with their owner; on the same file system as the entries.
    pub fn temp_dir(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Where programs' whole output is kept.
    pub fn logs_dir(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// The entry, if it is there already.
    pub fn find(&self, kind: &str, key: &str) -> Option<Entry> {
        let path = self.root.join(kind).join(key);
        path.is_dir().then_some(Entry { path, reused: true })
    }

    /// The entry; if it is not there, `build` fills a new directory with it.
    ///
    /// # Errors
    /// `build`'s own, a full disk, an interruption while another build holds the entry.
    pub fn dir_for(&self, kind: &str, key: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<Entry> {
        if let Some(entry) = self.find(kind, key) {
            return Ok(entry);
        }
        let _lock = self.lock(&format!("{kind}-{key}"))?;
        if let Some(entry) = self.find(kind, key) {
            return Ok(entry);
        }
        let path = self.root.join(kind).join(key);
        files::make_dir(files::parent(&path))?;
        let temporary = files::temp_dir_in(&self.temp_dir(), "entry-")?;
        build(temporary.path())?;
        interrupt::check()?;
        // The names become durable only after the content: a power cut leaves no entry rather than an empty one.
        sync(temporary.path())?;
        fs::rename(temporary.path(), &path).map_err(Error::io("write", &path))?;
        // Renamed away: there is nothing left to remove.
        let _ = temporary.keep();
        files::sync_dir(files::parent(&path))?;
        Ok(Entry { path, reused: false })
    }

    /// Holds `name` against other builds until it is dropped.
    ///
    /// # Errors
    /// An interruption while waiting.
    pub fn lock(&self, name: &str) -> Result<File> {
        let path = self.root.join("locks").join(name.replace('/', "-"));
        let file = open_lock(&path)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => {
                    interrupt::check()?;
                    thread::sleep(LOCK_POLL);
                }
                Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path)(error)),
            }
        }
    }
}

fn open_lock(path: &Path) -> Result<File> {
    File::options().create(true).truncate(false).write(true).open(path).map_err(Error::io("open", path))
}

/// Flushes a directory's file system.
fn sync(dir: &Path) -> Result<()> {
    let file = File::open(dir).map_err(Error::io("open", dir))?;
    nix::unistd::syncfs(file).map_err(|error| Error::io("flush", dir)(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_built_once() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open_at(dir.path()).unwrap();
        let build = |tmp: &Path| files::write(&tmp.join("file"), b"content");
        assert!(!cache.dir_for("kind", "key", build).unwrap().reused);
        let again = cache.dir_for("kind", "key", |_| panic!("built twice")).unwrap();
        assert!(again.reused);
        assert_eq!(fs::read(again.path.join("file")).unwrap(), b"content");
    }

    #[test]
    fn a_failed_build_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open_at(dir.path()).unwrap();
        let failed = cache.dir_for("kind", "key", |tmp| {
            files::write(&tmp.join("half"), b"half")?;
            Err(Error::environment("disk full"))
        });
        assert!(failed.is_err());
        assert!(cache.find("kind", "key").is_none());
        assert!(files::list(&cache.temp_dir()).unwrap().is_empty());
    }

    #[test]
    fn leftovers_of_a_killed_build_go_away_once_nobody_works() {
        let dir = tempfile::tempdir().unwrap();
        let first = Cache::open_at(dir.path()).unwrap();
        let leftover = first.temp_dir().join("entry-killed");
        fs::create_dir(&leftover).unwrap();
        let _second = Cache::open_at(dir.path()).unwrap();
        assert!(leftover.exists(), "the first may still be at work on it");
        drop(first);
        drop(_second);
        let _third = Cache::open_at(dir.path()).unwrap();
        assert!(!leftover.exists());
    }

    #[test]
    fn two_builds_share_one_entry() {
        let dir = tempfile::tempdir().unwrap();
        let count = std::sync::atomic::AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let cache = Cache::open_at(dir.path()).unwrap();
                    let build = |tmp: &Path| {
                        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        thread::sleep(Duration::from_millis(50));
                        files::write(&tmp.join("file"), b"x")
                    };
                    cache.dir_for("kind", "key", build).unwrap();
                });
            }
        });
        assert_eq!(count.into_inner(), 1);
    }
}
