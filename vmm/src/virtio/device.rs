//! What every virtio device is to its transport: a front that the driver configures, and lanes that work.

use std::io;
use std::os::fd::BorrowedFd;

use vm_memory::GuestMemoryMmap;

use super::ring::{Ring, RingError};
use crate::jail::seccomp::Duty;

/// Why a lane's thread calls its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// The driver notified us of this queue, counted among the lane's own.
    Queue(usize),
    /// This one of the lane's [`Lane::sources`] has something.
    Source(usize),
}

/// How far a lane came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It waits for the next [`Wake`].
    Done,
    /// There is more to do; it stopped so that others have their turn.
    More,
}

/// What a call to a lane brings: an error is the driver's fault and puts the device out of service until a reset.
pub type Service = Result<Progress, RingError>;

/// A virtio device as its driver configures it: what remains of it when registers, feature negotiation and threads are
/// taken away. The work is its lanes'.
///
/// # Life
/// The driver drives it by the device status field (virtio 1.2, sections 2.1 and 3.1). The transport keeps that state;
/// the lanes see two edges of it, and are called with [`Wake`]s only between them:
///
/// ```text
///            ACKNOWLEDGE, DRIVER          FEATURES_OK              DRIVER_OK
///  (reset) ──────────────────> negotiate ────────────> set queues ───────────> live
///     ▲                                                               start      │ service(Wake) ...
///     │                                                                          │
///     ├──────────────────────────────── status = 0 ───── stop ───────────────────┤
///     │                                                                          │ service = Err, stop
///     └──────────────────────────────── status = 0 ─────── NEEDS_RESET <─────────┘
/// ```
pub trait VirtioDevice: Send {
    /// Device type (virtio 1.2, section 5).
    fn device_type(&self) -> u32;

    /// Most descriptors of each of its queues; powers of two.
    fn queue_sizes(&self) -> Vec<u16>;

    /// Feature bits of its type. Those of the ring and the transport are the transport's.
    fn features(&self) -> u64;

    /// The driver reads its configuration space at `offset` into `data`, which is all zeros before: what lies behind
    /// the space stays zero. [`read_space`] serves a space of bytes.
    fn read_config(&self, offset: usize, data: &mut [u8]);

    /// The driver writes its configuration space.
    fn write_config(&mut self, _offset: usize, _data: &[u8]) {}

    /// What works on its queues. Called once; each queue is in one lane.
    fn take_lanes(&mut self) -> Vec<Box<dyn Lane>>;
}

/// What works on some of a device's queues, in a thread of its own.
pub trait Lane: Send {
    /// Name of the thread, of at most 15 bytes: the device's name and, if there are several, the lane's number.
    fn name(&self) -> String;

    /// What it does to the host: by this its thread gets the system calls that it needs, and no others.
    fn duty(&self) -> Duty {
        Duty::Plain
    }

    /// Its queues, as the driver counts them. The rings that its methods get are theirs, in this order.
    fn queues(&self) -> Vec<usize>;

    /// Whether its thread is woken when the driver notifies us of this one of its queues; not for one that the host's
    /// kernel serves.
    fn watches(&self, _queue: usize) -> bool {
        true
    }

    /// Descriptors of the host's side that are watched for input, at their edges (`EPOLLET`): the same ones as long as
    /// the lane exists. Timers of limits are among them.
    fn sources(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    /// The driver is ready, took these features and has set up these rings, or some of them.
    ///
    /// # Errors
    /// The host cannot provide them: the device asks for a reset.
    fn start(&mut self, _features: u64, _rings: &mut [Ring], _memory: &GuestMemoryMmap) -> io::Result<()> {
        Ok(())
    }

    /// The driver resets the device. Nothing touches guest memory on its behalf when this returns. A later start
    /// begins afresh.
    fn stop(&mut self) {}

    /// Does what there is to do.
    ///
    /// # Errors
    /// The driver broke the rules.
    fn service(&mut self, wake: Wake, rings: &mut [Ring], memory: &GuestMemoryMmap) -> Service;
}

/// [`VirtioDevice::read_config`] for a configuration space of bytes.
pub fn read_space(space: &[u8], offset: usize, data: &mut [u8]) {
    let rest = space.get(offset..).unwrap_or_default();
    let count = rest.len().min(data.len());
    data[..count].copy_from_slice(&rest[..count]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_space_reads_as_itself_and_then_zeros(length in 0usize..40, offset in any::<usize>(), count in 0usize..9) {
            let space: Vec<u8> = (1..=length as u8).collect();
            let mut data = vec![0; count];
            read_space(&space, offset, &mut data);
            for (index, byte) in data.iter().enumerate() {
                let there = offset.checked_add(index).and_then(|at| space.get(at)).copied();
                prop_assert_eq!(*byte, there.unwrap_or(0));
            }
        }
    }
}
