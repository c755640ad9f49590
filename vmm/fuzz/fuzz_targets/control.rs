//! What a client writes to the control socket: understood, or refused with a sentence.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thimble_vmm::control::request;

fuzz_target!(|data: &[u8]| {
    for line in data.split(|byte| *byte == b'\n') {
        if let Err(sentence) = request::parse(line) {
            assert!(!sentence.is_empty() && !sentence.contains('\n'));
        }
    }
});
