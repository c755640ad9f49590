//! An update whose envelope is signed and whose objects are anything: the good slot stays whole, and the other one is on
//! trial only if all of the update is what the envelope says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thimble_spec::slot::Slot;
use thimble_store::{Store, silent, update};
use thimble_store_fuzz::{APPLIANCE, key, partition, release};

fuzz_target!(|data: &[u8]| {
    let (one, other) = data.split_at(data.len() / 2);
    // No object of a release is empty, and equal ones are in an update once.
    let objects = [[b"one", one].concat(), [b"other", other].concat()];
    let contents = objects.each_ref().map(Vec::as_slice);
    let envelope = release(&contents);
    let mut file = [envelope.bytes(), &contents.concat()].concat();
    // The first byte says what is done to it behind the envelope: nothing, a bit, an end.
    let good = match data.first().map(|byte| byte % 3) {
        Some(1) => {
            *file.last_mut().expect("it has content") ^= 1;
            false
        }
        Some(2) => {
            file.pop();
            false
        }
        _ => true,
    };
    let mut store = Store::open(partition()).expect("a good partition");
    let applied = update::apply(&mut store, &file[..], &key(), APPLIANCE, &mut silent);
    assert!(!applied.is_ok() || good, "damage was taken");
    store.verify(Slot::A, &mut silent).expect("the good slot is whole");
    let state = store.state().expect("there is a state");
    assert_eq!(state.good, Slot::A);
    if applied.is_err() {
        assert_eq!(state.next(), Slot::A, "what failed is not started");
    }
});
