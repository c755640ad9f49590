//! The connections of a guest: what each packet means for which of them, and what waits for the guest.
//!
//! Sockets are watched at their edges: a connection remembers that its socket may have something until a read says
//! otherwise, so that one whose data the guest does not take costs no wakes.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use vmm_sys_util::epoll::{EpollEvent, EventSet};

use super::connection::{Connection, Heard, Next};
use super::host::{Greeting, Host, LISTENER, Received, Stream};
use super::metrics::Metrics;
use super::packet::{HOST_CID, Header, Op, Ports, RECEIVE, SEND};
use crate::virtio::Progress;
use crate::virtio::buffers::Buffers;

/// Most connections, those of programs that have yet to say what they want among them. More are refused.
pub const CONNECTIONS_MAX: usize = 256;
/// Most resets that wait for the guest. While there are more, nothing is taken from it (virtio 1.2, section 5.10.6.1.2).
const RESETS_MAX: usize = 64;
/// Events that are looked at in one go.
const EVENTS: usize = 64;
/// The host's ports of the connections that its programs ask for begin here: low ones are for services.
const FIRST_PORT: u32 = 1 << 30;

/// A connection between guest and host.
#[derive(Debug)]
struct Link {
    ports: Ports,
    connection: Connection,
    stream: Stream,
    /// It stands in the line of those that have something for the guest.
    queued: bool,
}

impl Link {
    fn has_news(&self) -> bool {
        self.connection.next(self.stream.readable).is_some()
    }

    /// The program took `bytes`, or takes nothing any more.
    fn passed(&mut self, outcome: std::io::Result<usize>) {
        match outcome {
            Ok(bytes) => self.connection.pass(bytes as u32),
            Err(_) => {
                self.stream.forget();
                self.connection.pass(self.connection.backlog());
                self.connection.end_host(RECEIVE);
            }
        }
    }

    /// The next packet for the guest, its data in `payload`.
    fn fill(&mut self, cid: u32, payload: &Buffers<'_>) -> Option<Header> {
        loop {
            let (op, flags, length) = match self.connection.next(self.stream.readable)? {
                Next::Control(op, flags) => (op, flags, 0),
                Next::Data(most) => match self.stream.receive(&payload.first(most as usize)) {
                    Received::Bytes(count) => (Op::Data, 0, count as u32),
                    Received::Nothing => continue,
                    Received::End => {
                        self.connection.end_host(SEND);
                        continue;
                    }
                },
            };
            let mut header = Header { flags, length, ..Header::to_guest(cid, self.ports, op) };
            self.connection.stamp(op, &mut header);
            return Some(header);
        }
    }
}

/// A socket of the host and what it is for.
#[derive(Debug)]
enum Entry {
    /// A program that has yet to say what it wants.
    Greeting(Stream),
    /// A connection.
    Linked(Link),
    /// The guest is done with it, and the program has yet to take the rest.
    Draining(Stream),
}

/// All connections.
#[derive(Debug)]
pub struct Table {
    cid: u32,
    host: Host,
    metrics: Arc<Metrics>,
    entries: BTreeMap<u64, Entry>,
    ids: BTreeMap<Ports, u64>,
    next_id: u64,
    next_port: u32,
    /// Connections that have something for the guest, each once: they take turns.
    line: VecDeque<u64>,
    resets: VecDeque<Header>,
    /// Somebody may wait to be accepted.
    accepting: bool,
}

impl Table {
    /// No connections yet, of the guest `cid`.
    pub fn new(cid: u32, host: Host, metrics: Arc<Metrics>) -> Self {
        Self {
            cid,
            host,
            metrics,
            entries: BTreeMap::new(),
            ids: BTreeMap::new(),
            next_id: 0,
            next_port: FIRST_PORT,
            line: VecDeque::new(),
            resets: VecDeque::new(),
            accepting: true,
        }
    }

    /// Drops all connections. Programs that have connected and were not accepted yet wait on.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.ids.clear();
        self.line.clear();
        self.resets.clear();
        self.accepting = true;
        self.metrics.set_connections(0);
    }

    /// Readable when [`Self::poll`] has something to do.
    pub fn source(&self) -> BorrowedFd<'_> {
        self.host.source()
    }

    /// Looks at what happened on the host's side.
    pub fn poll(&mut self) -> Progress {
        let mut events = [EpollEvent::default(); EVENTS];
        let count = self.host.events(&mut events);
        for event in &events[..count] {
            match event.data() {
                LISTENER => self.accepting = true,
                id => self.stir(id, event.event_set()),
            }
        }
        for _ in 0..EVENTS {
            if !self.accepting {
                break;
            }
            match self.host.accept() {
                Some(stream) => self.admit(stream),
                None => self.accepting = false,
            }
        }
        if count == EVENTS || self.accepting { Progress::More } else { Progress::Done }
    }

    /// Takes up a socket as `entry` says; the number under which it is watched, if there is room for it.
    fn insert(&mut self, stream: Stream, entry: impl FnOnce(Stream) -> Entry) -> Option<u64> {
        let id = self.next_id;
        if self.entries.len() >= CONNECTIONS_MAX || self.host.watch_stream(&stream, id).is_err() {
            return None;
        }
        self.next_id += 1;
        self.entries.insert(id, entry(stream));
        Some(id)
    }

    fn admit(&mut self, stream: Stream) {
        // One too many is closed. An edge that came before the watch began is seen at its beginning.
        let _ = self.insert(stream, Entry::Greeting);
    }

    /// Something happened at socket `id`, which may be gone.
    fn stir(&mut self, id: u64, events: EventSet) {
        match self.entries.get_mut(&id) {
            Some(Entry::Greeting(stream)) => match stream.greeting() {
                Greeting::Incomplete => {}
                Greeting::Port(port) => self.ask_guest(id, port),
                Greeting::Wrong => drop(self.entries.remove(&id)),
            },
            Some(Entry::Linked(link)) => {
                link.stream.readable |= events != EventSet::OUT;
                if events.intersects(EventSet::HANG_UP | EventSet::ERROR) {
                    if !link.connection.is_open() {
                        // It has given up. An answer that still comes meets nobody.
                        return self.unlink(id, false);
                    }
                    link.connection.end_host(RECEIVE);
                }
                let outcome = link.stream.flush();
                link.passed(outcome);
                self.enqueue(id);
            }
            Some(Entry::Draining(stream)) => {
                let drained = stream.flush().is_err() || stream.backlog() == 0;
                drained.then(|| self.entries.remove(&id));
            }
            None => {}
        }
    }

    /// The program of entry `id` wants `port` of the guest.
    fn ask_guest(&mut self, id: u64, port: u32) {
        let Some(Entry::Greeting(mut stream)) = self.entries.remove(&id) else { return };
        // Behind the greeting there may be data.
        stream.readable = true;
        let mut ports = Ports { host: self.next_port, guest: port };
        while self.ids.contains_key(&ports) {
            ports.host = port_after(ports.host);
        }
        self.next_port = port_after(ports.host);
        let link = Link { ports, connection: Connection::to_guest(), stream, queued: false };
        self.entries.insert(id, Entry::Linked(link));
        self.link(ports, id);
    }

    /// The guest asks for a connection.
    fn ask_host(&mut self, header: &Header) {
        let ports = header.ports();
        let link =
            |stream| Entry::Linked(Link { ports, connection: Connection::from_guest(header), stream, queued: false });
        match self.host.connect(ports.host).ok().and_then(|stream| self.insert(stream, link)) {
            Some(id) => self.link(ports, id),
            None => self.reset(header),
        }
    }

    fn link(&mut self, ports: Ports, id: u64) {
        self.ids.insert(ports, id);
        self.metrics.set_connections(self.ids.len());
        self.enqueue(id);
    }

    /// Ends a connection; `drains` says whether the program is to get what it has not taken yet.
    fn unlink(&mut self, id: u64, drains: bool) {
        let Some(Entry::Linked(mut link)) = self.entries.remove(&id) else { return };
        self.ids.remove(&link.ports);
        self.metrics.set_connections(self.ids.len());
        if drains && link.stream.finish().is_ok() && link.stream.backlog() > 0 {
            self.entries.insert(id, Entry::Draining(link.stream));
        }
    }

    fn reset(&mut self, header: &Header) {
        let reset = Header { src_cid: header.dst_cid, ..Header::to_guest(self.cid, header.ports(), Op::Reset) };
        self.resets.push_back(reset);
    }

    /// Whether the guest must take some packets before it may send more.
    pub fn is_backed_up(&self) -> bool {
        self.resets.len() >= RESETS_MAX
    }

    /// The guest has sent a packet, with `data` behind its header. At most one reset comes of it.
    pub fn hear(&mut self, header: &Header, data: Buffers<'_>) {
        if header.src_cid != u64::from(self.cid) {
            // Nobody would get an answer.
            return;
        }
        let id = self.ids.get(&header.ports()).copied();
        match (id, header.op()) {
            (Some(id), op) if header.dst_cid == HOST_CID => self.hear_linked(id, op, header, data),
            (None, Some(Op::Request)) if header.dst_cid == HOST_CID => self.ask_host(header),
            (_, Some(Op::Reset)) => {}
            _ => self.reset(header),
        }
    }

    fn hear_linked(&mut self, id: u64, op: Option<Op>, header: &Header, data: Buffers<'_>) {
        let Some(Entry::Linked(link)) = self.entries.get_mut(&id) else { return };
        match op.map_or(Heard::Broken, |op| link.connection.hear(op, header)) {
            Heard::Nothing => {}
            Heard::Accepted => {
                if link.stream.accept(link.ports.host).is_err() {
                    link.connection.end_host(RECEIVE);
                }
            }
            Heard::Data => {
                self.metrics.count_sent(data.len());
                let outcome = link.stream.send(data);
                link.passed(outcome);
            }
            Heard::HalfClosed => {
                if link.connection.guest_receives_no_more() {
                    link.stream.stop_reading();
                }
                if link.connection.guest_sends_no_more() {
                    let outcome = link.stream.finish();
                    link.passed(outcome);
                }
            }
            Heard::Finished => {
                self.unlink(id, true);
                self.reset(header);
            }
            Heard::Reset => {
                // A guest that closes a socket and has waited too long resets it: what it sent before still counts.
                let drains = link.connection.guest_sends_no_more();
                self.unlink(id, drains);
            }
            Heard::Broken => {
                self.unlink(id, false);
                self.reset(header);
            }
        }
        self.enqueue(id);
    }

    /// Lets a connection stand in line if it has something for the guest.
    fn enqueue(&mut self, id: u64) {
        if let Some(Entry::Linked(link)) = self.entries.get_mut(&id)
            && !link.queued
            && link.has_news()
        {
            link.queued = true;
            self.line.push_back(id);
        }
    }

    /// Whether something may wait for the guest.
    pub fn has_news(&self) -> bool {
        !self.resets.is_empty() || !self.line.is_empty()
    }

    /// The next packet for the guest, its data in `payload`; `None` if there is none after all.
    pub fn fill(&mut self, payload: &Buffers<'_>) -> Option<Header> {
        if let Some(reset) = self.resets.pop_front() {
            return Some(reset);
        }
        while let Some(id) = self.line.pop_front() {
            let Some(Entry::Linked(link)) = self.entries.get_mut(&id) else { continue };
            link.queued = false;
            let header = link.fill(self.cid, payload);
            self.enqueue(id);
            if let Some(header) = header {
                self.metrics.count_received(header.length as usize);
                return Some(header);
            }
        }
        None
    }
}

/// The port that is tried behind `port`.
fn port_after(port: u32) -> u32 {
    // VMADDR_PORT_ANY, the last one, is none (linux/vm_sockets.h).
    if port >= u32::MAX - 1 { FIRST_PORT } else { port + 1 }
}
