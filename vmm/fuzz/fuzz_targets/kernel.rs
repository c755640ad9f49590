//! The kernel image: loaded, or refused with a sentence.
#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use thimble_vmm::boot::kernel;
use thimble_vmm::virtio::testing::scratch_file;
use vm_memory::{GuestAddress, GuestMemoryMmap};

fuzz_target!(|data: &[u8]| {
    let Ok(memory) = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 32 << 20)]) else { return };
    let (mut file, path) = scratch_file();
    if file.write_all(data).is_ok()
        && let Err(error) = kernel::load(&memory, &path)
    {
        assert!(!error.sentence().is_empty());
    }
});
