//! The inflate, deflate and reporting queues (virtio 1.2, sections 5.5.6.1 and 5.5.6.7).

use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

use super::config::PAGE;
use super::discard::Ranges;
use super::metrics::Metrics;
use crate::virtio::ring::{Chain, RingError};

/// Descriptors of each queue. Linux reports up to 32 ranges in a chain, and does not report to a ring of fewer.
pub const SIZE: u16 = 64;

/// Most page numbers of a chain that are looked at: a bound on the time that one takes. Linux gives 256 at most; what
/// is beyond stays with the guest.
const NUMBERS_MAX: usize = 2048;

/// The guest has put pages into the balloon. Pages of the host have `page` bytes.
///
/// # Errors
/// A page is not the guest's.
pub fn inflate(chain: &mut Chain<'_>, memory: &GuestMemoryMmap, page: usize) -> Result<u32, RingError> {
    let mut numbers = [0; NUMBERS_MAX * size_of::<u32>()];
    let count = chain.readable.drain(&mut numbers);
    let (numbers, _) = numbers[..count].as_chunks();
    let mut ranges = Ranges::default();
    for number in numbers {
        let address = GuestAddress(u64::from(u32::from_le_bytes(*number)) * PAGE);
        let pieces = memory.get_slices(address, PAGE as usize, Permissions::ReadWrite);
        for piece in pieces.map_err(|_| RingError::Address(chain.head))? {
            ranges.add(&piece.map_err(|_| RingError::Address(chain.head))?);
        }
    }
    ranges.discard(page);
    Ok(0)
}

/// The guest takes pages out of the balloon. It may use them; the host provides them as the guest touches them.
///
/// # Errors
/// None.
pub fn deflate(_chain: &mut Chain<'_>) -> Result<u32, RingError> {
    Ok(0)
}

/// The guest reports pages that are free: the chain's buffers.
///
/// # Errors
/// It reports nothing.
pub fn report(chain: &mut Chain<'_>, metrics: &Metrics, page: usize) -> Result<u32, RingError> {
    if chain.writable.is_empty() {
        return Err(RingError::Shape(chain.head));
    }
    let mut ranges = Ranges::default();
    chain.writable.pieces().iter().for_each(|piece| ranges.add(piece));
    ranges.discard(page);
    metrics.count_reported(chain.writable.len() as u64);
    Ok(0)
}

#[cfg(test)]
mod tests;
