//! What a console tells its driver about itself (virtio 1.2, sections 5.3.3 and 5.3.4).

/// The size of the console is in its configuration space (section 5.3.3).
pub const F_SIZE: u64 = 1 << 0;

/// What the device offers.
pub const FEATURES: u64 = F_SIZE;

/// Descriptors of the receive and the transmit queue.
pub const QUEUE_SIZES: [u16; 2] = [64, 64];

/// Columns and rows: nobody tells a VMM how large its clients' windows are, so it is the size of old.
const SIZE: [u16; 2] = [80, 25];

/// `struct virtio_console_config` up to `rows` (section 5.3.4); the rest belongs to features that are not offered.
pub fn space() -> [u8; 4] {
    let [columns, rows] = SIZE.map(u16::to_le_bytes);
    [columns[0], columns[1], rows[0], rows[1]]
}
