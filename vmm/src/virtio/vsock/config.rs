//! What a socket device tells its driver about itself (virtio 1.2, sections 5.10.3 and 5.10.4).

/// Descriptors of the receive, transmit and event queue. The driver fills the first with buffers of a page or so.
pub const QUEUE_SIZES: [u16; 3] = [256, 256, 16];

/// The smallest context identifier of a guest: 2 is the host, those below are reserved (section 5.10.4).
pub const FIRST_CID: u32 = 3;

/// `struct virtio_vsock_config` (section 5.10.4).
pub fn space(cid: u32) -> [u8; 8] {
    u64::from(cid).to_le_bytes()
}
