//! The network device, on a wire whose other end sends what it likes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thimble_vmm::virtio::testing::{Driver, net};
use thimble_vmm_fuzz::drive;

fuzz_target!(|data: &[u8]| {
    let (device, wire) = net();
    drive(data, Driver::new(device), |bytes| {
        // A wire that is full drops packets.
        let _ = wire.send(bytes);
    });
});
