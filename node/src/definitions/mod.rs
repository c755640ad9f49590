//! What each guest is: what the image says, or what somebody has defined on this node since, which the node keeps ([`store`]).
//!
//! ```text
//! the image's definition  <  a kept one of the same name          which the next start of the guest goes by
//! ```
//! A kept definition that the image has no room for (a bridge that is gone, an address that is taken) stays, and its guest off,
//! until it is mended, or another image has what it needs: nothing is started by a definition that nobody asked for.

mod store;
mod text;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thimble_spec::admission::{self, Beside};
use thimble_spec::api::guest::Origin;
use thimble_spec::appliance::{Appliance, DiskSource, Guest, GuestBoot};
use thimble_spec::catalogue::Catalogue;
use thimble_spec::paths;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::bid::Bid;
use crate::{plan, say};
#[cfg(any(test, feature = "fuzzing"))]
pub use store::read;
pub use store::{Kept, SLOTS, Store};
pub use text::{TEXT_MAX, differences, parse, revision, value, without_secrets};

/// Places of guests that the node keeps, behind those of the image's.
const KEPT_FIRST: u32 = 10_000;
/// How long it may take to look at a file: it may be on a server that is away.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// What a guest is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defined {
    /// Its definition.
    pub guest: Arc<Guest>,
    /// Whose word that is.
    pub origin: Origin,
    /// Its place among all guests.
    pub index: u32,
    /// Why it cannot be started.
    pub fault: Option<String>,
}

/// What definitions are held to, and where they are kept.
#[derive(Clone, Debug)]
pub struct Book {
    /// The image that the node runs.
    pub appliance: Arc<Appliance>,
    /// Where definitions are kept.
    pub store: Store,
    /// Where the disks are that the node makes.
    pub disks: PathBuf,
    /// Whether an image's file is on the node, or on its way.
    image_is_there: fn(&Path) -> bool,
    /// What is done before a new guest is kept.
    begins: fn(&str) -> anyhow::Result<()>,
}

impl Book {
    /// Opens it.
    pub fn open(appliance: Arc<Appliance>, store: Store) -> Self {
        Self { appliance, store, disks: paths::GUEST_DISKS_DIR.into(), image_is_there, begins: Bid::begins }
    }

    /// One whose images are all there, and whose disks are below `directory`.
    #[cfg(test)]
    pub fn of_test(appliance: Arc<Appliance>, store: Store, directory: &Path) -> Self {
        let image_is_there = |path: &Path| !path.ends_with("missing.erofs");
        Self { appliance, store, disks: directory.join("disks"), image_is_there, begins: |_| Ok(()) }
    }

    /// All guests: the image's in its order, then the others by name. What cannot be used is told, and what cannot be read is
    /// set aside.
    pub fn guests(&self) -> Vec<Defined> {
        let (kept, damaged) = self.store.read().unwrap_or_else(|error| {
            say::error(&format!("definitions that are kept on this node are not used: {error:#}"));
            Default::default()
        });
        for damage in damaged {
            let what = match damage.hopeless.then(|| Store::set_aside(&damage.path)) {
                Some(Ok(aside)) => format!("it is set aside as {}", aside.display()),
                Some(Err(error)) => format!("it is left out: {error:#}"),
                None => "it is left out".to_owned(),
            };
            say::error(&format!("{} is no definition of a guest: {:#}; {what}", damage.path.display(), damage.error));
        }
        let guests = self.with(kept);
        for (guest, fault) in guests.iter().filter_map(|it| Some((&it.guest, it.fault.as_ref()?))) {
            say::error(&format!("guest {} stays off: {fault}", guest.name));
        }
        guests
    }

    /// The same, and nothing is touched or told.
    pub fn guests_as_found(&self) -> Vec<Defined> {
        self.with(self.store.read().map(|(kept, _)| kept).unwrap_or_default())
    }

    fn with(&self, mut kept: Vec<Kept>) -> Vec<Defined> {
        let mut guests: Vec<Defined> =
            self.appliance.guests.iter().filter_map(|guest| self.of_image(&guest.name)).collect();
        for defined in &mut guests {
            if let Some(place) = kept.iter().position(|kept| kept.guest.name == defined.guest.name) {
                *defined = self.defined(kept.remove(place));
            }
        }
        guests.extend(kept.into_iter().map(|kept| self.defined(kept)));
        // The image's own are good.
        let mut good: Vec<Arc<Guest>> =
            guests.iter().filter(|it| it.origin == Origin::Image).map(|it| Arc::clone(&it.guest)).collect();
        for defined in guests.iter_mut().filter(|it| it.origin != Origin::Image) {
            match self.judge(&defined.guest, &good) {
                Ok(()) => good.push(Arc::clone(&defined.guest)),
                Err(sentence) => defined.fault = Some(format!("its definition cannot be used: {sentence}")),
            }
        }
        guests
    }

    /// Keeps a definition; a guest that is new stays off, should the daemon end before it keeps that in mind.
    ///
    /// # Errors
    /// It cannot be kept.
    pub fn keep(&self, kept: &Kept, is_new: bool) -> anyhow::Result<()> {
        if is_new {
            (self.begins)(&kept.guest.name)?;
        }
        self.store.write(kept)
    }

    /// What the image says of a guest.
    pub fn of_image(&self, name: &str) -> Option<Defined> {
        let (index, guest) = (0..).zip(&self.appliance.guests).find(|(_, guest)| guest.name == name)?;
        Some(Defined { guest: Arc::new(guest.clone()), origin: Origin::Image, index, fault: None })
    }

    /// What a kept definition makes of a guest.
    pub fn defined(&self, kept: Kept) -> Defined {
        let of_image = self.of_image(&kept.guest.name).map(|it| it.index);
        let index = of_image.unwrap_or(KEPT_FIRST + kept.slot);
        Defined { guest: Arc::new(kept.guest), origin: self.store.origin, index, fault: None }
    }

    /// The slot that a guest has or gets: no two VMMs have one user. None is left if there are too many.
    pub fn slot(&self, of: Option<&Defined>, all: &[Arc<Defined>]) -> Option<u32> {
        let slot = |it: &Defined| it.index.checked_sub(KEPT_FIRST);
        of.and_then(slot).or_else(|| (0..SLOTS).find(|free| !all.iter().any(|it| slot(it) == Some(*free))))
    }

    /// Whether a guest may be defined beside the others.
    ///
    /// # Errors
    /// A sentence.
    pub fn judge(&self, guest: &Guest, others: &[Arc<Guest>]) -> Result<(), String> {
        let others: Vec<&Guest> = others.iter().map(Arc::as_ref).collect();
        let found = admission::objections(guest, Beside { appliance: &self.appliance, others: &others });
        if !found.is_empty() {
            let told: Vec<String> = found.iter().map(ToString::to_string).collect();
            return Err(told.join("; "));
        }
        if let (Some(name), Some(path)) = (&guest.image, plan::image(guest))
            && !(self.image_is_there)(&path)
        {
            return Err(format!("image: there is no image `{name}` on this node: it has what it was built with"));
        }
        Ok(())
    }

    /// Whether the files that a guest's disk and its own kernel are to be are there, and are what their paths say.
    ///
    /// # Errors
    /// A sentence.
    pub async fn look_at_files(&self, guest: &Guest) -> Result<(), String> {
        let of_image = self.appliance.guests.iter().find(|other| other.name == guest.name);
        let source = guest.disk.as_ref().map(|disk| &disk.source);
        if let Some(DiskSource::File(path)) = source
            && of_image.and_then(|other| other.disk.as_ref()).map(|disk| &disk.source) != source
        {
            look_at("disk.source.file", path).await?;
        }
        if of_image.is_none_or(|other| other.boot != guest.boot) {
            for path in guest.boot.iter().flat_map(GuestBoot::files) {
                look_at("boot", path).await?;
            }
        }
        Ok(())
    }
}

/// Whether this is a file, and none behind a link.
async fn look_at(key: &str, path: &str) -> Result<(), String> {
    let file = path.to_owned();
    let looked = spawn_blocking(move || {
        let real = fs::canonicalize(&file).map_err(|error| error.to_string())?;
        match real == Path::new(&file) && real.is_file() {
            true => Ok(()),
            false => Err(format!("it is no file, or leads to {}", real.display())),
        }
    });
    let looked = timeout(LOOK_LIMIT, looked).await;
    let looked = looked.map_err(|_| "its server does not answer".to_owned());
    let looked = looked.and_then(|done| done.unwrap_or_else(|error| Err(error.to_string())));
    looked.map_err(|why| format!("{key}: `{}`: {why}", path.escape_debug()))
}

fn image_is_there(path: &Path) -> bool {
    let catalogue = fs::read(paths::CATALOGUE).ok().and_then(|json| serde_json::from_slice::<Catalogue>(&json).ok());
    path.exists() || path.to_str().is_some_and(|path| catalogue.is_some_and(|catalogue| catalogue.at(path).is_some()))
}

#[cfg(test)]
mod tests;
