//! The balloon, whose target changes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thimble_vmm::virtio::testing::{Driver, balloon};
use thimble_vmm_fuzz::drive;

fuzz_target!(|data: &[u8]| {
    let (device, metrics) = balloon();
    drive(data, Driver::new(device), |bytes| {
        metrics.set_target_mib(bytes.first().copied().unwrap_or_default().into());
    });
});
