//! The life of one guest on the host: a task that starts or adopts its VMM, follows it to its end, and decides what
//! comes next.
//!
//! ```text
//!            start / adopt            end of the VMM
//!   [off] ------------------> [runs] ----------------> [ended]
//!     ^                          |                        |
//!     |                          | the host stops         | bid or policy: again, after a pause
//!     |                          v                        v
//!     +-- power-off -- shutdown, then kill, by force    [off] or start
//! ```
//! What administrators ask of it comes as orders ([`crate::life`]), and is answered here and nowhere else: what a guest does
//! has one owner, as long as the daemon lives.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rtnetlink::Handle;
use thimble_spec::api::guest::{State, Verb as Asked};
use thimble_spec::appliance::{Guest, Storage};
use thimble_spec::console::Line;
use thimble_spec::names::tap_name;
use thimble_spec::vmm::{Answer, CONTROL_FILE, Event, Exit, ExitReason, State as VmmState, Verb};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::bid::{self, Bid, SUSPENDED};
use crate::control::Control;
use crate::definitions::Defined;
use crate::launch::{self, Start};
use crate::life::{Order, Post, Wish};
use crate::objects::Objects;
use crate::overcommit::Limits;
use crate::plan::{self, Place};
use crate::policy::{Next, Policy};
use crate::readiness::Signs;
use crate::room::{PAUSED, Room};
use crate::still::{self, STILL};
use crate::stop::{KILL_LIMIT, Step, Stop};
use crate::{cgroup, lock, say, storage, tap, turn};

/// Time between two looks for a control socket that is about to appear.
const SOCKET_INTERVAL: Duration = Duration::from_millis(20);
/// How long a VMM may take to open its control socket.
const SOCKET_LIMIT: Duration = Duration::from_secs(30);

/// One guest and what it needs of the host.
pub struct Keeper {
    /// What it is: as it was started, or is about to be.
    pub defined: Arc<Defined>,
    /// Its definition, as its VMM is to have it.
    pub guest: Guest,
    /// What of the host's storage its disk is on.
    pub needs: Vec<String>,
    /// What all guests are kept with.
    pub host: Host,
    /// Turns true when the host stops.
    pub stopping: watch::Receiver<bool>,
    /// Where it says what the guest does, and hears what is asked of it.
    pub post: Post,
    /// When it goes on, if it stands still for a copy of its disk.
    pub still_until: Option<Instant>,
}

/// What all guests are kept with.
#[derive(Clone, Debug)]
pub struct Host {
    /// The way to the kernel's network objects.
    pub network: Handle,
    /// The host's storage.
    pub storage: Arc<Storage>,
    /// What the guests share.
    pub objects: Objects,
    /// What they may have together.
    pub limits: Limits,
    /// By which PID 1 knows that they are ready.
    pub signs: Signs,
    /// Whether the guests' consoles are copied to the host's.
    pub copy_console: bool,
}

/// Why a guest is off no longer.
enum Wanted {
    Start,
    Stop,
    Forgotten,
}

impl Keeper {
    /// Of the guest whose post this is.
    pub fn new(mut post: Post, host: Host, stopping: watch::Receiver<bool>) -> Self {
        let defined = Arc::clone(&post.defined.borrow_and_update());
        let guest = (*defined.guest).clone();
        let mut keeper =
            Self { defined: Arc::clone(&defined), guest, needs: Vec::new(), host, stopping, post, still_until: None };
        keeper.take(defined);
        keeper
    }

    /// From now on it is this.
    pub fn take(&mut self, defined: Arc<Defined>) {
        self.guest = storage::wait::around_cache(&self.host.storage, (*defined.guest).clone());
        self.needs = storage::wait::needs(&self.host.storage, &self.guest);
        self.defined = defined;
    }

    /// Takes what was defined meanwhile; gives back whether there was something.
    fn renew(&mut self) -> bool {
        let defined = Arc::clone(&self.post.defined.borrow_and_update());
        let news = defined != self.defined;
        if news {
            self.take(defined);
        }
        news
    }

    /// Keeps the guest until the host stops, or nobody wants it kept.
    pub async fn keep(mut self) {
        let mut policy = Policy::default();
        let place = Place::of(&self.guest.name);
        // A guest that isn't started by itself is still adopted when it runs.
        let may_start = self.defined.fault.is_none() && !self.post.fresh;
        let runs = self.runs();
        let mut on = runs || (may_start && bid::wanted(&place, &self.guest));
        if on && !runs && bid::is_of_the_host(&place) {
            on = self.wait_for_turn().await;
        }
        while !*self.stopping.borrow() {
            if on {
                on = self.turn(&mut policy).await;
                continue;
            }
            self.clear_away().await;
            on = match self.stay_off().await {
                Wanted::Start => true,
                Wanted::Stop => false,
                Wanted::Forgotten => return,
            };
            policy = Policy::default();
        }
        self.clear_away().await;
    }

    /// Gets the guest to run, once, and follows it to its end; says whether it is to be started again.
    async fn turn(&mut self, policy: &mut Policy) -> bool {
        let place = Place::of(&self.guest.name);
        if self.runs() {
            // What it runs by, if that is another definition than the one that it has now.
            if let Some(guest) = launch::started_by(&place).filter(|guest| *guest != *self.defined.guest) {
                self.take(Arc::new(Defined { guest: Arc::new(guest), ..(*self.defined).clone() }));
            }
        } else if !self.make_ready().await {
            return false;
        }
        if *self.stopping.borrow() {
            return false;
        }
        let _claim = match self.host.limits.take(&self.guest, self.runs()) {
            Ok(claim) => claim,
            Err(sentence) => {
                say::error(&format!("guest {} is not started: {sentence}", self.guest.name));
                self.post.refused(&sentence);
                return false;
            }
        };
        let began = Instant::now();
        let exit = match self.live().await {
            Ok(exit) => exit,
            Err(error) => Exit::new(ExitReason::Error(format!("{error:#}")), 0.0),
        };
        self.host.signs.ended(&self.guest.name);
        say::line(&Line::GuestExited { name: &self.guest.name, reason: &exit.reason });
        let reason = exit.reason.to_string();
        if *self.stopping.borrow() {
            // It ended because the host does: the next daemon starts it as if nothing had been.
            bid::begin(&place);
            self.post.is(State::Off, &reason);
            return false;
        }
        let next = bid::after(Bid::read(&place), &exit.reason, || {
            policy.after(self.guest.restart, &exit.reason, began.elapsed())
        });
        if next != Next::StayOff {
            // The next daemon would start it, too.
            bid::begin(&place);
        }
        match next {
            Next::StayOff => {
                self.post.is(State::Off, &reason);
                false
            }
            Next::Start(Duration::ZERO) => {
                self.post.is(State::Starting, &reason);
                true
            }
            Next::Start(pause) => {
                self.post.failed(&reason);
                let again = self.hold(sleep(pause), true).await;
                if !again {
                    self.post.is(State::Off, &reason);
                }
                again
            }
        }
    }

    /// Before a start: takes its newest definition, and waits for what that needs. False if it stays off.
    async fn make_ready(&mut self) -> bool {
        self.renew();
        loop {
            if let Some(fault) = &self.defined.fault {
                self.post.is(State::Off, fault);
                return false;
            }
            if !self.wait_for_needs().await {
                self.post.refused("called off");
                return false;
            }
            if !self.renew() {
                return true;
            }
        }
    }

    /// Waits until somebody wants it to start, and says so.
    async fn stay_off(&mut self) -> Wanted {
        let place = Place::of(&self.guest.name);
        let exit = bid::last_exit(&place);
        if exit.is_none() && Bid::read(&place).is_none() {
            // Defined or not, to be started by itself or not: it is not the next daemon that starts it.
            if let Err(error) = Bid::Off.write(&place) {
                say::note(&format!("guest {}: {error:#}", self.guest.name));
            }
        }
        // One that was not let start has its reason.
        let life = self.post.life();
        if life.starts == 0 && life.failures == 0 {
            let reason = exit.map_or_else(|| "not started".to_owned(), |exit| exit.reason.to_string());
            self.post.is(State::Off, self.defined.fault.as_ref().unwrap_or(&reason));
        }
        loop {
            let order = tokio::select! {
                _ = self.stopping.wait_for(|stopping| *stopping) => return Wanted::Stop,
                Some(order) = self.post.orders.recv() => Some(order),
                Ok(()) = self.post.defined.changed() => None,
            };
            let Some(order) = order else {
                let before = self.defined.fault.clone();
                self.renew();
                if self.defined.fault != before {
                    self.post.is(State::Off, self.defined.fault.as_deref().unwrap_or("not started"));
                }
                continue;
            };
            match (order.wish, &self.defined.fault) {
                (Wish::Verb(Asked::Start) | Wish::Forget, _) if self.post.has_its_disk().is_err() => {
                    order.answer(self.post.has_its_disk());
                }
                (Wish::Lend, _) => order.accept(),
                (Wish::Verb(Asked::Start), Some(fault)) => order.refuse(fault.clone()),
                (Wish::Verb(Asked::Start), None) => {
                    if self.is_to_start(order, &place) {
                        return Wanted::Start;
                    }
                }
                (Wish::Forget, _) => {
                    order.accept();
                    return Wanted::Forgotten;
                }
                _ => order.refuse(format!("guest {0} is off: thimblectl start {0} starts it", self.guest.name)),
            }
        }
    }

    fn is_to_start(&self, order: Order, place: &Place) -> bool {
        bid::begin(place);
        let remembered = Bid::Again.write(place).map_err(|error| format!("{error:#}"));
        let starts = remembered.is_ok();
        if starts {
            self.post.is(State::Starting, "asked for");
        }
        order.answer(remembered);
        starts
    }

    /// Waits for something before a start, and says whether to go on: false if the start was called off. The wish to start
    /// may end the wait.
    async fn hold(&mut self, what: impl Future<Output = ()>, may_hurry: bool) -> bool {
        tokio::pin!(what);
        loop {
            tokio::select! {
                () = &mut what => return true,
                _ = self.stopping.wait_for(|stopping| *stopping) => return true,
                Some(order) = self.post.orders.recv() => match order.wish {
                    Wish::Verb(Asked::Shutdown | Asked::Destroy) => {
                        let remembered = Bid::Off.write(&Place::of(&self.guest.name));
                        order.answer(remembered.map_err(|error| format!("{error:#}")));
                        return false;
                    }
                    Wish::Verb(Asked::Start) if may_hurry => {
                        order.accept();
                        return true;
                    }
                    _ => order.refuse(format!(
                        "guest {} does not run yet, it is about to start: {}", self.guest.name, self.post.life().reason
                    )),
                }
            }
        }
    }

    /// Waits for the guests that are before it when the host starts them.
    async fn wait_for_turn(&mut self) -> bool {
        if self.guest.start_after.is_empty() && self.guest.start_delay_s == 0 {
            return true;
        }
        self.post.is(State::Starting, "waits for its turn");
        let guest = self.guest.clone();
        let goes_on = self.hold(async move { turn::wait(&guest).await }, true).await;
        if !goes_on {
            self.post.is(State::Off, "called off");
        }
        goes_on
    }

    /// Waits for the guest's image, which may come from elsewhere, and for what its disk is on.
    async fn wait_for_needs(&mut self) -> bool {
        let (mut objects, image) = (self.host.objects.clone(), plan::image(&self.guest));
        if let Some(image) = image {
            self.post.is(State::Starting, "waits for its image");
            if !self.hold(async move { objects.wait_for(&image).await }, false).await {
                return false;
            }
        }
        let (name, needs) = (self.guest.name.clone(), self.needs.clone());
        self.post.is(State::Starting, "waits for its storage");
        self.hold(async move { storage::wait::wait(&name, &needs).await }, false).await
    }

    /// Nothing of it runs: what it had of the host goes.
    async fn clear_away(&self) {
        cgroup::remove(&self.guest.name).await;
        if let Err(error) = tap::unplug(&self.host.network, &tap_name(&self.guest.name)).await {
            say::error(&format!("guest {}: {error:#}", self.guest.name));
        }
    }

    fn runs(&self) -> bool {
        matches!(lock::take(&Place::of(&self.guest.name).run), Ok(lock::Lock::Taken))
    }

    /// One life: from the start, or from where it is found, to the end.
    async fn live(&mut self) -> Result<Exit> {
        let place = Place::of(&self.guest.name);
        let socket = place.file(CONTROL_FILE);
        if !self.runs() {
            self.post.is(State::Starting, "its VMM is being started");
            self.post.starts();
        }
        let child = match launch::start(&self.guest, &self.defined, &self.host.network).await? {
            Start::Started(child) => Some(child),
            Start::RunsAlready => None,
        };
        let Some(mut watch) = self.watch(&place, &socket).await? else {
            return Ok(launch::exit(&place));
        };
        self.look_at_vmm(&socket, child.is_none()).await;
        self.post.runs(&self.defined.guest);
        self.left_still(&socket).await;
        let copy = self.host.copy_console.then(|| tokio::spawn(copy_console(self.guest.name.clone(), socket.clone())));
        let exit = self.follow(&mut watch, &socket, &place, child.is_none()).await;
        if let Some(copy) = copy {
            // It ends with the connection; what it still holds is printed first.
            let _ = timeout(Duration::from_secs(1), copy).await;
        }
        if let Some(mut child) = child {
            let _ = timeout(KILL_LIMIT, child.wait()).await;
        }
        self.gone().await;
        Ok(exit.unwrap_or_else(|| launch::exit(&place)))
    }

    /// Connects to the VMM and watches it; `None` if it ended before that.
    async fn watch(&self, place: &Place, socket: &Path) -> Result<Option<Control>> {
        let deadline = Instant::now() + SOCKET_LIMIT;
        loop {
            if let Ok(mut control) = Control::connect(socket).await {
                match control.ask(Verb::Watch).await {
                    Ok(_) => return Ok(Some(control)),
                    Err(_) if !self.runs() => return Ok(None),
                    Err(error) => return Err(error),
                }
            }
            if matches!(lock::take(&place.run)?, lock::Lock::Free(_)) {
                return Ok(None);
            }
            anyhow::ensure!(Instant::now() < deadline, "its VMM does not open {}", socket.display());
            sleep(SOCKET_INTERVAL).await;
        }
    }

    /// Learns which process its VMM is and since when, and says so of one that was there before this daemon.
    async fn look_at_vmm(&self, socket: &Path, adopted: bool) {
        let status = async { Control::connect(socket).await?.ask(Verb::Status).await };
        let Ok(Answer::Status(status)) = status.await else { return };
        let age = Duration::try_from_secs_f64(status.uptime_s).unwrap_or_default();
        let now = Instant::now();
        self.post.vmm(status.pid, now.checked_sub(age).unwrap_or(now));
        if adopted {
            say::note(&format!("guest {} adopted, VMM process {}", self.guest.name, status.pid));
        }
    }

    /// Follows the events to the end of the VMM; `None` if it ended without a word.
    async fn follow(&mut self, watch: &mut Control, socket: &Path, place: &Place, adopted: bool) -> Option<Exit> {
        let name = self.guest.name.clone();
        let mut stop = Stop::new(self.stopping.clone());
        let mut room = Room::new(&self.guest);
        let mut running_for = if adopted { "adopted" } else { "booted" };
        loop {
            let event = tokio::select! {
                event = watch.event() => event,
                () = room.look(socket) => continue,
                () = still::over(self.still_until) => {
                    let _ = self.go_on(socket).await;
                    continue;
                }
                step = stop.next() => {
                    self.stop(step, socket).await;
                    continue;
                }
                Some(order) = self.post.orders.recv() => {
                    self.obey(order, socket).await;
                    continue;
                }
            };
            match event {
                Ok(Some(Event::State { state })) => {
                    if state == VmmState::Running && launch::first_time(place, launch::TOLD_RUNNING) {
                        say::line(&Line::GuestRunning { name: &name });
                    }
                    let (state, reason) = match state {
                        VmmState::Running => (State::Running, std::mem::replace(&mut running_for, "resumed")),
                        VmmState::Paused if place.file(PAUSED).exists() => {
                            (State::Paused, "no room for what it writes")
                        }
                        VmmState::Paused if place.file(STILL).exists() => (State::Paused, "its disk is copied"),
                        VmmState::Paused => (State::Paused, "suspended"),
                        VmmState::ShuttingDown => (State::ShuttingDown, "asked to power off"),
                    };
                    self.post.is(state, reason);
                    // Nothing of ours is in it that could say more.
                    if state == State::Running && self.guest.boot.is_some() {
                        self.is_ready(0.0);
                    }
                }
                Ok(Some(Event::Ready { seconds })) => self.is_ready(seconds),
                // For whoever has asked the guest.
                Ok(Some(Event::Frozen { .. } | Event::Seen { .. })) => {}
                Ok(Some(Event::Exited { exit })) => return Some(exit),
                Ok(None) => return None,
                Err(error) => {
                    say::error(&format!("guest {name}: its VMM speaks nonsense ({error:#}); it is ended"));
                    let _ = command(socket, Verb::Kill).await;
                    return None;
                }
            }
        }
    }

    /// Its services are ready, so long after its start.
    fn is_ready(&self, seconds: f64) {
        self.post.ready(seconds);
        if self.host.signs.ready(&self.guest.name) {
            let after = Duration::try_from_secs_f64(seconds).unwrap_or_default();
            say::line(&Line::GuestReady { name: &self.guest.name, after });
        }
    }

    async fn stop(&mut self, step: Step, socket: &Path) {
        let verb = match step {
            Step::Ask => {
                // A guest that is held still hears nothing.
                let _ = self.go_on(socket).await;
                if Place::of(&self.guest.name).file(SUSPENDED).exists() {
                    let _ = command(socket, Verb::Resume).await;
                }
                Verb::Shutdown
            }
            Step::End => Verb::Kill,
            Step::Force => return cgroup::kill(&self.guest.name),
        };
        if let Err(error) = command(socket, verb).await {
            say::note(&format!("guest {}: {verb:?}: {error:#}", self.guest.name));
        }
    }

    /// Waits until the VMM's process is gone, so that its disk is free for the next one.
    async fn gone(&self) {
        let deadline = Instant::now() + KILL_LIMIT;
        while self.runs() && Instant::now() < deadline {
            sleep(SOCKET_INTERVAL).await;
        }
    }
}

/// Asks a VMM to do something.
///
/// # Errors
/// It refuses, or is gone.
pub async fn command(socket: &Path, verb: Verb) -> Result<()> {
    Control::connect(socket).await?.ask(verb).await.map(drop)
}

/// Copies the guest's console to the host's, each line behind the guest's name.
async fn copy_console(name: String, socket: std::path::PathBuf) {
    let Ok(mut control) = Control::connect(&socket).await else { return };
    if control.ask(Verb::Console).await.is_err() {
        return;
    }
    read_lines(control.into_stream(), |line| say::copy(&name, line)).await;
}

/// Calls `each` for each line. A guest that writes without end and without a newline has lines all the same, of
/// [`say::CONSOLE_LINE_MAX`] bytes.
async fn read_lines(mut stream: impl AsyncBufRead + Unpin, mut each: impl FnMut(&str)) {
    let mut line = Vec::new();
    while let Ok(1..) = (&mut stream).take(say::CONSOLE_LINE_MAX as u64).read_until(b'\n', &mut line).await {
        each(&String::from_utf8_lossy(&line));
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_console_is_lines_whatever_a_guest_writes() {
        let mut lines = Vec::new();
        read_lines(&b"one\ntwo"[..], |line| lines.push(line.to_owned())).await;
        assert_eq!(lines, ["one\n", "two"]);

        let flood = vec![b'x'; 1 << 20];
        let mut longest = 0;
        let mut count = 0;
        read_lines(&flood[..], |line| (longest, count) = (line.len().max(longest), count + 1)).await;
        assert_eq!((longest, count), (say::CONSOLE_LINE_MAX, flood.len() / say::CONSOLE_LINE_MAX));
    }
}
