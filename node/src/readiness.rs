//! The signs by which PID 1 knows that the guests are ready: a file in the run directory of each, and one for all.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thimble_spec::appliance::Guest;
use thimble_spec::paths;
use thimble_spec::vmm::READY_FILE;

use crate::say;

/// The signs. Nothing is remembered here: a daemon that comes after another one finds them.
#[derive(Clone, Debug)]
pub struct Signs {
    /// Guests that start by themselves.
    wanted: Arc<[String]>,
    run: PathBuf,
    all: PathBuf,
}

impl Signs {
    /// For these guests.
    pub fn of<'a>(guests: impl IntoIterator<Item = &'a Guest>) -> Self {
        Self::at(guests, Path::new(paths::GUEST_RUN_DIR), Path::new(paths::GUESTS_READY))
    }

    fn at<'a>(guests: impl IntoIterator<Item = &'a Guest>, run: &Path, all: &Path) -> Self {
        let wanted = guests.into_iter().filter(|guest| guest.autostart).map(|guest| guest.name.clone()).collect();
        Self { wanted, run: run.to_owned(), all: all.to_owned() }
    }

    /// This guest is ready; gives back whether that is news.
    pub fn ready(&self, guest: &str) -> bool {
        let news = File::create_new(self.sign(guest)).is_ok();
        self.look();
        news
    }

    /// This guest's life is over. What all of them have shown once stands.
    pub fn ended(&self, guest: &str) {
        let _ = fs::remove_file(self.sign(guest));
    }

    /// Gives the sign for all, if that is so. Where there is no guest to wait for, it is so at once.
    pub fn look(&self) {
        if self.wanted.iter().all(|guest| self.sign(guest).exists())
            && let Err(error) = fs::write(&self.all, "")
        {
            say::error(&format!("cannot write {}: {error}", self.all.display()));
        }
    }

    fn sign(&self, guest: &str) -> PathBuf {
        self.run.join(guest).join(READY_FILE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    const MEMORY: &str = "memory = \"64MiB\"";

    #[test]
    fn all_are_ready_when_each_is_at_the_same_time() {
        let dir = tempfile::tempdir().unwrap();
        let all = dir.path().join("all");
        let mut guests = testing::appliance(&[MEMORY, MEMORY, &format!("{MEMORY}\nautostart = false")]).guests;
        let signs = Signs::at(&guests, dir.path(), &all);
        for guest in &guests {
            fs::create_dir(dir.path().join(&guest.name)).unwrap();
        }
        assert!(signs.ready("web1") && !signs.ready("web1"));
        signs.ended("web1");
        assert!(signs.ready("web2"));
        assert!(!all.exists(), "web1 has gone");
        assert!(signs.ready("web1") && all.exists());
        signs.ended("web2");
        assert!(all.exists());

        fs::remove_file(&all).unwrap();
        guests.retain(|guest| !guest.autostart);
        Signs::at(&guests, dir.path(), &all).look();
        assert!(all.exists(), "there is nobody to wait for");
    }
}
