//! A lane: takes requests off its queue, begins their operations, and answers each when it is done.
//!
//! ```text
//!   ring ── pop ──> request ── limits ──> engine ──> done at once ─────> status, used ring
//!                                │           └─────> on its way ── reap ──────^
//!                                └── not yet: back into the ring until the timer fires
//! ```

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use vm_memory::GuestMemoryMmap;

use super::disk::Disk;
use super::engine::{Begun, Engine};
use super::request::{self, ID_BYTES, Kind, Operation, Request, Status};
use super::{config, metrics::Metrics};
use crate::jail::seccomp::Duty;
use crate::virtio::buffers::{Buffers, Pinned};
use crate::virtio::limit::Limiter;
use crate::virtio::ring::{Chain, Ring, RingError};
use crate::virtio::{Lane, Progress, Service, Wake};

/// Place of the limits' timer among the sources.
const TIMER: usize = 0;
/// Longest request that goes through a buffer of ours, in bytes, because the guest's are not aligned.
const BOUNCE_MAX: u64 = 16 << 20;

/// A request that was begun.
#[derive(Debug)]
struct Begin {
    operation: Operation,
    /// The guest's buffers.
    buffers: Pinned,
    /// The buffer that stands in for them.
    stand_in: Option<Pinned>,
    status: Pinned,
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
    /// Held while operations are on their way: they point into it.
    memory: Option<GuestMemoryMmap>,
    on_their_way: HashMap<u16, Begin>,
}

impl Requests {
    /// The lane of `queue` of the disk at `position`.
    ///
    /// # Errors
    /// The host gives no timer.
    pub fn new(
        position: usize,
        queue: usize,
        queues: u16,
        disk: Arc<Disk>,
        engine: Box<dyn Engine>,
    ) -> io::Result<Self> {
        let mut id = [0; ID_BYTES];
        let text = format!("disk{position}");
        id[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self {
            name: if queues == 1 { text } else { format!("disk{position}.{queue}") },
            queue,
            id,
            limiter: Limiter::new(disk.limits.clone())?,
            disk,
            engine,
            write_through: false,
            memory: None,
            on_their_way: HashMap::new(),
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
            if self.on_their_way.contains_key(&chain.head) {
                return Err(RingError::Chain(chain.head));
            }
            let (request, status) = request::parse(&mut chain, self.disk.sectors(), self.disk.read_only)?;
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
        let buffers = if operation.kind == Kind::Read { &chain.writable } else { &chain.readable };
        // SAFETY: the lane holds the memory until nothing is on its way.
        let (buffers, status) = unsafe { (buffers.pin(), status.pin()) };
        let mut begin = Begin { operation, buffers, stand_in: None, status };
        if let Err(refusal) = self.align(&mut begin) {
            return self.finish(chain.head, &begin, Err(refusal), ring, memory);
        }
        let place = begin.stand_in.as_ref().unwrap_or(&begin.buffers);
        match self.engine.begin(chain.head, operation, place, self.write_through) {
            Begun::Done(result) => self.finish(chain.head, &begin, result, ring, memory),
            Begun::OnItsWay => {
                self.on_their_way.insert(chain.head, begin);
                Ok(())
            }
        }
    }

    /// Around the page cache only aligned memory goes: a buffer of ours stands in for what is not.
    fn align(&self, begin: &mut Begin) -> io::Result<()> {
        let Operation { kind, length, .. } = begin.operation;
        let moves = matches!(kind, Kind::Read | Kind::Write) && length > 0;
        if !self.disk.direct || !moves || begin.buffers.is_aligned(self.disk.block as usize) {
            return Ok(());
        }
        if length > BOUNCE_MAX {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let stand_in = Pinned::zeroed(length as usize);
        if kind == Kind::Write {
            stand_in.copy_from(&begin.buffers);
        }
        begin.stand_in = Some(stand_in);
        Ok(())
    }

    /// Answers a request.
    fn finish(
        &self,
        head: u16,
        begin: &Begin,
        result: io::Result<u64>,
        ring: &mut Ring,
        memory: &GuestMemoryMmap,
    ) -> Result<(), RingError> {
        let Operation { kind, length, .. } = begin.operation;
        let result = result.and_then(|moved| match kind {
            Kind::Read => {
                if let Some(stand_in) = &begin.stand_in {
                    begin.buffers.copy_from(stand_in);
                }
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
        // The used length counts the status; a chain is at most 2^32 - 1 bytes long (section 2.7.5.2).
        ring.push(memory, head, u32::try_from(result.unwrap_or(0)).unwrap_or(u32::MAX).saturating_add(1))
    }

    /// Answers what is done by now.
    fn reap(&mut self, ring: &mut Ring, memory: &GuestMemoryMmap) -> Result<(), RingError> {
        while let Some((tag, result)) = self.engine.reap() {
            if let Some(begin) = self.on_their_way.remove(&tag) {
                self.finish(tag, &begin, result, ring, memory)?;
            }
        }
        Ok(())
    }
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
        [Some(self.limiter.source()), self.engine.source()].into_iter().flatten().collect()
    }

    fn start(&mut self, features: u64, _rings: &mut [Ring], memory: &GuestMemoryMmap) -> io::Result<()> {
        self.write_through = features & config::F_FLUSH == 0;
        self.memory = Some(memory.clone());
        Ok(())
    }

    fn stop(&mut self) {
        self.engine.drain();
        self.on_their_way.clear();
        self.memory = None;
    }

    fn service(&mut self, wake: Wake, rings: &mut [Ring], memory: &GuestMemoryMmap) -> Service {
        let ring = &mut rings[0];
        if wake == Wake::Source(TIMER) {
            self.limiter.fired();
        }
        self.reap(ring, memory)?;
        let progress = if ring.is_ready() { self.serve(ring, memory) } else { Ok(Progress::Done) };
        self.engine.hand_over();
        progress
    }
}
