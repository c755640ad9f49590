//! The request queue (virtio 1.2, section 5.4.6): buffers to fill.

use crate::virtio::ring::{Chain, RingError};

/// Descriptors of the queue: Linux has one buffer on its way at a time.
pub const SIZE: u16 = 16;

/// Most bytes for one buffer. A driver that wants more asks again; the device need not fill a buffer (section 5.4.6.2).
const MOST: usize = 256;

/// Fills the beginning of the chain's buffers.
///
/// # Errors
/// There is nothing to fill.
pub fn answer(chain: &mut Chain<'_>) -> Result<u32, RingError> {
    if chain.writable.is_empty() {
        return Err(RingError::Shape(chain.head));
    }
    let mut bytes = [0u8; MOST];
    let wanted = chain.writable.len().min(MOST);
    // SAFETY: the buffer has `wanted` bytes. Up to 256 bytes come whole and without interruption (getrandom(2)).
    let count = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), wanted, 0) };
    let count = usize::try_from(count).unwrap_or(0);
    Ok(chain.writable.fill(&bytes[..count]) as u32)
}
