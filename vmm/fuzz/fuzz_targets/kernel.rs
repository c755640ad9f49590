//! The kernel image: refused with a reason, or planned so that the plan can be carried out.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thimble_vmm::boot::image;
use thimble_vmm::layout;

fuzz_target!(|data: &[u8]| {
    match image::plan(data) {
        Err(reason) => assert!(!reason.is_empty()),
        Ok(plan) => {
            for piece in plan.pieces {
                assert!(piece.offset.checked_add(piece.bytes).is_some_and(|end| end <= data.len() as u64));
                assert!(piece.address.checked_add(piece.bytes).is_some_and(|end| end <= plan.end));
                assert!(piece.address >= layout::HIGH_RAM);
            }
        }
    }
});
