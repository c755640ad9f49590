//! The receive and the transmit queue of the port (virtio 1.2, section 5.3.6).

use vm_memory::GuestMemoryMmap;

use crate::console::{Console, Input, RING_BYTES};
use crate::virtio::ring::{Chain, Ring, RingError};
use crate::virtio::{Progress, Service};

/// Bytes that are moved at a time.
const CHUNK: usize = 4096;

/// The guest writes. Of a buffer larger than the ring only the end is copied: the rest would not outlive it, and a
/// guest may offer gigabytes.
///
/// # Errors
/// There is nothing to write.
pub fn transmit(console: &Console, chain: &mut Chain<'_>) -> Result<u32, RingError> {
    let length = chain.readable.len();
    if length == 0 {
        return Err(RingError::Shape(chain.head));
    }
    let skipped = length.saturating_sub(RING_BYTES);
    let mut text = chain.readable.split_off(skipped).unwrap_or_default();
    let mut chunk = [0; CHUNK];
    loop {
        match text.drain(&mut chunk) {
            0 => return Ok(0),
            count => console.write(&chunk[..count]),
        }
    }
}

/// Lays what clients typed into the guest's buffers, until either is used up.
///
/// # Errors
/// The driver broke the rules.
pub fn receive(input: &Input, ring: &mut Ring, memory: &GuestMemoryMmap) -> Service {
    let mut chunk = [0; CHUNK];
    for _ in 0..ring.size() {
        if input.is_empty() {
            return Ok(Progress::Done);
        }
        let Some(chain) = ring.pop(memory)? else {
            // Kicks are wanted while buffers lack. The driver may have given some while we asked for them.
            if !ring.want_kicks(memory)? {
                return Ok(Progress::Done);
            }
            continue;
        };
        let room = chain.writable.len().min(CHUNK);
        if room == 0 {
            return Err(RingError::Shape(chain.head));
        }
        let count = input.take(&mut chunk[..room]);
        chain.writable.fill(&chunk[..count]);
        ring.push(memory, chain.head, count as u32)?;
        ring.spare_kicks(memory)?;
    }
    Ok(Progress::More)
}

#[cfg(test)]
mod tests;
