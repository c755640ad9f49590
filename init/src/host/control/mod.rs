//! PID 1's control socket (see [`thimble_spec::host`]): connections, lines, and never a wait.
//!
//! A client is read only while nothing is left to be written to it, and what it may leave unread or unfinished is one line:
//! neither one that floods nor one that does not read takes more than that. The verbs are in the files beside this one.

mod firewall;
mod logs;
mod network;
mod power;
mod services;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use thimble_spec::host::{Answer, CLIENTS_MAX, LINE_MAX, Outcome, Reply, Request, VERSION, Verb};
use thimble_spec::json::Json;

use super::Host;
use crate::clock::since_boot;
use crate::error::{Doing, Result};

/// What came of a verb.
pub type Done = std::result::Result<Answer, String>;

/// The socket and who is connected.
pub struct Control {
    listener: UnixListener,
    clients: Vec<Client>,
}

/// One connection.
struct Client {
    stream: UnixStream,
    /// What came and is not answered.
    input: Vec<u8>,
    /// What is not written yet.
    output: Vec<u8>,
    /// When it last asked.
    heard: Duration,
    /// It is told nothing more than what is in `output`.
    closing: bool,
}

impl Control {
    /// Listens at `path`.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn listen(path: &Path) -> Result<Self> {
        let _ = fs::remove_file(path);
        let doing = || format!("listen at {}", path.display());
        let listener = UnixListener::bind(path).doing(doing)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).doing(doing)?;
        listener.set_nonblocking(true).doing(doing)?;
        Ok(Self { listener, clients: Vec::new() })
    }

    /// What to wait for until it can be read.
    pub fn readers(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let clients = self.clients.iter().filter(|client| client.output.is_empty()).map(|client| client.stream.as_fd());
        [self.listener.as_fd()].into_iter().chain(clients)
    }

    /// What to wait for until it can be written.
    pub fn writers(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.clients.iter().filter(|client| !client.output.is_empty()).map(|client| client.stream.as_fd())
    }

    /// Takes what came and has `obey` carry it out.
    pub fn exchange(&mut self, now: Duration, mut obey: impl FnMut(Verb) -> Done) {
        self.accept(now);
        self.clients.retain_mut(|client| client.exchange(now, &mut obey));
    }

    fn accept(&mut self, now: Duration) {
        // No more than can be held: who floods the queue is met again in the next turn.
        for _ in 0..CLIENTS_MAX {
            let Ok((stream, _)) = self.listener.accept() else { return };
            if !is_root(&stream) || stream.set_nonblocking(true).is_err() {
                continue;
            }
            if self.clients.len() >= CLIENTS_MAX
                && let Some((quietest, _)) = self.clients.iter().enumerate().min_by_key(|(_, client)| client.heard)
            {
                self.clients.remove(quietest);
            }
            let (input, output) = (Vec::new(), Vec::new());
            self.clients.push(Client { stream, input, output, heard: now, closing: false });
        }
    }
}

/// Whether the other end is root's (unix(7), `SO_PEERCRED`): the mode of the socket says so already, and a descriptor may
/// have been passed on.
fn is_root(stream: &UnixStream) -> bool {
    getsockopt(stream, PeerCredentials).is_ok_and(|peer| peer.uid() == 0)
}

impl Client {
    /// Reads, obeys and answers; says whether the connection goes on.
    fn exchange(&mut self, now: Duration, obey: &mut impl FnMut(Verb) -> Done) -> bool {
        let mut ended = false;
        if self.output.is_empty() {
            // One buffer a turn: the others come in between.
            let mut buffer = [0; 16 << 10];
            match self.stream.read(&mut buffer) {
                Ok(0) => ended = true,
                Ok(count) => self.input.extend_from_slice(&buffer[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(_) => return false,
            }
        }
        loop {
            if !self.flush() {
                return false;
            }
            if !self.output.is_empty() {
                return !ended;
            }
            if self.closing {
                return false;
            }
            let Some(line) = self.line() else { return !ended };
            self.heard = now;
            let outcome = match line.and_then(|line| read(&line)) {
                Ok(verb) => obey(verb).map_or_else(Outcome::Error, Outcome::Ok),
                Err(sentence) => {
                    self.closing = true;
                    Outcome::Error(sentence)
                }
            };
            self.output = written(outcome);
        }
    }

    /// The next line that is whole; an error for one that is too long.
    fn line(&mut self) -> Option<std::result::Result<Vec<u8>, String>> {
        match self.input.iter().position(|byte| *byte == b'\n') {
            Some(end) if end < LINE_MAX => {
                let rest = self.input.split_off(end + 1);
                Some(Ok(std::mem::replace(&mut self.input, rest)))
            }
            None if self.input.len() < LINE_MAX => None,
            _ => Some(Err(format!("a line is longer than {LINE_MAX} bytes"))),
        }
    }

    /// Writes what can be written; says whether the other end is there.
    fn flush(&mut self) -> bool {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => return false,
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }
}

/// The verb in a line.
fn read(line: &[u8]) -> std::result::Result<Verb, String> {
    let request = Request::from_json(line).map_err(|error| format!("this is no request: {error}"))?;
    if request.v != VERSION {
        return Err(format!("version {} of the protocol is not known here, only {VERSION}", request.v));
    }
    Ok(request.verb)
}

/// The reply as a line.
fn written(outcome: Outcome) -> Vec<u8> {
    let line = |outcome| Reply { v: VERSION, outcome }.to_json();
    let too_long = || Outcome::Error(format!("the answer is longer than {LINE_MAX} bytes"));
    let mut line = match line(outcome) {
        Ok(text) if text.len() < LINE_MAX => text,
        // A sentence has nothing in it that JSON could not say.
        _ => line(too_long()).unwrap_or_default(),
    };
    line.push(b'\n');
    line
}

impl Host<'_> {
    /// Serves those who are connected.
    pub fn serve(&mut self) {
        let Some(mut control) = self.control.take() else { return };
        control.exchange(since_boot(), |verb| self.obey(verb));
        self.control = Some(control);
    }

    /// Carries out one verb: one line a concern.
    fn obey(&mut self, verb: Verb) -> Done {
        match verb {
            Verb::Services(verb) => self.obey_services(&verb),
            Verb::Firewall(verb) => self.obey_firewall(verb),
            Verb::Network(verb) => self.obey_network(verb),
            Verb::Logs(asked) => self.obey_logs(&asked),
            Verb::Heartbeat => {
                if let Some(watchdog) = &mut self.watchdog {
                    watchdog.heard(since_boot());
                }
                Ok(Answer::Done)
            }
            Verb::Power(power) => self.obey_power(power),
        }
    }
}

#[cfg(test)]
mod tests;
