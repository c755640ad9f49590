//! The line of a request to the API.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| thimble_node::fuzzing::request(data));
