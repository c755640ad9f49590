//! Guest RAM: its place in the guest's address space, and its mapping in ours.

use std::io;

use thimble_spec::vmm::{Memory, Pages};
use vm_memory::mmap::{MmapRegion, MmapRegionError};
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap};

use crate::error::{Error, Result};
use crate::layout;

/// Bytes in a MiB.
pub const MIB: u64 = 1 << 20;
/// Bytes of a huge page.
const HUGE: usize = 2 << 20;
/// A guest of less memory than this counts its pages: it has small ones only, unless its description says otherwise. One of 64
/// MiB that does nothing would else have 2 MiB more of the host's, for what it touches lies scattered.
const SMALL_MIB: u32 = 128;

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

/// Whether any host could map such memory.
///
/// # Errors
/// There is too little of it, or it is no whole number of its pages.
pub fn check(memory_mib: u32, memory: &Memory) -> Result<()> {
    if memory_mib < 2 {
        return Err(Error::Config(format!("a guest cannot run in {memory_mib} MiB of memory: give it 16 MiB or more")));
    }
    if memory.pages == Pages::Huge && memory_mib % 2 == 1 {
        return Err(Error::Config(format!(
            "{memory_mib} MiB cannot be made of huge pages of 2 MiB: give an even number"
        )));
    }
    Ok(())
}

/// Maps the guest's RAM: private to this process, and without a claim on the host's memory until the guest touches it,
/// but for huge pages, which the host sets aside at once, and with [`Memory::prefault`].
///
/// # Errors
/// No memory given, more than the host's address space holds, or more than it has where it is taken at once.
pub fn map(memory_mib: u32, memory: &Memory) -> Result<GuestMemoryMmap> {
    check(memory_mib, memory)?;
    let huge = memory.pages == Pages::Huge;
    if memory.prefault && !huge {
        check_available(memory_mib)?;
    }
    let mut regions = Vec::new();
    for (start, bytes) in ranges(memory_mib) {
        let region =
            if huge { map_huge(bytes, memory_mib)? } else { map_aligned(bytes).map_err(Error::memory("map"))? };
        if memory.pages == Pages::Transparent {
            advise(&region, region.size(), libc::MADV_HUGEPAGE)
                .map_err(Error::host("ask for transparent huge pages"))?;
        } else if !huge && start.0 == 0 {
            // A few pages of the first megabyte are ever used; a whole huge page would have to be cleared for them. A
            // host without such pages does not know the advice, and does not need it.
            let small = if memory_mib < SMALL_MIB { region.size() } else { HUGE };
            let _ = advise(&region, small, libc::MADV_NOHUGEPAGE);
        }
        if memory.prefault {
            populate(&region).map_err(Error::host("take all of the guest's memory at its start"))?;
        }
        regions.extend(GuestRegionMmap::new(region, start));
    }
    GuestMemoryMmap::from_regions(regions).map_err(Error::memory("map"))
}

/// Whether such memory can have pages that are the host's page cache: files' pages are small ones, and are not the
/// guest's own before it writes.
pub fn is_shared(memory: &Memory) -> bool {
    memory.pages == Pages::Default && !memory.prefault
}

/// Bytes of the host's pages behind such memory: what it can be given back in.
pub fn page_bytes(memory: &Memory) -> usize {
    if memory.pages == Pages::Huge { HUGE } else { 4096 }
}

fn map_region(bytes: usize, flags: libc::c_int) -> std::result::Result<MmapRegion, MmapRegionError> {
    let flags = libc::MAP_ANONYMOUS | libc::MAP_PRIVATE | flags;
    MmapRegion::build(None, bytes, libc::PROT_READ | libc::PROT_WRITE, flags)
}

/// Maps memory that begins with a huge page if the host can be brought to it: only then can the processor map the
/// guest's large pages by large pages. Linux does so by itself from 6.7 on.
fn map_aligned(bytes: usize) -> std::result::Result<MmapRegion, MmapRegionError> {
    let region = map_region(bytes, libc::MAP_NORESERVE)?;
    let surplus = region.as_ptr() as usize % HUGE;
    if surplus == 0 || bytes < HUGE {
        return Ok(region);
    }
    // Linux maps downwards: with so much in the place where this one ended, the next begins with a huge page. Should
    // the filler have found a hole elsewhere, the guest is a little slower.
    drop(region);
    let _filler = map_region(surplus, libc::MAP_NORESERVE)?;
    map_region(bytes, libc::MAP_NORESERVE)
}

fn map_huge(bytes: usize, memory_mib: u32) -> Result<MmapRegion> {
    let sized = libc::MAP_HUGETLB | libc::MAP_HUGE_2MB;
    map_region(bytes, sized).map_err(|error| match error {
        MmapRegionError::Mmap(error) if error.raw_os_error() == Some(libc::ENOMEM) => Error::Config(format!(
            "the host has too few huge pages of 2 MiB for {memory_mib} MiB of memory: set aside {} more, by sysctl \
             vm.nr_hugepages",
            memory_mib / 2
        )),
        error => Error::Memory { action: "map", reason: error.to_string() },
    })
}

/// Advises the host on the first `bytes` of `region`, or on all of it if it is shorter.
fn advise(region: &MmapRegion, bytes: usize, advice: libc::c_int) -> io::Result<()> {
    // SAFETY: the region is mapped, and none of the advices given here changes what it holds.
    match unsafe { libc::madvise(region.as_ptr().cast(), bytes.min(region.size()), advice) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has the host give all pages now.
fn populate(region: &MmapRegion) -> io::Result<()> {
    let outcome = advise(region, region.size(), libc::MADV_POPULATE_WRITE);
    match outcome {
        // Linux before 5.14: a byte of each page is written.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            for offset in (0..region.size()).step_by(4096) {
                // SAFETY: the byte is in the region, which nobody else knows yet.
                unsafe { region.as_ptr().add(offset).write_volatile(0) };
            }
            Ok(())
        }
        outcome => outcome,
    }
}

/// Refuses to take more memory than the host has, before the host kills somebody for it.
fn check_available(memory_mib: u32) -> Result<()> {
    // A host that does not tell is not asked.
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    match available_mib(&text) {
        Some(available) if available < u64::from(memory_mib) => Err(Error::Config(format!(
            "the guest's {memory_mib} MiB of memory cannot be taken at its start: the host has {available} MiB left"
        ))),
        _ => Ok(()),
    }
}

/// The MiB that can be taken without swapping (`MemAvailable`, Linux `Documentation/filesystems/proc.rst`).
fn available_mib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kib / 1024)
}

/// What a kernel may use: an address and a length each. The rest of the first megabyte is left to what stands there
/// on a PC; our ACPI tables or our MP table are in it.
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
    use vm_memory::Bytes;

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

    #[test]
    fn taken_memory_is_zero() {
        for pages in [Pages::Default, Pages::Transparent] {
            let memory = map(7, &Memory { pages, prefault: true }).unwrap();
            assert_eq!(memory.read_obj::<u64>(GuestAddress((7 << 20) - 8)).unwrap(), 0);
        }
    }

    #[test]
    fn what_is_not_there_is_missed_at_once() {
        let refusal = |mib, memory| map(mib, &memory).unwrap_err().sentence();
        assert!(refusal(1, Memory::default()).contains("give it 16 MiB or more"));
        let huge = Memory { pages: Pages::Huge, prefault: false };
        assert!(refusal(3, huge).contains("give an even number"));
        // No host of ours has set aside half of a TiB.
        let sentence = refusal(1 << 19, huge);
        assert!(sentence.ends_with("set aside 262144 more, by sysctl vm.nr_hugepages"), "{sentence}");
        let prefault = Memory { prefault: true, ..Memory::default() };
        assert!(refusal(u32::MAX, prefault).contains("cannot be taken at its start"));
        assert_eq!(available_mib("MemTotal: 9 kB\nMemAvailable:    4096 kB\n"), Some(4));
        assert_eq!(available_mib("MemAvailable: many"), None);
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
