//! One connection to the control socket.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use thimble_spec::vmm::LINE_MAX;
use vmm_sys_util::epoll::EventSet;

use crate::console::Console;

/// Most bytes of replies and events that wait for a client. One that asks or watches and does not read is dropped.
const OUTBOX_MAX: usize = 256 * 1024;
/// Bytes that are moved at a time.
const CHUNK: usize = 16 * 1024;

/// What a connection is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Requests and replies.
    Requests,
    /// Events, until it closes.
    Watch,
    /// The guest's console; the reader is at this position of its output.
    Console(u64),
}

/// What came of reading from a client.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// Nothing that is complete.
    Nothing,
    /// A line, without its end.
    Line(Vec<u8>),
    /// More than a line may have.
    TooLong,
}

/// A connection.
#[derive(Debug)]
pub struct Client {
    /// The socket, which does not block.
    pub stream: UnixStream,
    /// What it is used for.
    pub mode: Mode,
    /// What it was last watched for.
    pub interest: EventSet,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    /// It will not send more.
    ended: bool,
    /// It is dropped once its outbox is empty.
    closing: bool,
    /// It is to be dropped now.
    broken: bool,
}

impl Client {
    /// A connection that was accepted just now.
    pub fn new(stream: UnixStream, mode: Mode) -> Self {
        Self {
            stream,
            mode,
            interest: EventSet::IN,
            inbox: Vec::new(),
            outbox: Vec::new(),
            ended: false,
            closing: false,
            broken: false,
        }
    }

    /// Whether it has to go.
    pub fn is_done(&self) -> bool {
        self.broken || (self.closing && self.outbox.is_empty())
    }

    /// Whether everything that it is to get has been sent.
    pub fn is_flushed(&self, console: &Console) -> bool {
        let console_read = match self.mode {
            Mode::Console(position) => console.is_at_end(position),
            _ => true,
        };
        self.is_done() || (self.outbox.is_empty() && console_read)
    }

    /// Reads what has come, at most `most` bytes of it.
    pub fn receive(&mut self, most: usize) {
        let mut chunk = [0; CHUNK];
        let most = most.min(CHUNK);
        if most == 0 || self.ended || self.closing {
            return;
        }
        match self.stream.read(&mut chunk[..most]) {
            Ok(0) => {
                self.ended = true;
                self.closing |= self.mode == Mode::Requests;
            }
            // What a watcher says means nothing.
            Ok(_) if self.mode == Mode::Watch => {}
            Ok(count) => self.inbox.extend_from_slice(&chunk[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.broken = true,
        }
    }

    /// The next line that it sent.
    pub fn next_line(&mut self) -> Input {
        match self.inbox.iter().position(|byte| *byte == b'\n') {
            Some(end) if end < LINE_MAX => {
                let rest = self.inbox.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.inbox, rest);
                line.pop();
                Input::Line(line)
            }
            None if self.inbox.len() < LINE_MAX => Input::Nothing,
            _ => Input::TooLong,
        }
    }

    /// Everything that it sent and that is no line: the guest's input.
    pub fn take_input(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.inbox)
    }

    /// Puts bytes into its outbox.
    pub fn queue(&mut self, bytes: &[u8]) {
        if self.outbox.len() + bytes.len() > OUTBOX_MAX {
            self.broken = true;
        } else {
            self.outbox.extend_from_slice(bytes);
        }
    }

    /// Sends what waits, and then nothing more.
    pub fn close(&mut self) {
        self.closing = true;
    }

    /// Drops it: its other end is gone.
    pub fn hang_up(&mut self) {
        self.broken = true;
    }

    /// Sends what it takes without waiting, and says what to watch it for; `room` is how much the guest's console
    /// would take from it.
    pub fn send(&mut self, console: &Console, room: usize) -> EventSet {
        let blocked = !self.send_outbox() || !self.send_console(console);
        let reads = match self.mode {
            _ if self.ended || self.closing => false,
            Mode::Console(_) => room > 0,
            _ => true,
        };
        let mut interest = EventSet::empty();
        interest.set(EventSet::IN, reads);
        interest.set(EventSet::OUT, blocked);
        interest
    }

    /// False if the client must read first.
    fn send_outbox(&mut self) -> bool {
        while !self.outbox.is_empty() && !self.broken {
            match self.stream.write(&self.outbox) {
                Ok(count) => drop(self.outbox.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.broken = true,
            }
        }
        true
    }

    fn send_console(&mut self, console: &Console) -> bool {
        let mut chunk = [0; CHUNK];
        while let Mode::Console(position) = self.mode
            && !self.broken
            && !console.arm(position)
        {
            let (end, count) = console.read(position, &mut chunk);
            match self.stream.write(&chunk[..count]) {
                Ok(sent) => self.mode = Mode::Console(end - (count - sent) as u64),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.broken = true,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serial::Sink;

    fn pair() -> (Client, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Client::new(ours, Mode::Requests), theirs)
    }

    #[test]
    fn lines_are_taken_one_by_one() {
        let (mut client, mut peer) = pair();
        peer.write_all(b"one\ntwo\nthr").unwrap();
        client.receive(CHUNK);
        assert_eq!(client.next_line(), Input::Line(b"one".to_vec()));
        assert_eq!(client.next_line(), Input::Line(b"two".to_vec()));
        assert_eq!(client.next_line(), Input::Nothing);
        assert_eq!(client.take_input(), b"thr");
    }

    #[test]
    fn a_line_has_a_longest_length() {
        for (length, outcome) in [(LINE_MAX - 1, true), (LINE_MAX, false)] {
            let (mut client, mut peer) = pair();
            let writer = std::thread::spawn(move || {
                peer.write_all(&vec![b'x'; length]).unwrap();
                peer.write_all(b"\n").unwrap();
                peer
            });
            while client.inbox.len() <= length && !writer.is_finished() || client.inbox.len() <= length {
                client.receive(CHUNK);
            }
            assert_eq!(matches!(client.next_line(), Input::Line(_)), outcome, "{length}");
            let _peer = writer.join().unwrap();
        }
        let (mut client, _peer) = pair();
        client.inbox = vec![b'x'; LINE_MAX];
        assert_eq!(client.next_line(), Input::TooLong);
    }

    #[test]
    fn a_client_that_does_not_read_is_dropped() {
        let (mut client, _peer) = pair();
        let console = Console::new().unwrap();
        for _ in 0..100_000 {
            client.queue(&[b'x'; 100]);
            client.send(&console, 0);
        }
        assert!(client.is_done());
        assert!(client.outbox.len() <= OUTBOX_MAX);
    }

    #[test]
    fn a_console_client_gets_the_ring_and_the_rest() {
        let (mut client, mut peer) = pair();
        let console = Console::new().unwrap();
        b"before ".iter().for_each(|byte| console.put(*byte));
        client.mode = Mode::Console(0);
        assert_eq!(client.send(&console, 1), EventSet::IN);
        b"after".iter().for_each(|byte| console.put(*byte));
        assert_eq!(client.send(&console, 0), EventSet::empty());
        assert!(client.is_flushed(&console));
        let mut bytes = [0; 12];
        peer.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"before after");
    }

    #[test]
    fn half_a_connection_ends_requests_and_not_a_console() {
        for (mode, done) in [(Mode::Requests, true), (Mode::Watch, false), (Mode::Console(0), false)] {
            let (mut client, peer) = pair();
            client.mode = mode;
            peer.shutdown(std::net::Shutdown::Write).unwrap();
            client.receive(CHUNK);
            assert_eq!(client.is_done(), done, "{mode:?}");
        }
    }
}
