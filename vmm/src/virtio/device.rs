//! What every virtio device is to its transport.

use std::io;
use std::os::fd::BorrowedFd;

use vm_memory::GuestMemoryMmap;

use super::ring::{Ring, RingError};

/// Why a device's thread calls its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// The driver notified us of this queue.
    Queue(usize),
    /// The host's side ([`VirtioDevice::backend`]) has something.
    Backend,
}

/// How far a device came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It waits for the next [`Wake`].
    Done,
    /// There is more to do; it stopped so that others have their turn.
    More,
}

/// What a call to a device brings: an error is the driver's fault and puts the device out of service until a reset.
pub type Service = Result<Progress, RingError>;

/// A virtio device: what remains of it when registers, feature negotiation and threads are taken away.
///
/// # Life
/// The driver drives it by the device status field (virtio 1.2, sections 2.1 and 3.1). The transport keeps that state;
/// a device sees two edges of it, and is called with [`Wake`]s only between them:
///
/// ```text
///            ACKNOWLEDGE, DRIVER          FEATURES_OK              DRIVER_OK
///  (reset) ──────────────────> negotiate ────────────> set queues ───────────> live
///     ▲                                                             activate     │ service(Wake) ...
///     │                                                                          │
///     ├──────────────────────────────── status = 0 ── deactivate ────────────────┤
///     │                                                                          │ service = Err
///     └──────────────────────────────── status = 0 ─────── NEEDS_RESET <─────────┘
/// ```
pub trait VirtioDevice: Send {
    /// Device type (virtio 1.2, section 5).
    fn device_type(&self) -> u32;

    /// Most descriptors of each of its queues; powers of two.
    fn queue_sizes(&self) -> &'static [u16];

    /// Feature bits of its type. Those of the ring and the transport are the transport's.
    fn features(&self) -> u64;

    /// Its configuration space, which the driver only reads.
    fn config(&self) -> &[u8];

    /// The driver is ready and took these features.
    ///
    /// # Errors
    /// The host cannot provide them: the device asks for a reset.
    fn activate(&mut self, features: u64) -> io::Result<()>;

    /// The driver resets the device. A later activation starts afresh.
    fn deactivate(&mut self) {}

    /// The host's side of the device, watched for input at its edges (`EPOLLET`).
    fn backend(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Does what there is to do.
    ///
    /// # Errors
    /// The driver broke the rules.
    fn service(&mut self, wake: Wake, rings: &mut [Ring], memory: &GuestMemoryMmap) -> Service;
}
