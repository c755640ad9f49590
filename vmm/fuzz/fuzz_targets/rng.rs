//! The entropy device.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thimble_vmm::virtio::rng::Rng;
use thimble_vmm::virtio::testing::Driver;
use thimble_vmm_fuzz::drive;

fuzz_target!(|data: &[u8]| drive(data, Driver::new(Rng), |_| {}));
