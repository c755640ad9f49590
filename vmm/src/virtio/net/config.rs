//! What a network device tells its driver about itself (virtio 1.2, sections 5.1.3 and 5.1.4).

use thimble_spec::names::Mac;

/// The driver may leave a packet's checksum to the device (section 5.1.3).
pub const F_CSUM: u64 = 1 << 0;
/// The driver takes packets with partial checksums: what guests on the same host send each other.
pub const F_GUEST_CSUM: u64 = 1 << 1;
/// The device has an address.
pub const F_MAC: u64 = 1 << 5;
/// The driver takes segments of TCP over IPv4 larger than the wire's.
pub const F_GUEST_TSO4: u64 = 1 << 7;
/// The same over IPv6.
pub const F_GUEST_TSO6: u64 = 1 << 8;
/// The driver may send segments of TCP over IPv4 larger than the wire's.
pub const F_HOST_TSO4: u64 = 1 << 11;
/// The same over IPv6.
pub const F_HOST_TSO6: u64 = 1 << 12;
/// A received packet may fill several buffers, so that large ones do not make all of them large.
pub const F_MRG_RXBUF: u64 = 1 << 15;

/// What the device offers.
pub const FEATURES: u64 =
    F_CSUM | F_GUEST_CSUM | F_MAC | F_GUEST_TSO4 | F_GUEST_TSO6 | F_HOST_TSO4 | F_HOST_TSO6 | F_MRG_RXBUF;

/// Descriptors of the receive and the transmit queue.
pub const QUEUE_SIZES: [u16; 2] = [256, 256];

/// `struct virtio_net_config` up to `mac` (section 5.1.4).
pub fn space(mac: Mac) -> [u8; 6] {
    mac.0
}
