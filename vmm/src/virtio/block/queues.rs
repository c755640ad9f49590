//! A lane: takes requests off its queue, begins their operations, and answers each when it is done.
//!
//! ```text
//!   ring ── pop ──> request ── limits ──> engine ──> done at once ─────> status, used ring
//!                                │           └─────> on its way ── reap ──────^
//!                                └── not yet: back into the ring until the timer fires, or a buffer is free
//! ```

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use vm_memory::GuestMemoryMmap;

use super::bounce::Bounce;
use super::disk::{Direct, Disk};
use super::engine::sync::Sync;
use super::engine::{Begun, Engine};
use super::full::{Full, is_want_of_room};
use super::geometry::Alignment;
use super::request::{self, ID_BYTES, Kind, Operation, Request, Status};
use super::{config, metrics::Metrics};
use crate::jail::seccomp::Duty;
use crate::virtio::buffers::{Buffers, Pinned};
use crate::virtio::limit::Limiter;
use crate::virtio::ring::{Chain, Ring, RingError};
use crate::virtio::{Lane, Progress, Service, Wake};

/// Place of the limits' timer among the sources.
const TIMER: usize = 0;
/// Place of the timer of those that wait for room.
const ROOM: usize = 1;

/// A request that was begun.
#[derive(Debug)]
struct Begin {
    operation: Operation,
    /// The guest's buffers.
    buffers: Pinned,
    /// The buffer that stands in for them, a piece at a time.
    stand_in: Option<Pinned>,
    /// Bytes of the pieces that are done.
    done: u64,
    /// It goes through the page cache although the disk is used around it.
    cached: bool,
    status: Pinned,
}

impl Begin {
    /// The next piece.
    fn piece(&self) -> Operation {
        let Operation { kind, offset, length } = self.operation;
        match &self.stand_in {
            Some(buffer) => {
                let length = (length - self.done).min(buffer.room() as u64);
                Operation { kind, offset: offset + self.done, length }
            }
            None => self.operation,
        }
    }

    /// Makes the next piece ready: what it is, and where its bytes are.
    fn prepare(&mut self) -> (Operation, &Pinned) {
        let piece = self.piece();
        let Some(buffer) = &mut self.stand_in else { return (piece, &self.buffers) };
        let bytes = buffer.own(piece.length as usize);
        if piece.kind == Kind::Write {
            self.buffers.get(self.done as usize, bytes);
        }
        (piece, buffer)
    }

    /// The piece is done: the result of all of them, or nothing if there are more.
    fn complete(&mut self, result: io::Result<u64>) -> Option<io::Result<u64>> {
        let piece = self.piece();
        let (Some(buffer), Ok(moved)) = (&self.stand_in, &result) else { return Some(result) };
        if piece.kind == Kind::Read {
            let bytes = buffer.bytes();
            self.buffers.put(self.done as usize, &bytes[..bytes.len().min(*moved as usize)]);
        }
        self.done += moved;
        let last = *moved < piece.length || self.done == self.operation.length;
        last.then_some(Ok(self.done))
    }
}

/// How a request reaches the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// With the guest's own buffers.
    Straight,
    /// Around the page cache with a buffer of ours, for the guest's are not aligned.
    StandIn,
    /// Through the page cache although the disk is used around it, for these are no whole blocks.
    Cached,
}

/// A request queue's lane.
pub struct Requests {
    name: String,
    queue: usize,
    id: [u8; ID_BYTES],
    disk: Arc<Disk>,
    engine: Box<dyn Engine>,
    limiter: Limiter,
    /// Without F_FLUSH the driver cannot ask for durability, and gets it with each write and erasure (section 5.2.6.2).
    write_through: bool,
    bounce: Bounce,
    /// For what cannot go around the page cache.
    cached: Option<Sync>,
    /// Held while operations are on their way: they point into it.
    memory: Option<GuestMemoryMmap>,
    on_their_way: HashMap<u16, Begin>,
    /// Wait for room on the host.
    full: Full<Begin>,
}

impl Requests {
    /// The lane of `queue` of the disk at `position`, which has this serial number or none of its own.
    ///
    /// # Errors
    /// The host gives no timer, or no descriptor.
    pub fn new(
        position: usize,
        serial: Option<&str>,
        queue: usize,
        queues: u16,
        disk: Arc<Disk>,
        engine: Box<dyn Engine>,
    ) -> io::Result<Self> {
        let cached = disk.direct.as_ref().map(|direct| direct.cached.try_clone().map(Sync::new)).transpose()?;
        let mut id = [0; ID_BYTES];
        let text = format!("disk{position}");
        for (to, from) in id.iter_mut().zip(serial.unwrap_or(&text).bytes()) {
            *to = from;
        }
        Ok(Self {
            name: if queues == 1 { text } else { format!("disk{position}.{queue}") },
            queue,
            id,
            limiter: Limiter::new(disk.limits.clone())?,
            disk,
            engine,
            write_through: false,
            bounce: Bounce::new(queues),
            cached,
            memory: None,
            on_their_way: HashMap::new(),
            full: Full::new()?,
        })
    }

    /// Takes what is in the ring.
    fn serve(&mut self, ring: &mut Ring, memory: &GuestMemoryMmap) -> Service {
        if self.limiter.is_waiting() {
            return Ok(Progress::Done);
        }
        ring.spare_kicks(memory)?;
        for _ in 0..ring.size() {
            let Some(mut chain) = ring.pop(memory)? else {
                if ring.want_kicks(memory)? {
                    ring.spare_kicks(memory)?;
                    continue;
                }
                return Ok(Progress::Done);
            };
            if self.on_their_way.contains_key(&chain.head) || self.full.has(chain.head) {
                return Err(RingError::Chain(chain.head));
            }
            let (request, status) = request::parse(&mut chain, self.disk.sectors(), self.disk.read_only)?;
            if let Request::Disk(operation) = &request
                && self.way(operation, &chain) == Way::StandIn
                && !self.bounce.has_room(operation.length)
            {
                ring.unpop(1);
                return Ok(Progress::Done);
            }
            if let Request::Disk(operation) = &request
                && !self.limiter.take(bytes_moved(operation))
            {
                self.disk.metrics.throttled();
                ring.unpop(1);
                return Ok(Progress::Done);
            }
            self.begin(request, &chain, &status, ring, memory)?;
        }
        Ok(Progress::More)
    }

    fn begin(
        &mut self,
        request: Request,
        chain: &Chain<'_>,
        status: &Buffers<'_>,
        ring: &mut Ring,
        memory: &GuestMemoryMmap,
    ) -> Result<(), RingError> {
        let operation = match request {
            Request::Disk(operation) => operation,
            Request::Id => {
                let written = chain.writable.fill(&self.id);
                status.fill(&[Status::Ok as u8]);
                return ring.push(memory, chain.head, written as u32 + 1);
            }
            Request::Refused(refusal) => {
                self.disk.metrics.failed();
                status.fill(&[refusal as u8]);
                return ring.push(memory, chain.head, 1);
            }
        };
        let way = self.way(&operation, chain);
        let stand_in = (way == Way::StandIn).then(|| self.bounce.take(operation.length));
        // SAFETY: the lane holds the memory until nothing is on its way.
        let (buffers, status) = unsafe { (place(&operation, chain).pin(), status.pin()) };
        let begin = Begin { operation, buffers, stand_in, done: 0, cached: way == Way::Cached, status };
        self.go_on(chain.head, begin, ring, memory)
    }

    /// How a request reaches the disk.
    fn way(&self, operation: &Operation, chain: &Chain<'_>) -> Way {
        let Some(Direct { alignment: Alignment { block, memory }, .. }) = self.disk.direct else {
            return Way::Straight;
        };
        let moves = matches!(operation.kind, Kind::Read | Kind::Write);
        if !(operation.offset | operation.length).is_multiple_of(block) {
            Way::Cached
        } else if moves && !place(operation, chain).is_aligned(memory as usize, block as usize) {
            Way::StandIn
        } else {
            Way::Straight
        }
    }

    /// Gives the engine the request's next piece, or answers it if that was the last.
    fn go_on(
        &mut self,
        head: u16,
        mut begin: Begin,
        ring: &mut Ring,
        memory: &GuestMemoryMmap,
    ) -> Result<(), RingError> {
        loop {
            let around = self.cached.as_ref().filter(|_| begin.cached);
            let (piece, place) = begin.prepare();
            let begun = match around {
                Some(cached) => Begun::Done(cached.carry_out(piece, place, self.write_through)),
                None => self.engine.begin(head, piece, place, self.write_through),
            };
            match begun {
                Begun::OnItsWay => {
                    self.on_their_way.insert(head, begin);
                    return Ok(());
                }
                Begun::Done(result) => {
                    let Some((returned, result)) = self.hold(head, begin, result) else { return Ok(()) };
                    begin = returned;
                    if let Some(result) = begin.complete(result) {
                        return self.finish(head, begin, result, ring, memory);
                    }
                }
            }
        }
    }

    /// Lets a request wait for which the host has no room; any other comes back with its result.
    fn hold(&mut self, head: u16, begin: Begin, result: io::Result<u64>) -> Option<(Begin, io::Result<u64>)> {
        if !is_want_of_room(begin.piece(), &result) {
            return Some((begin, result));
        }
        match self.full.hold(head, begin) {
            Ok(()) => {
                self.disk.metrics.waits();
                None
            }
            Err(begin) => Some((begin, result)),
        }
    }

    /// Tries again what waits for room.
    fn try_again(&mut self, ring: &mut Ring, memory: &GuestMemoryMmap) -> Result<(), RingError> {
        for (head, begin) in self.full.take() {
            self.disk.metrics.waits_no_more();
            self.go_on(head, begin, ring, memory)?;
        }
        Ok(())
    }

    /// Answers a request.
    fn finish(
        &mut self,
        head: u16,
        begin: Begin,
        result: io::Result<u64>,
        ring: &mut Ring,
        memory: &GuestMemoryMmap,
    ) -> Result<(), RingError> {
        let Operation { kind, length, .. } = begin.operation;
        let result = result.and_then(|moved| match kind {
            Kind::Read => {
                // Behind the end of an image that does not fill its last sector there are zeros.
                begin.buffers.clear_from(moved as usize);
                Ok(length)
            }
            Kind::Write if moved < length => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            _ => Ok(0),
        });
        count(&self.disk.metrics, kind, length, &result);
        let status = match &result {
            Ok(_) => Status::Ok,
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) => Status::Unsupported,
            Err(_) => Status::Error,
        };
        begin.status.put(0, &[status as u8]);
        if let Some(buffer) = begin.stand_in {
            self.bounce.give(buffer);
        }
        // The used length counts the status; a chain is at most 2^32 - 1 bytes long (section 2.7.5.2).
        ring.push(memory, head, u32::try_from(result.unwrap_or(0)).unwrap_or(u32::MAX).saturating_add(1))
    }

    /// Answers what is done by now.
    fn reap(&mut self, ring: &mut Ring, memory: &GuestMemoryMmap) -> Result<(), RingError> {
        while let Some((tag, result)) = self.engine.reap() {
            let Some(begin) = self.on_their_way.remove(&tag) else { continue };
            let Some((mut begin, result)) = self.hold(tag, begin, result) else { continue };
            match begin.complete(result) {
                Some(result) => self.finish(tag, begin, result, ring, memory)?,
                None => self.go_on(tag, begin, ring, memory)?,
            }
        }
        Ok(())
    }
}

/// The buffers of a request's bytes.
fn place<'c, 'm>(operation: &Operation, chain: &'c Chain<'m>) -> &'c Buffers<'m> {
    if operation.kind == Kind::Read { &chain.writable } else { &chain.readable }
}

/// What a limit on bytes counts.
fn bytes_moved(operation: &Operation) -> u64 {
    if matches!(operation.kind, Kind::Read | Kind::Write) { operation.length } else { 0 }
}

fn count(metrics: &Metrics, kind: Kind, length: u64, result: &io::Result<u64>) {
    match result {
        Ok(_) => metrics.done(kind, length),
        Err(_) => metrics.failed(),
    }
}

impl Lane for Requests {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn duty(&self) -> Duty {
        Duty::Disk
    }

    fn queues(&self) -> Vec<usize> {
        vec![self.queue]
    }

    fn sources(&self) -> Vec<BorrowedFd<'_>> {
        [Some(self.limiter.source()), Some(self.full.source()), self.engine.source()].into_iter().flatten().collect()
    }

    fn start(&mut self, features: u64, _rings: &mut [Ring], memory: &GuestMemoryMmap) -> io::Result<()> {
        self.write_through = features & config::F_FLUSH == 0;
        self.memory = Some(memory.clone());
        Ok(())
    }

    fn stop(&mut self) {
        self.engine.drain();
        let waiting = self.full.take();
        waiting.iter().for_each(|_| self.disk.metrics.waits_no_more());
        for (_, begin) in self.on_their_way.drain().chain(waiting) {
            begin.stand_in.into_iter().for_each(|buffer| self.bounce.give(buffer));
        }
        self.memory = None;
    }

    fn service(&mut self, wake: Wake, rings: &mut [Ring], memory: &GuestMemoryMmap) -> Service {
        let ring = &mut rings[0];
        if wake == Wake::Source(TIMER) {
            self.limiter.fired();
        }
        if wake == Wake::Source(ROOM) {
            self.try_again(ring, memory)?;
        }
        self.reap(ring, memory)?;
        let progress = if ring.is_ready() { self.serve(ring, memory) } else { Ok(Progress::Done) };
        self.engine.hand_over();
        progress
    }
}
