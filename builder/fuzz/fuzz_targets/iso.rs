//! An ISO image, which may be any file: an answer or a sentence, in bounded memory. The input is what stands behind the
//! sixteen blocks that the system area takes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thimble_builder::formats::iso::read;
use thimble_builder_fuzz::with_file;

const SYSTEM_AREA: usize = 16 * 2048;

fuzz_target!(|data: &[u8]| {
    with_file(&[&[0; SYSTEM_AREA], data].concat(), |path| {
        let is_one = read::is_iso(path).expect("it can be read");
        let Ok(disc) = read::open(path) else { return };
        assert!(is_one, "what is read as an image is known as one");
        assert!(disc.files.iter().all(|file| file.bytes <= disc.bytes));
    });
});
