//! io_uring (io_uring(7)): a lane's operations on their way at once, its thread free meanwhile.
//!
//! The ring is bound before anything of the guest is read (`IORING_REGISTER_RESTRICTIONS`): it takes reads, writes,
//! syncs and allocations on the disk's file, which is registered with it, and nothing else. So a lane that was taken
//! over can do by the ring what it can do by calls, and no more.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::register::Restriction;
use io_uring::squeue::Flags;
use io_uring::{IoUring, opcode, types};
use vmm_sys_util::eventfd::EventFd;

use super::super::request::{Kind, Operation};
use super::sync::{erase, erase_mode};
use super::{Begun, Engine};
use crate::virtio::buffers::{MAX_PIECES, Pinned, advance};

/// The disk's file, as the ring knows it.
const DISK: types::Fixed = types::Fixed(0);

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
    file: File,
    event: EventFd,
    flights: HashMap<u16, Flight>,
    /// What failed before the kernel had it.
    failed: Vec<(u16, io::Error)>,
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
        submitter.register_restrictions(&mut restrictions)?;
        submitter.register_enable_rings()?;
        Ok(Self { ring, file, event, flights: HashMap::new(), failed: Vec::new() })
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
        if unsafe { self.ring.submission().push(&entry.user_data(tag.into())) }.is_err() {
            // There are as many places as operations may be on their way.
            self.failed.push((tag, io::Error::from_raw_os_error(libc::EBUSY)));
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
                Some(libc::EOPNOTSUPP | libc::ENOSYS) if matches!(kind, Kind::WriteZeroes { .. }) => {
                    Some(erase(&self.file, kind, offset, length))
                }
                _ => Some(Err(error)),
            };
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
        let reads_or_writes = matches!(operation.kind, Kind::Read | Kind::Write);
        if operation.length == 0 && operation.kind != Kind::Flush {
            return Begun::Done(Ok(0));
        }
        let vector = if reads_or_writes { buffers.vector().to_vec() } else { Vec::new() };
        self.flights.insert(tag, Flight { operation, durable, vector, first: 0, moved: 0 });
        self.push(tag);
        Begun::OnItsWay
    }

    fn hand_over(&mut self) -> io::Result<()> {
        loop {
            match self.ring.submit() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(_) => return Ok(()),
            }
        }
    }

    fn reap(&mut self) -> Option<(u16, io::Result<u64>)> {
        if let Some((tag, error)) = self.failed.pop() {
            self.flights.remove(&tag);
            return Some((tag, Err(error)));
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
            // What was pushed again is handed over with this too.
            match self.ring.submit_and_wait(1) {
                Err(error) if !matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ResourceBusy) => {
                    // A ring that cannot be waited for is closed with its owner, which waits in the kernel.
                    return;
                }
                _ => {}
            }
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
