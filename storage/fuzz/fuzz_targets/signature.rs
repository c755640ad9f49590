//! A small device, which may hold anything: it is told what is there, and what is not blank is never called so. Three bytes
//! of the input are a place, the fourth how many bytes are written there, which follow.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thimble_storage::signature::{Found, recognize};

/// Bytes of the device: its first MiB is its last one, too, and has the place of every signature that is known.
const SIZE: usize = 160 << 10;

fuzz_target!(|data: &[u8]| {
    let mut device = vec![0; SIZE];
    let mut rest = data;
    while let Some(([a, b, c, length], behind)) = rest.split_first_chunk() {
        let (bytes, behind) = behind.split_at(usize::from(*length).min(behind.len()));
        let place = u32::from_le_bytes([*a, *b, *c, 0]) as usize % SIZE;
        let room = (SIZE - place).min(bytes.len());
        device[place..place + room].copy_from_slice(&bytes[..room]);
        rest = behind;
    }
    let found = recognize(&device, &device, SIZE as u64);
    assert_eq!(found.blank, device.iter().all(|byte| *byte == 0), "whatever is there is something");
    assert!(!found.blank || found == Found::nothing());
    assert!(!found.describe().contains('\n'), "one line for the administrator");
});
