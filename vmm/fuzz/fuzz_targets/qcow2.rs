//! A qcow2 image that may be anything, and a driver that reads and writes the disk in it. The first two bytes say how
//! long the image is; behind it are the driver's moves.
#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use thimble_spec::vmm::{Disk, DiskFormat};
use thimble_vmm::virtio::block::Block;
use thimble_vmm::virtio::testing::{Driver, scratch_file};
use thimble_vmm_fuzz::drive;

fuzz_target!(|data: &[u8]| {
    let Some(([low, high], rest)) = data.split_first_chunk() else { return };
    let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
    let (image, moves) = rest.split_at(length);
    let (mut file, path) = scratch_file();
    if file.write_all(image).is_err() {
        return;
    }
    // A file that the image names is looked for by every other run, and never found.
    let backing = (length % 2 == 1).then(|| "/nowhere".into());
    let description = Disk { path, format: DiskFormat::Qcow2, backing, ..Disk::default() };
    match Block::open(&description, 0) {
        Ok(device) => drive(moves, Driver::new(device), |_| {}),
        Err(error) => assert!(!error.sentence().is_empty()),
    }
});
