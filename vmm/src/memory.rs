//! Guest RAM: its place in the guest's address space, and its mapping in ours.

use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::error::{Error, Result};
use crate::layout;

/// Bytes in a MiB.
const MIB: u64 = 1 << 20;

/// Where `memory_mib` of RAM lie: in one piece, or with a hole below 4 GiB for the devices.
pub fn ranges(memory_mib: u32) -> Vec<(GuestAddress, usize)> {
    let size = u64::from(memory_mib) * MIB;
    let low = size.min(layout::LOW_RAM_END);
    let mut ranges = vec![(GuestAddress(0), low as usize)];
    if size > low {
        ranges.push((GuestAddress(layout::FOUR_GIB), (size - low) as usize));
    }
    ranges
}

/// Maps the guest's RAM. The host gives pages as the guest touches them.
///
/// # Errors
/// No memory given, or more than the host's address space holds.
pub fn map(memory_mib: u32) -> Result<GuestMemoryMmap> {
    if memory_mib < 2 {
        return Err(Error::Config(format!("a guest cannot run in {memory_mib} MiB of memory: give it 16 MiB or more")));
    }
    GuestMemoryMmap::from_ranges(&ranges(memory_mib)).map_err(Error::memory("map"))
}

/// What a kernel may use: an address and a length each. The rest of the first megabyte is left to what stands there
/// on a PC; our MP table is in it.
pub fn usable(memory_mib: u32) -> Vec<(u64, u64)> {
    let mut usable = vec![(0, layout::CONVENTIONAL_END)];
    for (start, length) in ranges(memory_mib) {
        let end = start.0 + length as u64;
        let start = start.0.max(layout::HIGH_RAM);
        usable.push((start, end - start));
    }
    usable
}

/// The first address behind the RAM below 4 GiB.
pub fn low_end(memory_mib: u32) -> u64 {
    (u64::from(memory_mib) * MIB).min(layout::LOW_RAM_END)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_small_guest_has_one_piece() {
        assert_eq!(ranges(128), [(GuestAddress(0), 128 << 20)]);
        assert_eq!(usable(128), [(0, 0x9_fc00), (0x10_0000, 127 << 20)]);
    }

    #[test]
    fn beyond_3_gib_there_is_a_hole() {
        assert_eq!(ranges(3072).len(), 1);
        assert_eq!(ranges(4096), [(GuestAddress(0), 3 << 30), (GuestAddress(4 << 30), 1 << 30)]);
        assert_eq!(low_end(4096), 3 << 30);
    }

    proptest! {
        #[test]
        fn no_byte_is_lost_and_none_is_where_devices_are(memory_mib in 2u32..=u32::MAX) {
            let ranges = ranges(memory_mib);
            let sum: u64 = ranges.iter().map(|(_, length)| *length as u64).sum();
            prop_assert_eq!(sum, u64::from(memory_mib) << 20);
            for (start, length) in ranges {
                let end = start.0 + length as u64;
                prop_assert!(end <= layout::LOW_RAM_END || start.0 >= layout::FOUR_GIB);
            }
        }
    }
}
