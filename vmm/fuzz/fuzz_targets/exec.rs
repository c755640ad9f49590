//! What is said about a command in a guest, by either side, may be anything: it is read as frames, which are written again so that
//! they read the same, or not read at all, however it comes in pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thimble_spec::exec::{Frame, Frames};

/// The frames of pieces, and whether something else came.
fn heard<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Frame>, bool) {
    let (mut frames, mut heard) = (Frames::default(), Vec::new());
    for piece in pieces {
        frames.feed(piece);
        loop {
            match frames.take() {
                Ok(Some(frame)) => heard.push(frame),
                Ok(None) => break,
                Err(_) => return (heard, true),
            }
        }
    }
    (heard, false)
}

fuzz_target!(|data: &[u8]| {
    let whole = heard([data].into_iter());
    assert_eq!(heard(data.chunks(1)), whole);
    for frame in &whole.0 {
        let again = frame.write().expect("it was read");
        assert_eq!(heard([&again[..]].into_iter()), (vec![frame.clone()], false));
    }
});
