//! The block device, on a file of a few sectors; read-only if the first byte says so.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thimble_spec::vmm::DiskEngine;
use thimble_vmm::virtio::testing::{Driver, block};
use thimble_vmm_fuzz::drive;

fuzz_target!(|data: &[u8]| {
    let read_only = data.first().is_some_and(|byte| byte % 4 == 0);
    let (device, file) = block(read_only, DiskEngine::Sync);
    drive(data, Driver::new(device), |_| {});
    assert_eq!(file.metadata().map(|metadata| metadata.len()).ok(), Some(4096), "no request changes a disk's size");
});
