//! The transmit and the receive queue (virtio 1.2, section 5.10.6). The event queue is for guests that were moved to
//! another host, which these are not.

use vm_memory::GuestMemoryMmap;

use super::packet::{HEADER_BYTES, Header};
use super::table::Table;
use crate::virtio::ring::{Chain, Ring, RingError};
use crate::virtio::{Progress, Service};

/// Takes packets from the guest until there are none, or the guest must take some itself first.
///
/// # Errors
/// The driver broke the rules.
pub fn transmit(table: &mut Table, ring: &mut Ring, memory: &GuestMemoryMmap) -> Service {
    ring.spare_kicks(memory)?;
    for _ in 0..ring.size() {
        if table.is_backed_up() {
            return Ok(Progress::Done);
        }
        match ring.pop(memory)? {
            Some(chain) => {
                let head = chain.head;
                hear(table, chain)?;
                ring.push(memory, head, 0)?;
            }
            None if ring.want_kicks(memory)? => ring.spare_kicks(memory)?,
            None => return Ok(Progress::Done),
        }
    }
    Ok(Progress::More)
}

fn hear(table: &mut Table, mut chain: Chain<'_>) -> Result<(), RingError> {
    let shape = RingError::Shape(chain.head);
    let Some(header) = chain.readable.take().map(|bytes| Header::from_bytes(&bytes)) else { return Err(shape) };
    let mut data = chain.readable;
    if data.split_off(header.length as usize).is_none() {
        return Err(shape);
    }
    table.hear(&header, data);
    Ok(())
}

/// Lays what waits for the guest into its buffers, until either is used up.
///
/// # Errors
/// The driver broke the rules.
pub fn receive(table: &mut Table, ring: &mut Ring, memory: &GuestMemoryMmap) -> Service {
    for _ in 0..ring.size() {
        if !table.has_news() {
            return Ok(Progress::Done);
        }
        let Some(mut chain) = ring.pop(memory)? else {
            // Kicks are wanted while buffers lack. The driver may have given some while we asked for them.
            if !ring.want_kicks(memory)? {
                return Ok(Progress::Done);
            }
            continue;
        };
        let payload = chain.writable.split_off(HEADER_BYTES).filter(|payload| !payload.is_empty());
        let payload = payload.ok_or(RingError::Shape(chain.head))?;
        let Some(header) = table.fill(&payload) else {
            ring.unpop(1);
            return Ok(Progress::Done);
        };
        chain.writable.fill(&header.to_bytes());
        ring.push(memory, chain.head, HEADER_BYTES as u32 + header.length)?;
        ring.spare_kicks(memory)?;
    }
    Ok(Progress::More)
}

#[cfg(test)]
mod tests;
