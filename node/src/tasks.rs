//! What somebody asked for and takes its time: who asked waits for it, asks again later, or gives it up.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thimble_spec::api::event::What;
use thimble_spec::api::guest::{State as GuestState, Verb};
use thimble_spec::api::task::{Job, Make, State, Task};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::events::{Epoch, Events, now_ms};
use crate::life::Life;

/// Tasks that are remembered, those that run included.
const MOST: usize = 256;
/// How long a guest may take for what it was asked to. It goes on with it; only the task ends.
const LIMIT: Duration = Duration::from_secs(600);

type Slot = watch::Sender<Task>;

/// All tasks.
#[derive(Clone, Debug)]
pub struct Tasks {
    epoch: Epoch,
    events: Events,
    list: Arc<Mutex<List>>,
}

#[derive(Debug, Default)]
struct List {
    slots: VecDeque<Arc<Slot>>,
    last: u64,
}

impl Tasks {
    /// None yet.
    pub fn new(epoch: Epoch, events: Events) -> Self {
        Self { epoch, events, list: Arc::default() }
    }

    fn list(&self) -> MutexGuard<'_, List> {
        // A panic ends the daemon: nobody sees what one left.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new task; none if too many run.
    pub fn begin(&self, guest: &str, job: Job) -> Option<Begun> {
        let mut list = self.list();
        if list.slots.len() >= MOST {
            let ended = list.slots.iter().position(|slot| slot.borrow().state != State::Running)?;
            list.slots.remove(ended);
        }
        list.last += 1;
        let task = Task {
            id: self.epoch.name(list.last),
            guest: guest.to_owned(),
            verb: job,
            state: State::Running,
            progress: "asked for".to_owned(),
            began_ms: now_ms(),
            ended_ms: None,
        };
        let slot = Arc::new(watch::Sender::new(task));
        list.slots.push_back(Arc::clone(&slot));
        drop(list);
        let begun = Begun { slot, events: self.events.clone() };
        begun.tell();
        Some(begun)
    }

    /// All of them, oldest first.
    pub fn all(&self) -> Vec<Task> {
        self.list().slots.iter().map(|slot| slot.borrow().clone()).collect()
    }

    /// Whether a guest of this name is being made.
    pub fn makes(&self, guest: &str) -> bool {
        self.all().iter().any(|task| {
            task.guest == guest && task.state == State::Running && matches!(task.verb, Job::Make(Make::Clone))
        })
    }

    /// The one with this id.
    pub fn find(&self, id: &str) -> Option<watch::Receiver<Task>> {
        self.slot(id).map(|slot| slot.subscribe())
    }

    /// Gives it up, if it runs; what became of it.
    pub fn cancel(&self, id: &str) -> Option<Task> {
        let slot = self.slot(id)?;
        let begun = Begun { slot, events: self.events.clone() };
        let left = match begun.task().verb {
            Job::Verb(_) => "given up: what the guest was asked before stays asked",
            Job::Make(_) => "given up: what was half made is taken away",
        };
        begun.end(State::Cancelled, left);
        Some(begun.task())
    }

    fn slot(&self, id: &str) -> Option<Arc<Slot>> {
        self.list().slots.iter().find(|slot| slot.borrow().id == id).cloned()
    }
}

/// A task, for whoever carries it out.
#[derive(Clone, Debug)]
pub struct Begun {
    slot: Arc<Slot>,
    events: Events,
}

impl Begun {
    /// Whether somebody still wants it.
    pub fn goes_on(&self) -> bool {
        self.slot.borrow().state == State::Running
    }

    /// How it is now.
    pub fn task(&self) -> Task {
        self.slot.borrow().clone()
    }

    fn tell(&self) {
        self.events.tell(What::Task { task: self.task() });
    }

    /// How far it is.
    pub fn progress(&self, progress: &str) {
        let news = self.slot.send_if_modified(|task| {
            let news = task.state == State::Running && task.progress != progress;
            if news {
                progress.clone_into(&mut task.progress);
            }
            news
        });
        if news {
            self.tell();
        }
    }

    /// It ended, unless it had before.
    pub fn end(&self, state: State, progress: &str) {
        let news = self.slot.send_if_modified(|task| {
            let news = task.state == State::Running;
            if news {
                progress.clone_into(&mut task.progress);
                (task.state, task.ended_ms) = (state, Some(now_ms()));
            }
            news
        });
        if news {
            self.tell();
        }
    }

    /// Follows the guest until it has done what it was asked to, or cannot, or nobody wants it any more. `before` is how it
    /// was before it was asked.
    pub async fn follow(self, verb: Verb, before: Life, mut life: watch::Receiver<Life>) {
        let mut own = self.slot.subscribe();
        let watch = async {
            loop {
                let step = step(verb, &before, &life.borrow_and_update());
                match step {
                    Step::On(progress) => self.progress(&progress),
                    Step::End(state, progress) => return self.end(state, &progress),
                }
                if life.changed().await.is_err() {
                    return self.end(State::Failed, "the node daemon ends");
                }
            }
        };
        tokio::select! {
            done = timeout(LIMIT, watch) => if done.is_err() {
                self.end(State::Failed, "it has not come about in ten minutes, and is not waited for any more");
            },
            _ = own.wait_for(|task| task.state != State::Running) => {}
        }
    }
}

/// How far a task is.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    On(String),
    End(State, String),
}

fn step(verb: Verb, before: &Life, now: &Life) -> Step {
    let done = |text: &str| Step::End(State::Done, text.to_owned());
    match verb {
        Verb::Suspend | Verb::Resume => done("done"),
        Verb::Shutdown | Verb::Destroy => match now.state {
            GuestState::Off => Step::End(State::Done, now.reason.clone()),
            _ if now.starts > before.starts => Step::End(State::Failed, "it was started again".to_owned()),
            state => Step::On(state.to_string()),
        },
        Verb::Start | Verb::Reboot | Verb::Reset => match now.state {
            GuestState::Running if now.starts > before.starts => done("running"),
            _ if now.failures > before.failures => Step::End(State::Failed, now.reason.clone()),
            // It was off when it was asked to start: the first news is that it starts.
            GuestState::Off if verb != Verb::Start || before.state != GuestState::Off || now.starts > before.starts => {
                Step::End(State::Failed, format!("it is off: {}", now.reason))
            }
            GuestState::Starting => Step::On(now.reason.clone()),
            state => Step::On(state.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks() -> Tasks {
        let epoch = Epoch::now();
        Tasks::new(epoch.clone(), Events::new(epoch))
    }

    fn life(state: GuestState, starts: u64) -> Life {
        Life { state, starts, reason: "because".to_owned(), ..Life::default() }
    }

    #[tokio::test]
    async fn a_reboot_is_done_when_the_guest_runs_again() {
        let tasks = tasks();
        let begun = tasks.begin("web1", Job::Verb(Verb::Reboot)).unwrap();
        let id = begun.task().id;
        let before = life(GuestState::Running, 1);
        let (tell, lives) = watch::channel(before.clone());
        let follow = tokio::spawn(begun.follow(Verb::Reboot, before, lives));
        for (state, starts) in [(GuestState::ShuttingDown, 1), (GuestState::Starting, 1), (GuestState::Starting, 2)] {
            tell.send_replace(life(state, starts));
            tokio::task::yield_now().await;
            assert_eq!(tasks.find(&id).unwrap().borrow().state, State::Running);
        }
        tell.send_replace(life(GuestState::Running, 2));
        follow.await.unwrap();
        let task = tasks.find(&id).unwrap().borrow().clone();
        assert_eq!((task.state, task.ended_ms.is_some()), (State::Done, true));
    }

    #[test]
    fn what_ends_otherwise_has_failed() {
        let failed = |verb, before: Life, now: Life| matches!(step(verb, &before, &now), Step::End(State::Failed, _));
        let running = || life(GuestState::Running, 1);
        assert!(failed(Verb::Reboot, running(), life(GuestState::Off, 1)));
        assert!(failed(Verb::Shutdown, running(), life(GuestState::Starting, 2)));
        let crashed = Life { failures: 1, ..life(GuestState::Starting, 1) };
        assert!(failed(Verb::Start, life(GuestState::Off, 0), crashed));
        assert!(!failed(Verb::Start, life(GuestState::Off, 0), life(GuestState::Off, 0)), "it has yet to begin");
        assert!(failed(Verb::Start, life(GuestState::Off, 0), life(GuestState::Off, 1)));
        assert_eq!(
            step(Verb::Shutdown, &running(), &life(GuestState::Off, 1)),
            Step::End(State::Done, "because".into())
        );
    }

    #[tokio::test]
    async fn one_that_is_given_up_ends_and_stays_so() {
        let tasks = tasks();
        let begun = tasks.begin("web1", Job::Verb(Verb::Shutdown)).unwrap();
        let id = begun.task().id;
        let (tell, lives) = watch::channel(life(GuestState::Running, 1));
        let follow = tokio::spawn(begun.clone().follow(Verb::Shutdown, life(GuestState::Running, 1), lives));
        tokio::task::yield_now().await;
        assert_eq!(tasks.cancel(&id).unwrap().state, State::Cancelled);
        follow.await.unwrap();
        tell.send_replace(life(GuestState::Off, 1));
        begun.end(State::Done, "too late");
        assert_eq!(tasks.find(&id).unwrap().borrow().state, State::Cancelled);
        assert!(tasks.cancel("nonsense").is_none());
    }

    #[test]
    fn tasks_that_ended_give_way_and_those_that_run_do_not() {
        let tasks = tasks();
        let first = tasks.begin("web1", Job::Verb(Verb::Start)).unwrap();
        for _ in 1..MOST {
            tasks.begin("web1", Job::Verb(Verb::Start)).unwrap();
        }
        assert!(tasks.begin("web1", Job::Verb(Verb::Start)).is_none());
        first.end(State::Done, "running");
        assert!(tasks.begin("web1", Job::Verb(Verb::Start)).is_some());
        assert!(tasks.find(&first.task().id).is_none());
        assert_eq!(tasks.all().len(), MOST);
    }
}
