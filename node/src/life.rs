//! What a guest does, told by the one who keeps it ([`crate::guest`]) to everybody who wants to know, and what everybody asks
//! of it, told to the one who keeps it.

use std::sync::Arc;
use std::time::Duration;

use thimble_spec::api::event::What;
use thimble_spec::api::guest::{State, Verb};
use thimble_spec::appliance::Guest;
use thimble_spec::console::{SENTENCE_MAX, one_line};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

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
    /// Seconds from there to its word that its services are ready.
    pub ready_s: Option<f64>,
    /// Starts since this daemon runs.
    pub starts: u64,
    /// Times that it ended, or could not start, and was to be started again.
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
}

/// Everybody else's end.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The guest's definition.
    pub guest: Arc<Guest>,
    /// What it does.
    pub life: watch::Receiver<Life>,
    orders: mpsc::Sender<Order>,
}

/// Something that is asked of a guest.
#[derive(Debug)]
pub struct Order {
    /// What.
    pub verb: Verb,
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
pub fn pair(guest: &Guest, events: &Events) -> (Post, Entry) {
    let (orders, received) = mpsc::channel(ORDERS);
    let (tell, life) = watch::channel(Life::default());
    let post = Post { guest: guest.name.clone(), life: tell, events: events.clone(), orders: received };
    (post, Entry { guest: Arc::new(guest.clone()), life, orders })
}

impl Entry {
    /// Asks something of the guest.
    ///
    /// # Errors
    /// It is refused: one sentence.
    pub async fn order(&self, verb: Verb) -> Result<(), String> {
        let (answer, answered) = oneshot::channel();
        let busy = || format!("guest {} is busy with what was asked before: try again", self.guest.name);
        self.orders.try_send(Order { verb, answer }).map_err(|_| busy())?;
        match timeout(ORDER_LIMIT, answered).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err("the node daemon ends".to_owned()),
            Err(_) => Err(busy()),
        }
    }
}

impl Post {
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
                (life.vmm, life.ready_s) = (None, None);
            }
        });
    }

    /// It has failed, and is to be started again.
    pub fn failed(&self, reason: &str) {
        self.change(|life| life.failures += 1);
        self.is(State::Starting, reason);
    }

    /// A VMM is about to be started.
    pub fn starts(&self) {
        self.change(|life| life.starts += 1);
    }

    /// Its VMM is this process, and runs since then.
    pub fn vmm(&self, pid: u32, since: Instant) {
        self.change(|life| life.vmm = Some((pid, since)));
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
    async fn news_are_told_once_and_orders_are_answered() {
        let events = Events::new(Epoch::now());
        let (mut post, entry) = pair(&testing::guest("memory = \"64MiB\""), &events);
        post.is(State::Running, "booted");
        post.is(State::Running, "booted");
        post.vmm(7, Instant::now());
        post.ready(1.5);
        post.ready(1.5);
        assert_eq!(events.newest(), 2);
        assert_eq!(entry.life.borrow().ready_s, Some(1.5));
        post.is(State::Off, "power-off");
        assert_eq!((entry.life.borrow().ready_s, entry.life.borrow().vmm), (None, None));

        let asking = tokio::spawn(async move { entry.order(Verb::Start).await });
        let order = post.orders.recv().await.unwrap();
        assert_eq!(order.verb, Verb::Start);
        order.refuse("no".to_owned());
        assert_eq!(asking.await.unwrap(), Err("no".to_owned()));
    }
}
