//! io_uring (io_uring(7)): a lane's operations on their way at once, its thread free meanwhile.
//!
//! The ring is bound before anything of the guest is read (`IORING_REGISTER_RESTRICTIONS`): it takes reads, writes,
//! syncs and allocations on the disk's file, which is registered with it, and nothing else. So a lane that was taken
//! over can do by the ring what it can do by calls, and no more.
//!
//! What the kernel has of the guest's memory it keeps until it has said so in the completion queue, whatever
//! `io_uring_enter` returns meanwhile. So nothing that was handed over is ever given up: only what the kernel has not
//! taken fails, and a ring of which it took less than all is never entered again.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::thread;
use std::time::Duration;

use io_uring::register::Restriction;
use io_uring::squeue::Flags;
use io_uring::{IoUring, Submitter, opcode, types};
use thimble_spec::vmm::DISK_WORKERS;
use vmm_sys_util::eventfd::EventFd;

use super::super::request::{Kind, Operation};
use super::sync::{Sync, erase_mode, goes_by_writing};
use super::{Begun, Engine};
use crate::virtio::buffers::{MAX_PIECES, Pinned, advance};

/// The disk's file, as the ring knows it.
const DISK: types::Fixed = types::Fixed(0);

/// Time between two tries when the kernel has no room for a request at the moment.
const PAUSE: Duration = Duration::from_millis(1);

/// An operation on its way.
#[derive(Debug)]
struct Flight {
    operation: Operation,
    durable: bool,
    /// What is left of the buffers; at its place until the kernel is done with it.
    vector: Vec<libc::iovec>,
    /// How many of the vector's pieces are done.
    first: usize,
    moved: u64,
}

// SAFETY: the vector points into guest memory, which the lane holds for as long as operations are on their way; any
// thread may hand it to the kernel.
unsafe impl Send for Flight {}

/// The engine.
pub struct Uring {
    ring: IoUring,
    event: EventFd,
    flights: HashMap<u16, Flight>,
    /// What is in the submission queue and not yet the kernel's, in its order.
    queued: VecDeque<u16>,
    /// What failed before the kernel had it, and with which error.
    failed: Vec<(u16, i32)>,
    /// The kernel takes nothing more by the ring: what comes from now on goes by calls.
    broken: bool,
    calls: Sync,
}

impl Uring {
    /// An engine on `file` for up to `entries` operations at once.
    ///
    /// # Errors
    /// The host has no io_uring, or forbids it, or cannot restrict it (Linux before 5.10).
    pub fn new(file: File, entries: u16) -> io::Result<Self> {
        let ring = IoUring::builder().setup_r_disabled().build(entries.into())?;
        let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        let submitter = ring.submitter();
        submitter.register_files(&[file.as_raw_fd()])?;
        submitter.register_eventfd(event.as_raw_fd())?;
        let codes = [opcode::Readv::CODE, opcode::Writev::CODE, opcode::Fsync::CODE, opcode::Fallocate::CODE];
        let mut restrictions: Vec<Restriction> = codes.into_iter().map(Restriction::sqe_op).collect();
        restrictions.push(Restriction::sqe_flags_required(Flags::FIXED_FILE.bits()));
        limit_workers(&submitter);
        submitter.register_restrictions(&mut restrictions)?;
        submitter.register_enable_rings()?;
        Ok(Self {
            ring,
            event,
            flights: HashMap::new(),
            queued: VecDeque::new(),
            failed: Vec::new(),
            broken: false,
            calls: Sync::new(file),
        })
    }

    /// Puts the next part of an operation into the ring.
    fn push(&mut self, tag: u16) {
        let Some(flight) = self.flights.get(&tag) else { return };
        let Operation { kind, offset, length } = flight.operation;
        let position = offset + flight.moved;
        let pieces = &flight.vector[flight.first..];
        let (vector, count) = (pieces.as_ptr(), pieces.len().min(MAX_PIECES) as u32);
        let entry = match kind {
            Kind::Read => opcode::Readv::new(DISK, vector, count).offset(position).build(),
            Kind::Write => {
                let flags = if flight.durable { libc::RWF_DSYNC } else { 0 };
                opcode::Writev::new(DISK, vector, count).offset(position).rw_flags(flags).build()
            }
            Kind::Flush => opcode::Fsync::new(DISK).flags(types::FsyncFlags::DATASYNC).build(),
            Kind::Discard | Kind::WriteZeroes { .. } => {
                opcode::Fallocate::new(DISK, length).offset(offset).mode(erase_mode(kind)).build()
            }
        };
        // SAFETY: what the entry points to stays where it is until the operation has been reaped: the vector is the
        // flight's, the memory behind it the guest's, which the lane holds.
        if !self.broken && unsafe { self.ring.submission().push(&entry.user_data(tag.into())) }.is_ok() {
            self.queued.push_back(tag);
        } else {
            // Never for want of room: there are as many places as operations may be on their way.
            self.fail([tag], libc::EIO);
        }
    }

    /// Lets operations fail that the kernel does not have.
    fn fail(&mut self, tags: impl IntoIterator<Item = u16>, error: i32) {
        self.failed.extend(tags.into_iter().map(|tag| (tag, error)));
        self.call_back();
    }

    /// Lets the lane's thread call again. An event that cannot be counted further is set already.
    fn call_back(&self) {
        let _ = self.event.write(1);
    }

    /// Hands what is queued to the kernel, as far as it takes it at once, and waits until `wanted` operations are done.
    fn enter(&mut self, wanted: usize) {
        let before = self.queued.len();
        let entered = self.ring.submit_and_wait(wanted);
        // The kernel takes them in their order, and may take some only.
        let left = self.ring.submission().len();
        self.queued.drain(..before.saturating_sub(left));
        match entered.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO)) {
            Ok(_) if left == 0 || left < before => {}
            Err(libc::EINTR) => {}
            // No memory for a request, or too many completions that nobody has looked at.
            Ok(_) | Err(libc::EAGAIN | libc::EBUSY) => thread::sleep(PAUSE),
            Err(error) => {
                self.broken = true;
                let queued = std::mem::take(&mut self.queued);
                self.fail(queued, error);
            }
        }
    }

    /// One completion of the kernel's: the operation's end, or nothing if a part of it is still to be done.
    fn land(&mut self, tag: u16, result: i32) -> Option<io::Result<u64>> {
        let flight = self.flights.get_mut(&tag)?;
        let Operation { kind, offset, length } = flight.operation;
        if result < 0 {
            let error = io::Error::from_raw_os_error(-result);
            return match error.raw_os_error() {
                Some(libc::EINTR | libc::EAGAIN) => {
                    self.push(tag);
                    None
                }
                // As calls do it.
                _ if matches!(kind, Kind::Discard | Kind::WriteZeroes { .. }) && goes_by_writing(&error) => {
                    Some(self.calls.erase(kind, offset, length, flight.durable))
                }
                _ => Some(Err(error)),
            };
        }
        if matches!(kind, Kind::Discard | Kind::WriteZeroes { .. }) && flight.durable {
            // Unlike a write, an allocation has no flag for it.
            flight.operation.kind = Kind::Flush;
            self.push(tag);
            return None;
        }
        if !matches!(kind, Kind::Read | Kind::Write) {
            return Some(Ok(0));
        }
        flight.moved += u64::from(result.cast_unsigned());
        // A short transfer goes on where it ended; one of nothing is the end of the file, or of the space.
        if result == 0 || flight.moved >= length {
            return Some(Ok(flight.moved));
        }
        let left = advance(&mut flight.vector[flight.first..], result.cast_unsigned() as usize).len();
        flight.first = flight.vector.len() - left;
        self.push(tag);
        None
    }
}

impl Engine for Uring {
    fn begin(&mut self, tag: u16, operation: Operation, buffers: &Pinned, durable: bool) -> Begun {
        if self.broken {
            return self.calls.begin(tag, operation, buffers, durable);
        }
        let reads_or_writes = matches!(operation.kind, Kind::Read | Kind::Write);
        if operation.length == 0 && operation.kind != Kind::Flush {
            return Begun::Done(Ok(0));
        }
        let vector = if reads_or_writes { buffers.vector().to_vec() } else { Vec::new() };
        self.flights.insert(tag, Flight { operation, durable, vector, first: 0, moved: 0 });
        self.push(tag);
        Begun::OnItsWay
    }

    fn hand_over(&mut self) {
        let mut before = usize::MAX;
        // As long as the kernel takes some.
        while !self.queued.is_empty() && self.queued.len() < before {
            before = self.queued.len();
            self.enter(0);
        }
        if !self.queued.is_empty() {
            self.call_back();
        }
    }

    fn reap(&mut self) -> Option<(u16, io::Result<u64>)> {
        if let Some((tag, error)) = self.failed.pop() {
            self.flights.remove(&tag);
            return Some((tag, Err(io::Error::from_raw_os_error(error))));
        }
        loop {
            let completion = self.ring.completion().next()?;
            let tag = completion.user_data() as u16;
            if let Some(result) = self.land(tag, completion.result()) {
                self.flights.remove(&tag);
                return Some((tag, result));
            }
        }
    }

    fn drain(&mut self) {
        while !self.flights.is_empty() {
            if self.reap().is_some() {
                continue;
            }
            // What was pushed again is handed over with this too. A ring that cannot be entered is watched: completions
            // come without it.
            if self.broken { thread::sleep(PAUSE) } else { self.enter(1) }
        }
    }

    fn source(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the event owns the descriptor and lives as long as the borrow.
        Some(unsafe { BorrowedFd::borrow_raw(self.event.as_raw_fd()) })
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.drain();
    }
}

/// What would block goes to the kernel's workers. By itself it makes hundreds on a large host, more threads than a cgroup
/// allows; Linux before 5.15 cannot be told.
fn limit_workers(submitter: &Submitter<'_>) {
    let _ = submitter.register_iowq_max_workers(&mut [DISK_WORKERS; 2]);
}

#[cfg(test)]
mod tests {
    use std::io::{PipeWriter, Write};
    use std::os::fd::OwnedFd;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    use thimble_spec::vmm::DiskEngine;

    use super::super::super::Block;
    use super::super::super::tests::while_failing;
    use super::*;
    use crate::virtio::testing::{DATA, Driver, WRITE, block};

    const S_OK: u8 = 0;
    const S_IOERR: u8 = 1;
    /// Place of the engine's event among the lane's sources.
    const EVENT: usize = 1;

    /// Does `work` on a thread for which `io_uring_enter` fails with `error`.
    fn while_entering_fails<T: Send>(error: i32, work: impl FnOnce() -> T + Send) -> T {
        while_failing(libc::SYS_io_uring_enter, error, work)
    }

    /// Where request `index` has its header, its buffer and its status.
    fn places(index: u64) -> [u64; 3] {
        [DATA + index * 0x100, DATA + 0x1000 + index * 512, DATA + index * 0x100 + 0x80]
    }

    /// Makes a request for a sector available.
    fn submit(driver: &mut Driver, index: u64, kind: u32) -> u32 {
        let [header, buffer, status] = places(index);
        driver.put(header, &[&kind.to_le_bytes()[..], &[0; 12]].concat());
        driver.put(status, &[0xee]);
        let flags = if kind == 0 { WRITE } else { 0 };
        driver.submit(0, &[(header, 16, 0), (buffer, 512, flags), (status, 1, WRITE)]).into()
    }

    fn status(driver: &Driver, index: u64) -> u8 {
        driver.bytes(places(index)[2], 1)[0]
    }

    /// What the device has used when it has used `count` chains, and a moment later.
    fn used(driver: &mut Driver, count: usize) -> Vec<u32> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut used = Vec::new();
        let mut look = |driver: &mut Driver| {
            driver.rouse(EVENT);
            used.extend(driver.used(0).into_iter().map(|(head, _)| head));
            used.len()
        };
        while look(driver) < count {
            assert!(Instant::now() < deadline, "{count} requests are answered");
            thread::sleep(PAUSE);
        }
        thread::sleep(10 * PAUSE);
        look(driver);
        used
    }

    fn started() -> (Driver, File) {
        let (device, file) = block(false, DiskEngine::Uring);
        let driver = Driver::new(device);
        driver.start(0);
        (driver, file)
    }

    /// A disk on a pipe, where a read is on its way until somebody writes.
    fn slow() -> (Driver, PipeWriter) {
        let (reader, writer) = io::pipe().unwrap();
        let device = Block::on(OwnedFd::from(reader).into(), 8, false, DiskEngine::Uring);
        let driver = Driver::new(device);
        driver.start(0);
        (driver, writer)
    }

    #[test]
    fn a_ring_has_few_workers() {
        let ring: IoUring = IoUring::builder().setup_r_disabled().build(256).unwrap();
        limit_workers(&ring.submitter());
        // Zeros ask.
        let mut now = [0; 2];
        ring.submitter().register_iowq_max_workers(&mut now).unwrap();
        assert_eq!(now, [DISK_WORKERS; 2]);
    }

    #[test]
    fn what_the_kernel_has_no_room_for_is_handed_over_later() {
        for error in [libc::EAGAIN, libc::EBUSY, libc::EINTR] {
            let (mut driver, _file) = started();
            let mut heads = vec![submit(&mut driver, 0, 1), submit(&mut driver, 1, 1)];
            while_entering_fails(error, || driver.kick(0));
            assert!(driver.used(0).is_empty());
            heads.push(submit(&mut driver, 2, 0));
            let mut answered = used(&mut driver, 3);
            answered.sort_unstable();
            assert_eq!(answered, heads);
            assert_eq!([0, 1, 2].map(|index| status(&driver, index)), [S_OK; 3]);
        }
    }

    #[test]
    fn what_the_kernel_never_takes_fails_once_and_the_disk_goes_on() {
        let (mut driver, _file) = started();
        let heads = vec![submit(&mut driver, 0, 1), submit(&mut driver, 1, 0)];
        while_entering_fails(libc::EPERM, || driver.kick(0));
        let mut answered = used(&mut driver, 2);
        answered.sort_unstable();
        assert_eq!(answered, heads);
        assert_eq!([0, 1].map(|index| status(&driver, index)), [S_IOERR; 2]);
        // By calls.
        submit(&mut driver, 2, 1);
        driver.kick(0);
        assert_eq!((used(&mut driver, 1).len(), status(&driver, 2)), (1, S_OK));
        let mut driver = driver.restarted(0);
        submit(&mut driver, 0, 1);
        driver.kick(0);
        assert_eq!((used(&mut driver, 1).len(), status(&driver, 0)), (1, S_OK));
    }

    #[test]
    fn what_the_kernel_has_is_not_given_up_with_the_ring() {
        let (mut driver, mut writer) = slow();
        let with_kernel = submit(&mut driver, 0, 0);
        driver.kick(0);
        let refused = submit(&mut driver, 1, 0);
        while_entering_fails(libc::EPERM, || driver.kick(0));
        assert_eq!(used(&mut driver, 1), [refused]);
        assert_eq!((status(&driver, 0), status(&driver, 1)), (0xee, S_IOERR));
        writer.write_all(&[7; 512]).unwrap();
        assert_eq!(used(&mut driver, 1), [with_kernel]);
        assert_eq!((status(&driver, 0), driver.bytes(places(0)[1], 512)), (S_OK, vec![7; 512]));
    }

    #[test]
    fn a_reset_waits_for_the_kernel_even_if_the_ring_cannot_be_entered() {
        let (mut driver, mut writer) = slow();
        submit(&mut driver, 0, 0);
        driver.kick(0);
        let written = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while_entering_fails(libc::EPERM, || driver.negotiate(0));
                assert!(written.load(Ordering::SeqCst), "the kernel still had the guest's buffer");
            });
            thread::sleep(50 * PAUSE);
            written.store(true, Ordering::SeqCst);
            writer.write_all(&[7; 512]).unwrap();
        });
        assert_eq!(driver.bytes(places(0)[1], 512), [7; 512]);
    }

    #[test]
    fn an_erasure_that_must_last_is_synced() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        for (kind, durable, completions) in [
            (Kind::Discard, false, 1),
            (Kind::Discard, true, 2),
            (Kind::WriteZeroes { unmap: false }, true, 2),
            (Kind::WriteZeroes { unmap: true }, true, 2),
            (Kind::Write, true, 1),
        ] {
            let mut uring = Uring::new(file.try_clone().unwrap(), 4).unwrap();
            let operation = Operation { kind, offset: 0, length: 4096 };
            let zeros = Pinned::zeroed(4096);
            assert!(matches!(uring.begin(3, operation, &zeros, durable), Begun::OnItsWay));
            while !uring.flights.is_empty() {
                uring.hand_over();
                if let Some((tag, result)) = uring.reap() {
                    assert_eq!((tag, result.is_ok()), (3, true));
                }
            }
            assert_eq!(uring.event.read().unwrap(), completions, "{kind:?} {durable}");
        }
    }
}
