//! The definition of a guest, as a client puts it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| thimble_node::fuzzing::definition(data));
