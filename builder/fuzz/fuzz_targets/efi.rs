//! A UEFI program, which may be any file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thimble_builder::efi::pe::Headers;
use thimble_builder::efi::read::Program;
use thimble_builder_fuzz::with_file;

fuzz_target!(|data: &[u8]| {
    let length = data.len() as u64;
    let Ok(headers) = Headers::parse(data, length) else { return };
    assert!(headers.sections.iter().all(|section| section.content().end <= length));
    assert!(headers.file_end() <= length.max(headers.size as u64));
    with_file(data, |path| {
        // The checksum is rarely right: then that is the sentence.
        if let Ok(program) = Program::open(path) {
            assert_eq!(program.sha256.len(), program.headers.sections.len());
        }
    });
});
