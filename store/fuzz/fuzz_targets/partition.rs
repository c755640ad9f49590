//! A boot partition with some bytes changed: whoever asks it gets an answer or a sentence, and so does an update. Three
//! bytes of the input are a place, the fourth how many bytes are written there, which follow.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thimble_spec::slot::Slot;
use thimble_store::{Store, silent, update};
use thimble_store_fuzz::{APPLIANCE, key, partition, release};

fuzz_target!(|data: &[u8]| {
    let mut device = partition();
    let mut rest = data;
    while let Some(([a, b, c, length], behind)) = rest.split_first_chunk() {
        let (bytes, behind) = behind.split_at(usize::from(*length).min(behind.len()));
        let place = u32::from_le_bytes([*a, *b, *c, 0]) as usize % device.0.len();
        let room = (device.0.len() - place).min(bytes.len());
        device.0[place..place + room].copy_from_slice(&bytes[..room]);
        rest = behind;
    }
    let Ok(mut store) = Store::open(device) else { return };
    let _ = (store.state(), store.objects(), store.free());
    for slot in [Slot::A, Slot::B] {
        let _ = store.verify(slot, &mut silent);
        if let Ok(Some(envelope)) = store.release(slot) {
            for part in envelope.release().parts() {
                let _ = store.object(part, 1 << 16);
            }
        }
    }
    let contents: [&[u8]; 2] = [&[4; 900], &[2; 700]];
    let file = [release(&contents).bytes(), &contents.concat()].concat();
    let _ = update::apply(&mut store, &file[..], &key(), APPLIANCE, &mut silent);
    let _ = store.confirm(Slot::B);
});
