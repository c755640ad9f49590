//! A pair of queues whose packets the VMM moves itself (virtio 1.2, section 5.1.6).
//!
//! | file | what |
//! | --- | --- |
//! | `receive` | from the host to the driver |
//! | `transmit` | from the driver to the host |

mod receive;
mod transmit;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use vm_memory::GuestMemoryMmap;

use super::config::F_MQ;
use super::control;
use super::port::Port;
use crate::jail::seccomp::Duty;
use crate::virtio::limit::Limiter;
use crate::virtio::ring::Ring;
use crate::virtio::{Lane, Progress, Service, Wake};
use receive::Receiver;
use transmit::Transmitter;

/// Place of a lane's receive queue among its queues.
pub const RX: usize = 0;
/// Place of a lane's transmit queue.
pub const TX: usize = 1;
/// Place of the control queue, in the first lane.
pub const CONTROL: usize = 2;

/// Sources of a lane, in this order: its queue of the tap, and the timers of its limits.
const TAP: usize = 0;
const RECEIVE_TIMER: usize = 1;
const TRANSMIT_TIMER: usize = 2;

/// What a pair of queues is to a driver. Without `F_MQ` there is one pair, and what is the second pair's receive queue
/// with it is the control queue (section 5.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A pair of queues.
    Packets,
    /// The control queue stands where the receive queue would.
    Control,
    /// Nothing.
    None,
}

impl Role {
    /// The role of a pair for a driver that took `features`.
    pub fn of(pair: usize, features: u64) -> Self {
        match pair {
            0 => Self::Packets,
            _ if features & F_MQ != 0 => Self::Packets,
            1 => Self::Control,
            _ => Self::None,
        }
    }
}

/// Where a lane stands among those of its device.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The device among the guest's network interfaces.
    pub device: usize,
    /// The pair.
    pub pair: usize,
    /// Pairs of the device.
    pub pairs: usize,
}

impl Place {
    /// The name of the lane's thread.
    pub fn name(self) -> String {
        if self.pairs == 1 { format!("net{}", self.device) } else { format!("net{}-{}", self.device, self.pair) }
    }

    /// The lane's queues. The first lane has the control queue too, behind all the pairs.
    pub fn queues(self) -> Vec<usize> {
        let control = (self.pair == 0).then_some(2 * self.pairs);
        [2 * self.pair, 2 * self.pair + 1].into_iter().chain(control).collect()
    }
}

/// The lane of a pair of queues.
#[derive(Debug)]
pub struct Pair {
    place: Place,
    port: Arc<Port>,
    role: Role,
    receiver: Receiver,
    transmitter: Transmitter,
}

impl Pair {
    /// A lane with these views of its device's limits.
    pub fn new(place: Place, port: Arc<Port>, receive: Limiter, transmit: Limiter) -> Self {
        let (receiver, transmitter) = (Receiver::new(receive), Transmitter::new(transmit));
        Self { place, port, role: Role::None, receiver, transmitter }
    }

    fn receive(&mut self, rings: &mut [Ring], memory: &GuestMemoryMmap) -> Service {
        if !rings[RX].is_ready() {
            return Ok(Progress::Done);
        }
        if self.place.pair >= self.port.tap().pairs() {
            // What it holds came before the driver gave the pair up.
            self.receiver.forget();
            return Ok(Progress::Done);
        }
        self.receiver.receive(&self.port, self.place.pair, &mut rings[RX], memory)
    }

    fn transmit(&mut self, rings: &mut [Ring], memory: &GuestMemoryMmap) -> Service {
        if !rings[TX].is_ready() {
            return Ok(Progress::Done);
        }
        self.transmitter.transmit(&self.port, self.place.pair, &mut rings[TX], memory)
    }
}

impl Lane for Pair {
    fn name(&self) -> String {
        self.place.name()
    }

    fn duty(&self) -> Duty {
        Duty::Net
    }

    fn queues(&self) -> Vec<usize> {
        self.place.queues()
    }

    fn sources(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.port.wire(self.place.pair), self.receiver.timer(), self.transmitter.timer()]
    }

    fn start(&mut self, features: u64, _rings: &mut [Ring], _memory: &GuestMemoryMmap) -> io::Result<()> {
        self.role = Role::of(self.place.pair, features);
        self.receiver.start(features);
        self.transmitter.start();
        if self.place.pair == 0 { self.port.start(features) } else { Ok(()) }
    }

    fn stop(&mut self) {
        self.role = Role::None;
        self.receiver.forget();
        if self.place.pair == 0 {
            self.port.stop();
        }
    }

    fn service(&mut self, wake: Wake, rings: &mut [Ring], memory: &GuestMemoryMmap) -> Service {
        match (self.role, wake) {
            // New buffers, or new packets: the two sides of the same work.
            (Role::Packets, Wake::Queue(RX) | Wake::Source(TAP)) => self.receive(rings, memory),
            (Role::Packets, Wake::Queue(TX)) => self.transmit(rings, memory),
            (Role::Packets, Wake::Source(RECEIVE_TIMER)) => {
                self.receiver.resume();
                self.receive(rings, memory)
            }
            (Role::Packets, Wake::Source(TRANSMIT_TIMER)) => {
                self.transmitter.resume();
                self.transmit(rings, memory)
            }
            (Role::Packets, Wake::Queue(CONTROL)) => control::serve(&self.port, &mut rings[CONTROL], memory),
            (Role::Control, Wake::Queue(RX)) => control::serve(&self.port, &mut rings[RX], memory),
            _ => Ok(Progress::Done),
        }
    }
}

#[cfg(test)]
mod tests;
