//! Ranges of guest memory on their way back to the host.

use std::ops::Range;

use vm_memory::VolatileSlice;

/// Ranges of the VMM's address space that hold guest memory which the guest has given away.
#[derive(Debug, Default)]
pub struct Ranges(Vec<Range<usize>>);

impl Ranges {
    /// Adds a piece of guest memory.
    pub fn add(&mut self, piece: &VolatileSlice<'_>) {
        let start = piece.ptr_guard_mut().as_ptr() as usize;
        self.0.push(start..start + piece.len());
    }

    /// Gives the host all pages of `page` bytes that lie in these ranges as a whole, in as few calls as can be.
    pub fn discard(self, page: usize) {
        for range in whole_pages(merge(self.0), page) {
            // SAFETY: the range lies in pieces of guest memory, which stay mapped for longer than the device lives, and
            // nothing of ours is in them: what they hold is the guest's, who has said that it is worth nothing.
            unsafe { libc::madvise(range.start as *mut libc::c_void, range.len(), libc::MADV_DONTNEED) };
            // An advice: a host that does not take it keeps the pages, as if the guest had not offered them.
        }
    }
}

/// The same bytes in as few ranges as can be, in ascending order.
fn merge(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// The pages that are in `ranges` as a whole. Of a huge page the host takes all or nothing, and older kernels take more
/// than they are told to.
fn whole_pages(ranges: Vec<Range<usize>>, page: usize) -> impl Iterator<Item = Range<usize>> {
    let whole = move |range: Range<usize>| range.start.next_multiple_of(page)..range.end / page * page;
    ranges.into_iter().map(whole).filter(|range| !range.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn only_whole_pages_go() {
        let whole = |start, end| whole_pages(std::iter::once(start..end).collect(), 0x1000).next();
        assert_eq!(whole(0x1001, 0x3fff), Some(0x2000..0x3000));
        assert_eq!(whole(0x1000, 0x3000), Some(0x1000..0x3000));
        assert_eq!(whole(0x1001, 0x2fff), None);
    }

    proptest! {
        #[test]
        fn merging_keeps_every_byte_and_leaves_gaps(pieces in prop::collection::vec((0usize..200, 1usize..20), 0..20)) {
            let ranges: Vec<_> = pieces.into_iter().map(|(start, length)| start..start + length).collect();
            let bytes = |ranges: &[Range<usize>]| ranges.iter().cloned().flatten().collect::<BTreeSet<_>>();
            let merged = merge(ranges.clone());
            prop_assert_eq!(bytes(&ranges), bytes(&merged));
            prop_assert!(merged.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }
}
