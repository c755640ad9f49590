//! The console, at which somebody types.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thimble_vmm::virtio::testing::{Driver, console};
use thimble_vmm_fuzz::drive;

fuzz_target!(|data: &[u8]| {
    let (device, input) = console();
    drive(data, Driver::new(device), |bytes| {
        // What there is no room for is lost.
        let _ = input.put(bytes);
    });
});
