//! One virtqueue as the devices see it: chains come out checked, or the guest is at fault.
//!
//! The split ring itself is [`virtio_queue::Queue`]'s (virtio 1.2, section 2.7). What it lets pass in silence, a chain
//! that ends in the middle of nowhere, is an error here: the device then asks to be reset (section 2.1.2) and takes
//! nothing more from this guest.

use std::sync::Arc;

use thiserror::Error;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};
use vmm_sys_util::eventfd::EventFd;

use super::buffers::Buffers;
use super::interrupt::Interrupt;
use super::{Progress, Service};

/// Bytes of the used ring before its elements (section 2.7.8).
const USED_HEADER_BYTES: u64 = 4;
/// Bytes of `struct virtq_used_elem` (section 2.7.8).
const USED_ELEMENT_BYTES: u64 = 8;

/// What a driver did that no sane driver does.
#[derive(Debug, Error)]
pub enum RingError {
    /// The ring itself is inconsistent.
    #[error("the ring is inconsistent: {0}")]
    Ring(#[from] virtio_queue::Error),
    /// A chain is empty, loops, leads out of its table, or is longer than its queue.
    #[error("descriptor chain {0} is broken")]
    Chain(u16),
    /// A chain names memory that the guest does not have.
    #[error("descriptor chain {0} leaves the guest's memory")]
    Address(u16),
    /// A chain has a buffer for the device to read behind one for it to write (section 2.7.4.2), or too little of one.
    #[error("descriptor chain {0} has not the buffers that the device needs")]
    Shape(u16),
    /// The host's kernel, which serves the ring, says so.
    #[error("the host's kernel found the ring broken")]
    Kernel,
}

/// The buffers of a request.
#[derive(Debug)]
pub struct Chain<'m> {
    /// Index of its first descriptor: its name in the used ring.
    pub head: u16,
    /// What the driver says.
    pub readable: Buffers<'m>,
    /// Where the device answers.
    pub writable: Buffers<'m>,
}

/// A virtqueue, the event by which its driver tells of available buffers, and the interrupt that tells the driver of
/// used ones.
#[derive(Debug)]
pub struct Ring {
    pub(super) queue: Queue,
    kick: Arc<EventFd>,
    interrupt: Arc<Interrupt>,
}

impl Ring {
    /// A ring of at most `max_size` descriptors, not yet set up by the driver.
    ///
    /// # Errors
    /// `max_size` is not a power of two.
    pub fn new(max_size: u16, kick: Arc<EventFd>, interrupt: Arc<Interrupt>) -> Result<Self, virtio_queue::Error> {
        Ok(Self { queue: Queue::new(max_size)?, kick, interrupt })
    }

    /// Signalled when the driver has made buffers available.
    pub fn kick(&self) -> &EventFd {
        &self.kick
    }

    /// The device's interrupt.
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// Whether the driver has set it up.
    pub fn is_ready(&self) -> bool {
        self.queue.ready()
    }

    /// The next chain that the driver made available.
    ///
    /// # Errors
    /// The ring or the chain is not what the specification allows.
    pub fn pop<'m>(&mut self, memory: &'m GuestMemoryMmap) -> Result<Option<Chain<'m>>, RingError> {
        let Some(descriptors) = self.queue.iter(memory)?.next() else { return Ok(None) };
        let head = descriptors.head_index();
        let mut chain = Chain { head, readable: Buffers::default(), writable: Buffers::default() };
        let mut complete = false;
        let mut left = self.queue.size();
        for descriptor in descriptors {
            // By a table of indirect descriptors a chain could be longer than its queue, and must not (section
            // 2.7.5.3.1).
            left = left.checked_sub(1).ok_or(RingError::Chain(head))?;
            let (buffers, access) = match descriptor.is_write_only() {
                true => (&mut chain.writable, Permissions::Write),
                false if chain.writable.is_empty() => (&mut chain.readable, Permissions::Read),
                false => return Err(RingError::Shape(head)),
            };
            let slices = memory.get_slices(descriptor.addr(), descriptor.len() as usize, access);
            for slice in slices.map_err(|_| RingError::Address(head))? {
                buffers.push(slice.map_err(|_| RingError::Address(head))?);
            }
            complete = !descriptor.has_next();
        }
        if complete { Ok(Some(chain)) } else { Err(RingError::Chain(head)) }
    }

    /// Puts the `count` chains popped last back: they were not used.
    pub fn unpop(&mut self, count: usize) {
        (0..count).for_each(|_| self.queue.go_to_previous_position());
    }

    /// Number of descriptors, as the driver set it.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Gives a chain back with `written` bytes in its writable buffers, and tells the driver if it wants to know.
    ///
    /// # Errors
    /// As [`Self::pop`].
    pub fn push(&mut self, memory: &GuestMemoryMmap, head: u16, written: u32) -> Result<(), RingError> {
        self.queue.add_used(memory, head, written)?;
        if self.queue.needs_notification(memory)? {
            self.interrupt.used_buffer();
        }
        Ok(())
    }

    /// Gives several chains back at once: the driver sees all of them or none, as the buffers of one received packet
    /// must be seen (section 5.1.6.4).
    ///
    /// # Errors
    /// As [`Self::pop`].
    pub fn push_all(&mut self, memory: &GuestMemoryMmap, used: &[(u16, u32)]) -> Result<(), RingError> {
        let Some((last, others)) = used.split_last() else { return Ok(()) };
        let first = self.queue.next_used();
        for (index, (head, written)) in others.iter().enumerate() {
            // Written ahead of the index, by which the driver goes.
            let slot = first.wrapping_add(index as u16) % self.queue.size();
            let at = self.queue.used_ring() + USED_HEADER_BYTES + USED_ELEMENT_BYTES * u64::from(slot);
            let element = (u64::from(*written) << 32) | u64::from(*head);
            memory.write_obj(element.to_le(), GuestAddress(at)).map_err(virtio_queue::Error::GuestMemory)?;
        }
        self.queue.set_next_used(first.wrapping_add(others.len() as u16));
        self.queue.add_used(memory, last.0, last.1)?;
        // The queue counts what `add_used` adds, and would miss an event index among the others.
        if self.queue.needs_notification(memory)? || !others.is_empty() {
            self.interrupt.used_buffer();
        }
        Ok(())
    }

    /// Asks the driver to notify us of new chains; true if some came meanwhile.
    ///
    /// # Errors
    /// As [`Self::pop`].
    pub fn want_kicks(&mut self, memory: &GuestMemoryMmap) -> Result<bool, RingError> {
        Ok(self.queue.enable_notification(memory)?)
    }

    /// Tells the driver that notifications are not needed now.
    ///
    /// # Errors
    /// As [`Self::pop`].
    pub fn spare_kicks(&mut self, memory: &GuestMemoryMmap) -> Result<(), RingError> {
        Ok(self.queue.disable_notification(memory)?)
    }

    /// Serves the chains that are available: `answer` says how many bytes it wrote. After as many chains as the ring
    /// holds it stops with [`Progress::More`], so that one ring does not keep its device's thread for ever.
    ///
    /// # Errors
    /// As [`Self::pop`]; what `answer` says.
    pub fn serve(
        &mut self,
        memory: &GuestMemoryMmap,
        mut answer: impl FnMut(&mut Chain<'_>) -> Result<u32, RingError>,
    ) -> Service {
        self.spare_kicks(memory)?;
        for _ in 0..self.queue.size() {
            match self.pop(memory)? {
                Some(mut chain) => {
                    let written = answer(&mut chain)?;
                    self.push(memory, chain.head, written)?;
                }
                None if self.want_kicks(memory)? => self.spare_kicks(memory)?,
                None => return Ok(Progress::Done),
            }
        }
        Ok(Progress::More)
    }
}
