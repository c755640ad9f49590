//! A guest's configuration device, which may be anything: its PID 1 reads words or a sentence. With a checksum that is right,
//! what is read is packed to the same words.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thimble_spec::cmdline::GuestParams;
use thimble_spec::names::fnv1a;
use thimble_spec::parameters::{MAGIC, VERSION, pack, read};

fuzz_target!(|data: &[u8]| {
    let header = [&MAGIC[..], &VERSION.to_le_bytes(), &(data.len() as u32).to_le_bytes()].concat();
    let checksum = fnv1a(header.iter().chain(data).copied()).to_le_bytes();
    let sealed = [&header, &checksum[..], data].concat();
    for device in [data, &sealed] {
        let Ok(line) = read(device) else { continue };
        let _ = GuestParams::read(&line);
        if let Ok(again) = pack(&line) {
            assert_eq!(read(&again), Ok(line));
        }
    }
});
