//! What `thimble hardware` is given.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thimble_builder::machine::lspci;

fuzz_target!(|text: &str| {
    match lspci::parse(text) {
        Ok(devices) => assert!(devices.iter().all(|device| device.modalias().starts_with("pci:v"))),
        Err(sentence) => assert!(!sentence.contains('\n'), "one sentence: {sentence}"),
    }
});
