//! What an administrator asks of a guest that runs.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use thimble_spec::api::guest::Verb as Asked;
use thimble_spec::vmm::Verb;

use crate::bid::{Bid, SUSPENDED};
use crate::definitions::Defined;
use crate::guest::{Keeper, command};
use crate::life::{Order, Wish};
use crate::plan::{Place, own_disk_index};
use crate::room::PAUSED;
use crate::{cgroup, disk, launch};

impl Keeper {
    /// Carries it out and answers.
    pub async fn obey(&mut self, order: Order, socket: &Path) {
        let outcome = match order.wish {
            Wish::Verb(verb) => self.try_to(verb, socket).await,
            Wish::Forget => Err(format!("guest {0} runs: thimblectl destroy {0} --wait first", self.guest.name)),
            Wish::Lend => Err(format!("guest {0} runs: thimblectl shutdown {0} --wait first", self.guest.name)),
            Wish::Still => self.stand_still(socket).await,
            Wish::GoOn => self.go_on(socket).await,
            Wish::Grow => self.grow(socket).await.map_err(|error| format!("{error:#}")),
        };
        order.answer(outcome);
    }

    /// Its disk grows at once, and from then on it runs by a definition that says so.
    async fn grow(&mut self, socket: &Path) -> Result<()> {
        let next = Arc::clone(&self.post.defined.borrow().guest);
        let Some((guest, size)) = disk::grown(&self.defined.guest, &next) else { return Ok(()) };
        command(socket, Verb::ResizeDisk { disk: own_disk_index(&guest), bytes: Some(size.bytes()) }).await?;
        launch::runs_by(&Place::of(&guest.name), &guest)?;
        self.take(Arc::new(Defined { guest: Arc::new(guest), ..(*self.defined).clone() }));
        self.post.runs(&self.defined.guest);
        Ok(())
    }

    async fn try_to(&self, asked: Asked, socket: &Path) -> Result<(), String> {
        let name = &self.guest.name;
        let place = Place::of(name);
        let suspended = place.file(SUSPENDED);
        let bid = |bid: Bid| bid.write(&place).map_err(|error| format!("{error:#}"));
        let tell = async |verb| command(socket, verb).await.map_err(|error| format!("guest {name}: {error:#}"));
        match asked {
            Asked::Start => Err(format!("guest {name} runs already")),
            // Its disk would change under whoever copies it, or it would hear nothing.
            _ if asked != Asked::Destroy && self.still_until.is_some() => {
                Err(format!("guest {name} stands still for a moment, while its disk is copied: try again"))
            }
            Asked::Shutdown | Asked::Reboot if suspended.exists() => {
                Err(format!("guest {name} is suspended and hears nothing: thimblectl resume {name} first"))
            }
            Asked::Shutdown => {
                bid(Bid::Off)?;
                tell(Verb::Shutdown).await
            }
            Asked::Reboot => {
                bid(Bid::Again)?;
                tell(Verb::Shutdown).await
            }
            Asked::Destroy => {
                bid(Bid::Off)?;
                if tell(Verb::Kill).await.is_err() {
                    // A VMM that its guest has taken over does as it likes.
                    cgroup::kill(name);
                }
                Ok(())
            }
            Asked::Reset => {
                Bid::forget(&place);
                tell(Verb::Reset).await
            }
            Asked::Suspend => {
                // Before it is done: whoever lets it go on for other reasons sees it.
                File::create(&suspended).map_err(|error| format!("writing {}: {error}", suspended.display()))?;
                let done = tell(Verb::Pause).await;
                if done.is_err() {
                    let _ = fs::remove_file(&suspended);
                }
                done
            }
            Asked::Resume => {
                let _ = fs::remove_file(&suspended);
                if place.file(PAUSED).exists() {
                    return Err(format!(
                        "guest {name} is paused, for the host has no room for what it writes: make room, and it goes on by \
                         itself"
                    ));
                }
                tell(Verb::Resume).await
            }
        }
    }
}
