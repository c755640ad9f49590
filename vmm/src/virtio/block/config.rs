//! What a block device tells its driver about itself (virtio 1.2, sections 5.2.3 and 5.2.4).

use super::geometry::Geometry;

/// Most segments of a request are given (section 5.2.3).
pub const F_SEG_MAX: u64 = 1 << 2;
/// The device is read-only.
pub const F_RO: u64 = 1 << 5;
/// The block size is given.
pub const F_BLK_SIZE: u64 = 1 << 6;
/// The sizes of the host's blocks are given.
pub const F_TOPOLOGY: u64 = 1 << 10;
/// Flush is supported, which makes the device one with a volatile write cache.
pub const F_FLUSH: u64 = 1 << 9;
/// There are several queues.
pub const F_MQ: u64 = 1 << 12;
/// Discard is supported.
pub const F_DISCARD: u64 = 1 << 13;
/// Write zeroes is supported.
pub const F_WRITE_ZEROES: u64 = 1 << 14;

/// Bytes of a sector: the unit of the capacity and of all positions, whatever the block size (section 5.2.4).
pub const SECTOR: u64 = 512;
/// Descriptors of a request queue.
pub const QUEUE_SIZE: u16 = 256;
/// Most request queues.
pub const QUEUES_MAX: u8 = 16;
/// Most sectors that one discard or write-zeroes segment names: 1 GiB.
pub const MAX_ERASE_SECTORS: u32 = (1 << 30) / SECTOR as u32;

/// `struct virtio_blk_config` up to `write_zeroes_may_unmap` and its padding (section 5.2.4), for a disk of `sectors`.
pub fn space(sectors: u64, geometry: Geometry, queues: u16) -> [u8; 60] {
    let mut space = [0; 60];
    let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &sectors.to_le_bytes());
    // seg_max: a header and a status take two descriptors.
    put(12, &u32::from(QUEUE_SIZE - 2).to_le_bytes());
    // blk_size
    put(20, &geometry.logical.to_le_bytes());
    // topology: physical_block_exp, alignment_offset, min_io_size in blocks; what is best (opt_io_size) is not known
    put(24, &[geometry.exponent(), 0]);
    put(26, &(1u16 << geometry.exponent()).to_le_bytes());
    // num_queues
    put(34, &queues.to_le_bytes());
    // max_discard_sectors, max_discard_seg, discard_sector_alignment
    put(36, &MAX_ERASE_SECTORS.to_le_bytes());
    put(40, &1u32.to_le_bytes());
    put(44, &(geometry.physical / SECTOR as u32).to_le_bytes());
    // max_write_zeroes_sectors, max_write_zeroes_seg, write_zeroes_may_unmap
    put(48, &MAX_ERASE_SECTORS.to_le_bytes());
    put(52, &1u32.to_le_bytes());
    put(56, &[1]);
    space
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_specification_puts_them() {
        let space = space(0x0102_0304_0506, Geometry { logical: 1024, physical: 4096 }, 3);
        assert_eq!(space[..8], [6, 5, 4, 3, 2, 1, 0, 0]);
        assert_eq!(space[12..16], [254, 0, 0, 0]);
        assert_eq!(space[20..24], [0, 4, 0, 0]);
        assert_eq!(space[24..32], [2, 0, 4, 0, 0, 0, 0, 0]);
        assert_eq!(space[34..36], [3, 0]);
        assert_eq!(space[36..40], [0, 0, 0x20, 0]);
        assert_eq!(space[44..48], [8, 0, 0, 0]);
        assert_eq!(space[56], 1);
    }
}
