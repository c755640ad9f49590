//! The life of one guest on the host: a task that starts or adopts its VMM, follows it to its end, and decides what
//! comes next.
//!
//! ```text
//!            start / adopt            end of the VMM
//!   [off] ------------------> [runs] ----------------> [ended]
//!     ^                          |                        |
//!     |                          | the host stops         | policy: again, after a pause
//!     |                          v                        v
//!     +-- power-off -- shutdown, then kill, by force    [off] or start
//! ```

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use rtnetlink::Handle;
use thimble_spec::appliance::Guest;
use thimble_spec::console::Line;
use thimble_spec::names::tap_name;
use thimble_spec::vmm::{Answer, CONTROL_FILE, Event, Exit, ExitReason, State, Verb};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::control::Control;
use crate::launch::{self, Start};
use crate::objects::Objects;
use crate::plan::{self, Place};
use crate::policy::{Next, Policy};
use crate::readiness::Signs;
use crate::room::Room;
use crate::{cgroup, lock, say, storage, tap};

/// How long a guest may take to stop its services and power off before its power is cut.
pub const SHUTDOWN_LIMIT: Duration = Duration::from_secs(25);
/// How long a VMM that was told to end at once may take.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// Time between two looks for a control socket that is about to appear.
const SOCKET_INTERVAL: Duration = Duration::from_millis(20);
/// How long a VMM may take to open its control socket.
const SOCKET_LIMIT: Duration = Duration::from_secs(30);

/// One guest and what it needs of the host.
pub struct Keeper {
    /// Its definition.
    pub guest: Guest,
    /// Its place among the appliance's guests.
    pub index: u32,
    /// The way to the kernel's network objects.
    pub network: Handle,
    /// What of the host's storage its disk is on.
    pub needs: Vec<String>,
    /// What it shares with the others.
    pub objects: Objects,
    /// By which PID 1 knows that it is ready.
    pub signs: Signs,
    /// Turns true when the host stops.
    pub stopping: watch::Receiver<bool>,
    /// Whether the guest's console is copied to the host's.
    pub copy_console: bool,
}

impl Keeper {
    /// Keeps the guest until the host stops or the guest is to stay off.
    pub async fn keep(mut self) {
        let mut policy = Policy::default();
        // A guest that isn't started by itself is still adopted when it runs.
        if !self.guest.autostart && !self.runs() {
            return;
        }
        self.wait_for_image().await;
        self.wait_for_storage().await;
        while !*self.stopping.borrow() {
            let began = Instant::now();
            let exit = match self.live().await {
                Ok(exit) => exit,
                Err(error) => Exit::new(ExitReason::Error(format!("{error:#}")), 0.0),
            };
            self.signs.ended(&self.guest.name);
            say::line(&Line::GuestExited { name: &self.guest.name, reason: &exit.reason });
            match policy.after(&exit.reason, began.elapsed()) {
                Next::StayOff => break,
                Next::Start(pause) => {
                    let _ = timeout(pause, self.stopping.wait_for(|stopping| *stopping)).await;
                }
            }
        }
        cgroup::remove(&self.guest.name).await;
        if let Err(error) = tap::unplug(&tap_name(&self.guest.name)) {
            say::error(&format!("guest {}: {error:#}", self.guest.name));
        }
    }

    /// Waits for the guest's image, which may come from elsewhere, as long as the host does not stop.
    async fn wait_for_image(&mut self) {
        let image = plan::image(&self.guest);
        tokio::select! {
            () = self.objects.wait_for(&image) => {}
            _ = self.stopping.wait_for(|stopping| *stopping) => {}
        }
    }

    /// Waits for what its disk is on, as long as the host does not stop; one that runs has it.
    async fn wait_for_storage(&mut self) {
        if self.runs() {
            return;
        }
        tokio::select! {
            () = storage::wait::wait(&self.guest.name, &self.needs) => {}
            _ = self.stopping.wait_for(|stopping| *stopping) => {}
        }
    }

    fn runs(&self) -> bool {
        matches!(lock::take(&Place::of(&self.guest.name).run), Ok(lock::Lock::Taken))
    }

    /// One life: from the start, or from where it is found, to the end.
    async fn live(&mut self) -> Result<Exit> {
        let place = Place::of(&self.guest.name);
        let socket = place.file(CONTROL_FILE);
        let child = match launch::start(&self.guest, self.index, &self.network).await? {
            Start::Started(child) => Some(child),
            Start::RunsAlready => None,
        };
        let Some(mut watch) = self.watch(&place, &socket).await? else {
            return Ok(launch::exit(&place));
        };
        if child.is_none() {
            self.tell_adoption(&socket).await;
        }
        let copy = self.copy_console.then(|| tokio::spawn(copy_console(self.guest.name.clone(), socket.clone())));
        let exit = self.follow(&mut watch, &socket, &place).await;
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

    async fn tell_adoption(&self, socket: &Path) {
        let status = async { Control::connect(socket).await?.ask(Verb::Status).await };
        let pid = match status.await {
            Ok(Answer::Status(status)) => status.pid.to_string(),
            _ => "?".to_owned(),
        };
        say::note(&format!("guest {} adopted, VMM process {pid}", self.guest.name));
    }

    /// Follows the events to the end of the VMM; `None` if it ended without a word.
    async fn follow(&mut self, watch: &mut Control, socket: &Path, place: &Place) -> Option<Exit> {
        let name = self.guest.name.clone();
        let mut stop = Stop::new(self.stopping.clone());
        let mut room = Room::new(&self.guest);
        loop {
            let event = tokio::select! {
                event = watch.event() => event,
                () = room.look(socket) => continue,
                step = stop.next() => {
                    self.stop(step, socket).await;
                    continue;
                }
            };
            match event {
                Ok(Some(Event::State { state: State::Running })) if launch::first_time(place, launch::TOLD_RUNNING) => {
                    say::line(&Line::GuestRunning { name: &name });
                }
                Ok(Some(Event::Ready { seconds })) if self.signs.ready(&name) => {
                    let after = Duration::try_from_secs_f64(seconds).unwrap_or_default();
                    say::line(&Line::GuestReady { name: &name, after });
                }
                Ok(Some(Event::State { .. } | Event::Ready { .. })) => {}
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

    async fn stop(&self, step: Step, socket: &Path) {
        let verb = match step {
            Step::Ask => Verb::Shutdown,
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

/// What a stopping host does to a guest, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Ask it to power off.
    Ask,
    /// After [`SHUTDOWN_LIMIT`]: tell its VMM to end.
    End,
    /// After [`KILL_LIMIT`] more: kill whatever is in its cgroup. A VMM that its guest has taken over does as it likes.
    Force,
}

/// The steps, each in its time.
struct Stop {
    stopping: watch::Receiver<bool>,
    /// The last one, and when the next is due.
    last: Option<(Step, Instant)>,
}

impl Stop {
    fn new(stopping: watch::Receiver<bool>) -> Self {
        Self { stopping, last: None }
    }

    /// The next step, when it is time; cancel-safe.
    async fn next(&mut self) -> Step {
        let (step, then) = match self.last {
            None => {
                // The sender lives as long as the daemon; without it there is nothing to wait for.
                if self.stopping.wait_for(|stopping| *stopping).await.is_err() {
                    return std::future::pending().await;
                }
                (Step::Ask, SHUTDOWN_LIMIT)
            }
            Some((Step::Ask, due)) => {
                sleep_until(due).await;
                (Step::End, KILL_LIMIT)
            }
            Some((Step::End, due)) => {
                sleep_until(due).await;
                (Step::Force, KILL_LIMIT)
            }
            Some((Step::Force, _)) => return std::future::pending().await,
        };
        self.last = Some((step, Instant::now() + then));
        step
    }
}

async fn command(socket: &Path, verb: Verb) -> Result<()> {
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

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_does_not_stop_is_stopped() {
        let (tell, stopping) = watch::channel(false);
        let mut stop = Stop::new(stopping);
        assert!(timeout(SHUTDOWN_LIMIT, stop.next()).await.is_err(), "nobody stops");
        tell.send(true).unwrap();
        let began = Instant::now();
        for (step, after) in
            [(Step::Ask, Duration::ZERO), (Step::End, SHUTDOWN_LIMIT), (Step::Force, SHUTDOWN_LIMIT + KILL_LIMIT)]
        {
            // A select drops it at each event of the guest's.
            assert!(after.is_zero() || timeout(Duration::from_secs(1), stop.next()).await.is_err());
            assert_eq!(stop.next().await, step);
            assert!(
                (after..after + Duration::from_secs(1)).contains(&began.elapsed()),
                "{step:?}: {:?}",
                began.elapsed()
            );
        }
        assert!(timeout(SHUTDOWN_LIMIT, stop.next()).await.is_err(), "there is no more to be done");
    }

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
