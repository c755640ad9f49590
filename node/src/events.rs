//! What happened of late, in a ring of bounded memory, for whoever wants to hear of it: each reader asks for what came after
//! the last that it saw, so that a slow one holds up nobody and misses nothing without knowing it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use thimble_spec::api::event::{Event, What};
use tokio::sync::watch;

/// Events that are kept: each is some hundred bytes.
const RING: usize = 1024;

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// What was written before a number, `EPOCH-NUMBER`: numbers of two daemons are told apart by their epochs.
#[derive(Clone, Debug)]
pub struct Epoch(Arc<str>);

impl Epoch {
    /// This daemon's: no other has the same process id at the same time.
    pub fn now() -> Self {
        Self(format!("{:x}.{:x}", now_ms(), std::process::id()).into())
    }

    /// The name of a number.
    pub fn name(&self, number: u64) -> String {
        format!("{}-{number}", self.0)
    }

    /// The number with this name, if it is of this epoch.
    pub fn number(&self, name: &str) -> Option<u64> {
        name.strip_prefix(&*self.0)?.strip_prefix('-')?.parse().ok()
    }
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Arc<Event>>,
    /// Number of the event that comes next; they begin with 1.
    next: u64,
}

/// The ring, shared by those who write and those who read.
#[derive(Clone, Debug)]
pub struct Events {
    epoch: Epoch,
    ring: Arc<Mutex<Ring>>,
    newest: Arc<watch::Sender<u64>>,
}

/// What came after an event.
#[derive(Debug)]
pub struct After {
    /// Events that came between are gone.
    pub lost: bool,
    /// Those that are left.
    pub events: Vec<Arc<Event>>,
    /// The number to ask with the next time.
    pub number: u64,
}

impl Events {
    /// An empty ring.
    pub fn new(epoch: Epoch) -> Self {
        let ring = Ring { next: 1, ..Ring::default() };
        Self { epoch, ring: Arc::new(Mutex::new(ring)), newest: Arc::new(watch::Sender::new(0)) }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // A panic ends the daemon: nobody sees what one left.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something happened.
    pub fn tell(&self, what: What) {
        let mut ring = self.ring();
        let number = ring.next;
        ring.next += 1;
        if ring.events.len() == RING {
            ring.events.pop_front();
        }
        ring.events.push_back(Arc::new(Event { id: self.epoch.name(number), time_ms: now_ms(), what }));
        self.newest.send_replace(number);
    }

    /// The newest event's number; 0 before the first.
    pub fn newest(&self) -> u64 {
        *self.newest.borrow()
    }

    /// The number before that of the oldest event that is left.
    pub fn oldest(&self) -> u64 {
        let ring = self.ring();
        ring.next - 1 - ring.events.len() as u64
    }

    /// The number of the event with this id; none, if another daemon told it.
    pub fn number(&self, id: &str) -> Option<u64> {
        self.epoch.number(id).filter(|number| *number < self.ring().next)
    }

    /// The id of a number.
    pub fn id(&self, number: u64) -> String {
        self.epoch.name(number)
    }

    /// What came after the event with this number, `most` of it at most.
    pub fn after(&self, number: u64, most: usize) -> After {
        let ring = self.ring();
        let first = ring.next - ring.events.len() as u64;
        let from = first.max(number + 1);
        let events: Vec<_> = ring.events.iter().skip((from - first) as usize).take(most).cloned().collect();
        After { lost: from > number + 1, number: from - 1 + events.len() as u64, events }
    }

    /// Waits until there is an event after this one.
    pub async fn wait(&self, number: u64) {
        // The sender lives as long as this.
        let _ = self.newest.subscribe().wait_for(|newest| *newest > number).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_spec::api::guest::State;

    fn guest(name: &str) -> What {
        What::Guest { guest: name.to_owned(), state: State::Running, reason: "booted".to_owned() }
    }

    #[test]
    fn a_reader_goes_on_where_it_was_and_learns_what_it_missed() {
        let events = Events::new(Epoch::now());
        assert_eq!(events.newest(), 0);
        for number in 1..=10 {
            events.tell(guest(&number.to_string()));
        }
        let after = events.after(4, 3);
        assert!(!after.lost);
        assert_eq!(after.number, 7);
        let ids: Vec<_> = after.events.iter().map(|event| events.number(&event.id).unwrap()).collect();
        assert_eq!(ids, [5, 6, 7]);
        let rest = events.after(after.number, 100);
        assert_eq!((rest.events.len(), rest.number, rest.lost), (3, 10, false));
        assert!(events.after(10, 100).events.is_empty());

        for _ in 0..RING {
            events.tell(guest("x"));
        }
        let after = events.after(5, usize::MAX);
        assert!(after.lost, "6 to 10 are gone");
        assert_eq!((after.events.len(), after.number), (RING, 10 + RING as u64));
        assert!(!events.after(10, 1).lost, "11 is the oldest that is left");
    }

    #[test]
    fn an_id_of_another_daemon_or_of_none_is_not_understood() {
        let (events, other) = (Events::new(Epoch("a".into())), Events::new(Epoch("b".into())));
        events.tell(guest("web1"));
        other.tell(guest("web1"));
        assert_eq!(events.number("a-1"), Some(1));
        assert_eq!(events.number("a-0"), Some(0));
        for id in ["b-1", "a-2", "a-", "a--1", "a-18446744073709551615", "", "1"] {
            assert_eq!(events.number(id), None, "{id}");
        }
    }

    #[tokio::test]
    async fn who_waits_is_woken() {
        let events = Events::new(Epoch::now());
        let waiting = tokio::spawn({
            let events = events.clone();
            async move { events.wait(0).await }
        });
        tokio::task::yield_now().await;
        events.tell(guest("web1"));
        waiting.await.unwrap();
    }
}
