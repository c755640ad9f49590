//! What a guest does, told by the one who keeps it ([`crate::guest`]) to everybody who wants to know, and what everybody asks
//! of it, told to the one who keeps it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use thimble_spec::api::event::What;
use thimble_spec::api::guest::{State, Verb};
use thimble_spec::appliance::Guest;
use thimble_spec::console::{SENTENCE_MAX, one_line};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

use crate::definitions::Defined;
use crate::events::Events;

/// Orders that may wait for a keeper.
const ORDERS: usize = 16;
/// How long a keeper may take to obey: it asks a VMM, which answers from memory, on a host whose CPUs may all be busy.
const ORDER_LIMIT: Duration = Duration::from_secs(30);

/// What a guest does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Life {
    /// In one word.
    pub state: State,
    /// Why.
    pub reason: String,
    /// Its VMM: process and when it started.
    pub vmm: Option<(u32, Instant)>,
    /// The definition that it was started by.
    pub runs: Option<Arc<Guest>>,
    /// Seconds from there to its word that its services are ready.
    pub ready_s: Option<f64>,
    /// Starts since this daemon runs.
    pub starts: u64,
    /// Times that it ended and was to be started again, or could not start.
    pub failures: u64,
}

/// The keeper's end.
#[derive(Debug)]
pub struct Post {
    guest: String,
    life: watch::Sender<Life>,
    events: Events,
    /// What is asked of the guest.
    pub orders: mpsc::Receiver<Order>,
    /// What it is.
    pub defined: watch::Receiver<Arc<Defined>>,
    /// It was defined just now: nobody has asked for its start.
    pub fresh: bool,
    lent: Arc<AtomicBool>,
}

/// Everybody else's end.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub name: Arc<str>,
    /// What it is: its next start goes by it.
    pub defined: watch::Sender<Arc<Defined>>,
    /// What it does.
    pub life: watch::Receiver<Life>,
    orders: mpsc::Sender<Order>,
    lent: Arc<AtomicBool>,
}

/// A guest's disk, which nobody else has until this is gone.
#[derive(Debug)]
pub struct Loan(Arc<AtomicBool>);

impl Drop for Loan {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// What is asked of a guest's keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// That the guest does something.
    Verb(Verb),
    /// That nobody keeps it any more.
    Forget,
    /// Whether it is off, and stays so while its disk is lent ([`Entry::borrow_disk`]).
    Lend,
    /// That it stands still while its disk is copied, if it runs.
    Still,
    /// That it goes on.
    GoOn,
    /// That its disk has the size that it is defined with by now, while it runs.
    Grow,
}

/// Something that is asked of a guest.
#[derive(Debug)]
pub struct Order {
    /// What.
    pub wish: Wish,
    answer: oneshot::Sender<Result<(), String>>,
}

impl Order {
    /// It is or was done.
    pub fn accept(self) {
        self.answer(Ok(()));
    }

    /// It is not.
    pub fn refuse(self, sentence: String) {
        self.answer(Err(sentence));
    }

    /// What came of it.
    pub fn answer(self, outcome: Result<(), String>) {
        // Who asked may be gone.
        let _ = self.answer.send(outcome);
    }
}

/// Both ends, for a guest.
pub fn pair(defined: Defined, events: &Events) -> (Post, Entry) {
    let (orders, received) = mpsc::channel(ORDERS);
    let (tell, life) = watch::channel(Life::default());
    let guest = defined.guest.name.clone();
    let (name, (change, defined)) = (guest.as_str().into(), watch::channel(Arc::new(defined)));
    let lent = Arc::new(AtomicBool::new(false));
    let (events, others) = (events.clone(), Arc::clone(&lent));
    let post = Post { guest, life: tell, events, orders: received, defined, fresh: false, lent: others };
    (post, Entry { name, defined: change, life, orders, lent })
}

impl Entry {
    /// What it is now.
    pub fn defined(&self) -> Arc<Defined> {
        Arc::clone(&self.defined.borrow())
    }

    /// What it runs by; what its next start goes by, if it does not.
    pub fn guest(&self) -> Arc<Guest> {
        let runs = self.life.borrow().runs.clone();
        runs.unwrap_or_else(|| Arc::clone(&self.defined.borrow().guest))
    }

    /// Whether it runs by another definition than its next start goes by.
    pub fn waits(&self) -> bool {
        let next = Arc::clone(&self.defined.borrow().guest);
        let differs = |runs: &Guest| Guest { autostart: next.autostart, ..runs.clone() } != *next;
        // Whether the host starts it is no matter of a guest that runs.
        self.life.borrow().runs.as_ref().is_some_and(|runs| *runs != next && differs(runs))
    }

    /// Takes the guest's disk, which is not to be in use: the guest is not started meanwhile.
    ///
    /// # Errors
    /// The guest is not off, or somebody else has its disk: one sentence.
    pub async fn borrow_disk(&self) -> Result<Loan, String> {
        // From here on its keeper refuses to start it; what it has begun before, it says when it is asked.
        if self.lent.swap(true, Ordering::AcqRel) {
            return Err(lent(&self.name));
        }
        let loan = Loan(Arc::clone(&self.lent));
        self.order(Wish::Lend).await?;
        Ok(loan)
    }

    /// Takes the guest's disk to copy it: of one that is off as [`Self::borrow_disk`] does; of one that runs to the end of its
    /// life, which is told. It may end meanwhile, and is not started again by anybody.
    ///
    /// # Errors
    /// The guest is about to start or to end, or somebody else has its disk: one sentence.
    pub async fn share_disk(&self) -> Result<(Loan, Option<Life>), String> {
        let life = self.life.borrow().clone();
        match life.state {
            State::Running | State::Paused => {
                if self.lent.swap(true, Ordering::AcqRel) {
                    return Err(lent(&self.name));
                }
                Ok((Loan(Arc::clone(&self.lent)), Some(life)))
            }
            State::Off => Ok((self.borrow_disk().await?, None)),
            State::Starting | State::ShuttingDown => {
                Err(format!("guest {} is {}: wait for that", self.name, life.state))
            }
        }
    }

    /// Asks something of the guest.
    ///
    /// # Errors
    /// It is refused: one sentence.
    pub async fn order(&self, wish: Wish) -> Result<(), String> {
        let (answer, answered) = oneshot::channel();
        let busy = || format!("guest {} is busy with what was asked before: try again", self.name);
        self.orders.try_send(Order { wish, answer }).map_err(|_| busy())?;
        match timeout(ORDER_LIMIT, answered).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err("the node daemon ends".to_owned()),
            Err(_) => Err(busy()),
        }
    }
}

fn lent(guest: &str) -> String {
    format!("the disk of guest {guest} is being copied: wait for that, or give it up (thimblectl tasks)")
}

impl Post {
    /// Says that the guest cannot start now, nor go: somebody has its disk.
    ///
    /// # Errors
    /// That.
    pub fn has_its_disk(&self) -> Result<(), String> {
        if self.lent.load(Ordering::Acquire) { Err(lent(&self.guest)) } else { Ok(()) }
    }

    /// How it is.
    pub fn life(&self) -> Life {
        self.life.borrow().clone()
    }

    fn change(&self, change: impl FnOnce(&mut Life)) {
        let mut news = None;
        self.life.send_if_modified(|life| {
            let before = life.clone();
            change(life);
            if (life.state, &life.reason) != (before.state, &before.reason) {
                news = Some((life.state, life.reason.clone()));
            }
            *life != before
        });
        if let Some((state, reason)) = news {
            self.events.tell(What::Guest { guest: self.guest.clone(), state, reason });
        }
    }

    /// It is in this state now.
    pub fn is(&self, state: State, reason: &str) {
        self.change(|life| {
            life.state = state;
            life.reason = one_line(reason, SENTENCE_MAX);
            if !state.is_active() {
                (life.vmm, life.runs, life.ready_s) = (None, None, None);
            }
        });
    }

    /// It has failed, and is to be started again.
    pub fn failed(&self, reason: &str) {
        self.change(|life| life.failures += 1);
        self.is(State::Starting, reason);
    }

    /// It could not start, and stays off.
    pub fn refused(&self, reason: &str) {
        self.change(|life| life.failures += 1);
        self.is(State::Off, reason);
    }

    /// A VMM is about to be started.
    pub fn starts(&self) {
        self.change(|life| life.starts += 1);
    }

    /// Its VMM is this process, and runs since then.
    pub fn vmm(&self, pid: u32, since: Instant) {
        self.change(|life| life.vmm = Some((pid, since)));
    }

    /// It was started by this definition.
    pub fn runs(&self, guest: &Arc<Guest>) {
        self.change(|life| life.runs = Some(Arc::clone(guest)));
    }

    /// Its services are ready.
    pub fn ready(&self, seconds: f64) {
        let before = self.life().ready_s;
        self.change(|life| life.ready_s = Some(seconds));
        if before.is_none() {
            self.events.tell(What::Ready { guest: self.guest.clone(), seconds });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Epoch;
    use crate::testing;

    #[tokio::test]
    async fn a_disk_is_lent_to_one_at_a_time_and_given_back() {
        let defined = testing::defined(&testing::appliance(&["memory = \"64MiB\""])).remove(0);
        let (mut post, entry) = pair(defined, &Events::new(Epoch::now()));
        let borrow = |entry: &Entry| {
            let entry = entry.clone();
            tokio::spawn(async move { entry.borrow_disk().await })
        };
        let asking = borrow(&entry);
        let order = post.orders.recv().await.unwrap();
        assert_eq!(order.wish, Wish::Lend);
        assert!(post.has_its_disk().is_err(), "before its keeper says yes");
        order.accept();
        let loan = asking.await.unwrap().unwrap();
        assert!(borrow(&entry).await.unwrap().unwrap_err().contains("web1 is being copied"));
        drop(loan);
        assert_eq!(post.has_its_disk(), Ok(()));
        // One that is refused leaves nothing.
        let asking = borrow(&entry);
        post.orders.recv().await.unwrap().refuse("it runs".to_owned());
        assert_eq!(asking.await.unwrap().unwrap_err(), "it runs");
        assert_eq!(post.has_its_disk(), Ok(()));
    }

    #[tokio::test]
    async fn news_are_told_once_and_orders_are_answered() {
        let events = Events::new(Epoch::now());
        let defined = testing::defined(&testing::appliance(&["memory = \"64MiB\""])).remove(0);
        let (mut post, entry) = pair(defined, &events);
        post.is(State::Running, "booted");
        post.is(State::Running, "booted");
        post.vmm(7, Instant::now());
        post.ready(1.5);
        post.ready(1.5);
        assert_eq!(events.newest(), 2);
        assert_eq!(entry.life.borrow().ready_s, Some(1.5));
        post.is(State::Off, "power-off");
        assert_eq!((entry.life.borrow().ready_s, entry.life.borrow().vmm), (None, None));

        let asking = tokio::spawn(async move { entry.order(Wish::Verb(Verb::Start)).await });
        let order = post.orders.recv().await.unwrap();
        assert_eq!(order.wish, Wish::Verb(Verb::Start));
        order.refuse("no".to_owned());
        assert_eq!(asking.await.unwrap(), Err("no".to_owned()));
    }
}
