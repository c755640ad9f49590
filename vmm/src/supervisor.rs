//! The main thread: an event loop between the guest and whoever looks after it.

use std::collections::BTreeMap;
use std::io::PipeWriter;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use thimble_spec::vmm::{Answer, Event, Exit, ExitReason, Outcome, Verb};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use crate::Given;
use crate::control::client::{Client, Input, Mode};
use crate::control::request;
use crate::control::socket::Socket;
use crate::error::{Error, Result};
use crate::exit::Ending;
use crate::guest::Guest;
use crate::kvm::Machine;
use crate::phases;

/// Most connections to the control socket.
const CLIENTS_MAX: usize = 32;
/// How long clients have to take the last words.
const FAREWELL: Duration = Duration::from_secs(1);
/// Bytes of guest input or requests that are read from a client at a time.
const READ_MOST: usize = 16 * 1024;

/// What the event loop watches; clients have the numbers from [`FIRST_CLIENT`] on.
mod token {
    pub const SIGNAL: u64 = 0;
    pub const ENDING: u64 = 1;
    pub const CONSOLE: u64 = 2;
    pub const AGENT: u64 = 3;
    pub const SOCKET: u64 = 4;
    pub const MINDER: u64 = 5;
    pub const FIRST_CLIENT: u64 = 16;
}

/// The signals that mean something to a VMM.
fn signals() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect()
}

/// Leaves [`signals`] to the event loop. To be called before there are threads, which inherit it.
///
/// # Errors
/// The host refuses.
pub fn take_signals() -> Result<SignalFd> {
    signals().thread_block().map_err(Error::host("block signals"))?;
    SignalFd::with_flags(&signals(), SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .map_err(Error::host("watch for signals"))
}

/// The event loop's state.
pub struct Supervisor {
    guest: Guest,
    ending: Arc<Ending>,
    signals: SignalFd,
    socket: Option<Socket>,
    minder: Option<PipeWriter>,
    clients: BTreeMap<u64, Client>,
    next_client: u64,
    epoll: Epoll,
}

impl Supervisor {
    /// Looks after `guest`.
    ///
    /// # Errors
    /// The host gives no descriptors.
    pub fn new(guest: Guest, ending: Arc<Ending>, signals: SignalFd, given: Given) -> Result<Self> {
        let epoll = Epoll::new().map_err(Error::host("make an epoll instance"))?;
        let clients = BTreeMap::new();
        let Given { control: socket, console, minder, .. } = given;
        let next_client = token::FIRST_CLIENT;
        let mut this = Self { guest, ending, signals, socket, minder, clients, next_client, epoll };
        let mut watched = vec![
            (this.signals.as_raw_fd(), token::SIGNAL, EventSet::IN),
            (this.ending.event().as_raw_fd(), token::ENDING, EventSet::IN),
            (this.guest.console().event().as_raw_fd(), token::CONSOLE, EventSet::IN),
            (this.guest.agent().said().as_raw_fd(), token::AGENT, EventSet::IN),
        ];
        let socket = this.socket.as_ref().map(|socket| socket.listener().as_raw_fd());
        watched.extend(socket.map(|fd| (fd, token::SOCKET, EventSet::IN)));
        // An error is always told (epoll_ctl(2)): a pipe without a reader is one.
        let minder = this.minder.as_ref().map(|pipe| pipe.as_raw_fd());
        watched.extend(minder.map(|fd| (fd, token::MINDER, EventSet::empty())));
        for (fd, token, events) in watched {
            this.watch(ControlOperation::Add, fd, events, token).map_err(Error::host("watch for events"))?;
        }
        if let Some(stream) = console {
            this.add_client(stream, Mode::Console(0));
        }
        Ok(this)
    }

    fn watch(&self, operation: ControlOperation, fd: RawFd, events: EventSet, token: u64) -> std::io::Result<()> {
        self.epoll.ctl(operation, fd, EpollEvent::new(events, token))
    }

    /// Serves until the guest ends. The guest is gone when this returns, and so is the control socket; what KVM keeps of
    /// it is left to the caller.
    pub fn run(mut self, started: Instant) -> (Exit, Machine) {
        let mut events = [EpollEvent::default(); 32];
        while self.ending.reason().is_none() {
            match self.epoll.wait(-1, &mut events) {
                Ok(count) => events[..count].iter().for_each(|event| self.handle(event.data(), event.event_set())),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => self.ending.end(ExitReason::Error(format!("cannot wait for events: {error}"))),
            }
        }
        let reason = self.ending.reason().cloned().unwrap_or(ExitReason::Lost);
        let exit = Exit { reason, after_s: started.elapsed().as_secs_f64(), phases: phases::reached() };
        // Held still, so that the console's end is its end.
        self.guest.pause();
        self.broadcast(&Event::Exited { exit: exit.clone() });
        self.farewell();
        (exit, self.guest.end())
    }

    fn handle(&mut self, token: u64, events: EventSet) {
        match token {
            token::SIGNAL => self.take_signals(),
            token::ENDING => {}
            token::CONSOLE => {
                // Only the signal counts, not how often it was given.
                let _ = self.guest.console().event().read();
                self.send_all();
            }
            token::AGENT => {
                let heard = self.guest.agent().take();
                if heard.ready
                    && let Some(seconds) = self.guest.mark_ready()
                {
                    self.broadcast(&Event::Ready { seconds });
                }
                if let Some(done) = heard.frozen.and_then(|(number, done)| self.guest.answers(number, done)) {
                    self.broadcast(&Event::Frozen { done });
                }
                if let Some(inside) = heard.seen.and_then(|(number, inside)| self.guest.seen(number, inside)) {
                    self.broadcast(&Event::Seen { inside });
                }
            }
            token::SOCKET => self.accept(),
            token::MINDER => {
                self.ending.end(ExitReason::Error("the VMM's minder is gone, and the guest goes with it".to_owned()));
            }
            id => self.serve(id, events),
        }
    }

    fn take_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_signo == Signal::SIGTERM as u32 && !self.guest.is_asked() {
                self.ask_shutdown();
            } else {
                self.guest.kill();
            }
        }
    }

    fn ask_shutdown(&mut self) {
        self.guest.shutdown();
        self.broadcast_state();
    }

    fn accept(&mut self) {
        while let Some(stream) = self.socket.as_ref().and_then(Socket::accept) {
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            if self.clients.len() >= CLIENTS_MAX {
                let refusal = Outcome::Error(format!("{CLIENTS_MAX} clients are connected already: close some"));
                // A fresh socket takes a line; if not, closing it says enough.
                let _ = std::io::Write::write(&mut &stream, &request::reply(refusal));
                continue;
            }
            self.add_client(stream, Mode::Requests);
        }
    }

    fn add_client(&mut self, stream: UnixStream, mode: Mode) {
        let id = self.next_client;
        self.next_client += 1;
        let client = Client::new(stream, mode);
        if self.watch(ControlOperation::Add, client.stream.as_raw_fd(), client.interest, id).is_ok() {
            self.clients.insert(id, client);
            self.send(id);
        }
    }

    fn serve(&mut self, id: u64, events: EventSet) {
        let room = self.guest.input_room();
        let Some(client) = self.clients.get_mut(&id) else { return };
        if events.contains(EventSet::IN) {
            client.receive(if matches!(client.mode, Mode::Console(_)) { room } else { READ_MOST });
        } else if events.intersects(EventSet::HANG_UP | EventSet::ERROR) {
            client.hang_up();
        }
        self.take_lines(id);
        self.pass_input(id);
        self.send(id);
    }

    fn take_lines(&mut self, id: u64) {
        while let Some(client) = self.clients.get_mut(&id)
            && client.mode == Mode::Requests
            && !client.is_done()
        {
            let asked = match client.next_line() {
                Input::Nothing => return,
                Input::Line(line) => request::parse(&line),
                Input::TooLong => Err("the line is too long".to_owned()),
            };
            match asked {
                Ok(verb) => self.carry_out(id, verb),
                Err(sentence) => {
                    client.queue(&request::reply(Outcome::Error(sentence)));
                    client.close();
                    return;
                }
            }
        }
    }

    fn carry_out(&mut self, id: u64, verb: Verb) {
        let before = self.guest.state();
        let answer = self.ask_guest(verb);
        let refused = answer.is_err();
        let state = self.guest.state();
        let ready = self.guest.ready_s().map(|seconds| Event::Ready { seconds });
        if let Some(client) = self.clients.get_mut(&id) {
            client.queue(&request::reply(answer.map_or_else(Outcome::Error, Outcome::Ok)));
            match verb {
                _ if refused => {}
                Verb::Watch => {
                    client.mode = Mode::Watch;
                    client.queue(&request::line(&Event::State { state }));
                    client.queue(&ready.map(|event| request::line(&event)).unwrap_or_default());
                }
                Verb::Console => client.mode = Mode::Console(0),
                _ => {}
            }
        }
        if state != before {
            self.broadcast_state();
        }
    }

    /// Does what `verb` asks of the guest; one sentence says why it cannot be done.
    fn ask_guest(&mut self, verb: Verb) -> std::result::Result<Answer, String> {
        match verb {
            Verb::Status => return Ok(Answer::Status(self.guest.status())),
            Verb::Stats => return Ok(Answer::Stats(self.guest.stats())),
            Verb::Shutdown => self.guest.shutdown(),
            Verb::PowerButton => self.guest.press_power_button()?,
            Verb::Reset => self.guest.reset(),
            Verb::Kill => self.guest.kill(),
            Verb::Pause => self.guest.pause(),
            Verb::Resume => self.guest.resume(),
            Verb::Freeze => self.guest.freeze()?,
            Verb::Thaw => self.guest.thaw(),
            Verb::Look => self.guest.look()?,
            Verb::Balloon { target_mib } => self.guest.set_balloon(target_mib)?,
            Verb::ResizeDisk { disk, bytes } => self.guest.resize_disk(disk, bytes)?,
            Verb::LimitDisk { disk, limits } => self.guest.limit_disk(disk, limits)?,
            Verb::LimitNet { net, receive, transmit } => self.guest.limit_net(net, receive, transmit)?,
            Verb::Watch | Verb::Console => {}
        }
        Ok(Answer::Done)
    }

    /// What a console client typed goes to the guest. Nothing is lost: no more is read from it than there is room for;
    /// what came with its request fits a queue that is empty, and is cut where it does not.
    fn pass_input(&mut self, id: u64) {
        if let Some(client) = self.clients.get_mut(&id)
            && matches!(client.mode, Mode::Console(_))
        {
            let input = client.take_input();
            self.guest.type_in(&input);
        }
    }

    fn broadcast_state(&mut self) {
        self.broadcast(&Event::State { state: self.guest.state() });
    }

    fn broadcast(&mut self, event: &Event) {
        let line = request::line(event);
        for client in self.clients.values_mut().filter(|client| client.mode == Mode::Watch) {
            client.queue(&line);
        }
        self.send_all();
    }

    fn send_all(&mut self) {
        let ids: Vec<u64> = self.clients.keys().copied().collect();
        ids.into_iter().for_each(|id| self.send(id));
    }

    /// Sends to a client what it takes, and drops it if it is done.
    fn send(&mut self, id: u64) {
        let room = self.guest.input_room();
        let Some(client) = self.clients.get_mut(&id) else { return };
        let interest = client.send(self.guest.console(), room);
        let fd = client.stream.as_raw_fd();
        let changed = interest != client.interest;
        client.interest = interest;
        if client.is_done() || (changed && self.watch(ControlOperation::Modify, fd, interest, id).is_err()) {
            // Closing the socket takes it out of the epoll set.
            self.clients.remove(&id);
        }
    }

    /// Gives the clients a moment to take what is left for them.
    fn farewell(&mut self) {
        let deadline = Instant::now() + FAREWELL;
        let mut events = [EpollEvent::default(); 32];
        self.send_all();
        while !self.clients.values().all(|client| client.is_flushed(self.guest.console())) {
            let left = deadline.saturating_duration_since(Instant::now()).as_millis() as i32;
            if left == 0 {
                return;
            }
            let Ok(count) = self.epoll.wait(left, &mut events) else { return };
            for event in &events[..count] {
                match event.data() {
                    id @ token::FIRST_CLIENT.. if event.event_set().contains(EventSet::OUT) => self.send(id),
                    id @ token::FIRST_CLIENT.. => drop(self.clients.remove(&id)),
                    // Nobody else is heard any more.
                    _ => self.forget(event.data()),
                }
            }
        }
    }

    fn forget(&self, token: u64) {
        let fd = match token {
            token::SIGNAL => self.signals.as_raw_fd(),
            token::ENDING => self.ending.event().as_raw_fd(),
            token::CONSOLE => self.guest.console().event().as_raw_fd(),
            token::AGENT => self.guest.agent().said().as_raw_fd(),
            token::MINDER => self.minder.as_ref().map_or(-1, |pipe| pipe.as_raw_fd()),
            _ => self.socket.as_ref().map_or(-1, |socket| socket.listener().as_raw_fd()),
        };
        // Not watched any more is as good as forgotten.
        let _ = self.watch(ControlOperation::Delete, fd, EventSet::empty(), token);
    }
}
