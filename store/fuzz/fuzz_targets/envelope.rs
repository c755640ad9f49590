//! The beginning of an update, which may be anything.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thimble_spec::slot::Slot;
use thimble_store::{Envelope, script};
use thimble_store_fuzz::{APPLIANCE, key, partition};

fuzz_target!(|data: &[u8]| {
    let Ok(envelope) = Envelope::read(data) else { return };
    let _ = envelope.verify(&key(), APPLIANCE);
    assert_eq!(envelope.bytes(), &data[..envelope.bytes().len()], "it is what it was");
    let store = thimble_store::Store::open(partition()).expect("a good partition");
    if let Ok(text) = script::script(envelope.release(), Slot::B, store.volume()) {
        assert!(!text.is_empty());
    }
});
