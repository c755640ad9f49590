//! A file of the data partition that is to have a guest's definition.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| thimble_node::fuzzing::kept(data));
