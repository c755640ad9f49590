//! Changes of what guests are. One after the other, each to its end: whoever asked may be gone in the middle of it, and a
//! definition is on disk before anybody goes by it.

use std::sync::Arc;

use thimble_spec::api::audit::Who;
use thimble_spec::api::event::What;
use thimble_spec::api::guest::{Definition, Origin};
use thimble_spec::appliance::Guest;
use tokio::task::spawn_blocking;

use super::Api;
use super::call::Refusal;
use crate::definitions::{self, Defined, Kept, differences, revision, value};
use crate::life::{Entry, Wish};
use crate::{disk, hugepages, say};

/// Which definition is to be replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Whatever there is.
    Any,
    /// The one with this revision.
    Is(String),
    /// None.
    New,
}

impl Condition {
    fn check(&self, name: &str, now: Option<&Defined>) -> Result<(), Refusal> {
        let now = now.map(|defined| revision(&defined.guest));
        match self {
            Self::Any => Ok(()),
            Self::Is(wanted) if now.as_ref() == Some(wanted) => Ok(()),
            Self::New if now.is_none() => Ok(()),
            Self::Is(_) => {
                Err(Refusal::stale(format!("somebody else has changed the definition of guest {name} meanwhile")))
            }
            Self::New => Err(Refusal::stale(format!("there is a guest {name} already"))),
        }
    }
}

impl Api {
    /// Makes a guest what `text` says.
    ///
    /// # Errors
    /// It may not be that; another definition is there than the one that is to be replaced; it cannot be kept.
    pub async fn define(
        self: &Arc<Self>,
        name: &str,
        text: &[u8],
        condition: &Condition,
        who: &Who,
    ) -> Result<Definition, Refusal> {
        let _turn = self.changes.lock().await;
        let guest = definitions::parse(&self.book.appliance.name, name, text).map_err(Refusal::wrong)?;
        let entry = self.guest(name).ok();
        let before = entry.as_ref().map(Entry::defined);
        condition.check(name, before.as_deref())?;
        if let Some((entry, before)) = entry.as_ref().zip(before.as_ref())
            && *before.guest == guest
            && before.fault.is_none()
        {
            return Ok(answer(entry));
        }
        self.admit(&guest).await?;
        let changed = match &before {
            Some(before) => differences(&value(&before.guest), &value(&guest)),
            None => "new".to_owned(),
        };
        let all: Vec<Arc<Defined>> = self.guests().iter().map(Entry::defined).collect();
        let slot = self.book.slot(before.as_deref(), &all);
        let slot = slot.ok_or_else(|| Refusal::conflict("there are too many guests on this node".to_owned()))?;
        let kept = Kept { slot, guest };
        let (book, written, is_new) = (self.book.clone(), kept.clone(), before.is_none());
        on_disk(Box::new(move || book.keep(&written, is_new))).await?;
        let defined = self.book.defined(kept);
        self.tell(who, &defined.guest, &format!("defined, {changed}"));
        match entry {
            Some(entry) => {
                entry.defined.send_replace(Arc::new(defined));
                grow(&entry).await;
            }
            None => self.keep(defined, true),
        }
        let guests: Vec<Guest> = self.guests().iter().map(|entry| (*entry.defined().guest).clone()).collect();
        if let Some(note) = hugepages::set_aside(&guests) {
            say::note(&note);
        }
        self.guest(name).map(|entry| answer(&entry))
    }

    /// What `text` says, if a guest of this name may be that and is not there yet.
    ///
    /// # Errors
    /// It may not, or it is.
    pub async fn may_be_new(&self, name: &str, text: &[u8]) -> Result<Guest, Refusal> {
        let _turn = self.changes.lock().await;
        let guest = definitions::parse(&self.book.appliance.name, name, text).map_err(Refusal::wrong)?;
        let before = self.guest(name).ok().map(|entry| entry.defined());
        Condition::New.check(name, before.as_deref())?;
        self.admit(&guest).await?;
        Ok(guest)
    }

    /// A guest is what the image says again; one that the image does not have is no more.
    ///
    /// # Errors
    /// Nothing of it is kept; it runs, and is nothing without that; another definition is there than was meant.
    pub async fn undefine(
        self: &Arc<Self>,
        name: &str,
        condition: &Condition,
        who: &Who,
    ) -> Result<Definition, Refusal> {
        let _turn = self.changes.lock().await;
        let entry = self.guest(name)?;
        let before = entry.defined();
        condition.check(name, Some(&before))?;
        if before.origin == Origin::Image {
            return Err(Refusal::conflict(format!(
                "guest {name} is what the image says, and goes with it: thimblectl autostart --disable {name} keeps it off"
            )));
        }
        let of_image = self.book.of_image(name);
        match &of_image {
            // Others may have taken meanwhile what it has by the image.
            Some(of_image) => self.admit(&of_image.guest).await?,
            // Who keeps it knows whether it runs.
            None => entry.order(Wish::Forget).await.map_err(Refusal::conflict)?,
        }
        let (store, file) = (self.book.store.clone(), name.to_owned());
        let removed = on_disk(Box::new(move || store.remove(&file))).await;
        match of_image {
            Some(of_image) => {
                removed?;
                self.tell(who, &of_image.guest, "what the image says again");
                entry.defined.send_replace(Arc::new(of_image));
                Ok(answer(&entry))
            }
            None => {
                self.list().retain(|other| other.name != entry.name);
                if let Err(refusal) = removed {
                    // Nobody keeps it now, and it is still there.
                    self.keep((*before).clone(), true);
                    return Err(refusal);
                }
                self.audited(who, name, "is no more");
                self.events.tell(What::Defined { guest: name.to_owned(), revision: None });
                Ok(Definition { guest: name.to_owned(), revision: None, defined: None, waits: false })
            }
        }
    }

    /// Whether the node has what a guest is to be.
    async fn admit(&self, guest: &Guest) -> Result<(), Refusal> {
        let others = self.guests().into_iter().filter(|entry| *entry.name != *guest.name);
        // What runs by an older definition holds what that says, too.
        let others: Vec<Arc<Guest>> = others
            .flat_map(|entry| {
                let defined = entry.defined();
                let next = defined.fault.is_none().then(|| Arc::clone(&defined.guest));
                let runs = entry.waits().then(|| entry.guest());
                next.into_iter().chain(runs)
            })
            .collect();
        self.book.judge(guest, &others).map_err(Refusal::wrong)?;
        self.book.look_at_files(guest).await.map_err(Refusal::wrong)
    }

    fn tell(&self, who: &Who, guest: &Guest, what: &str) {
        self.audited(who, &guest.name, what);
        self.events.tell(What::Defined { guest: guest.name.clone(), revision: Some(revision(guest)) });
    }

    /// Remembers what became of it.
    pub fn audited(&self, who: &Who, name: &str, what: &str) {
        // That it was asked for is written already.
        if let Err(error) = self.audit.remember(who, &format!("guest {name}: {what}"), None) {
            say::error(&format!("{error:#}"));
        }
    }
}

/// The disk of a guest that runs has a larger size as soon as that is defined.
async fn grow(entry: &Entry) {
    let (runs, next) = (entry.life.borrow().runs.clone(), entry.defined());
    if runs.is_some_and(|runs| disk::grown(&runs, &next.guest).is_some())
        && let Err(sentence) = entry.order(Wish::Grow).await
    {
        say::note(&format!("guest {}: its disk grows with its next start: {sentence}", entry.name));
    }
}

fn answer(entry: &Entry) -> Definition {
    let defined = entry.defined();
    Definition {
        guest: defined.guest.name.clone(),
        revision: Some(revision(&defined.guest)),
        defined: Some(defined.origin),
        waits: entry.waits(),
    }
}

async fn on_disk(work: Box<dyn FnOnce() -> anyhow::Result<()> + Send>) -> Result<(), Refusal> {
    let done = spawn_blocking(work).await.map_err(anyhow::Error::from).and_then(|done| done);
    done.map_err(|error| Refusal::broken(format!("{error:#}")))
}
