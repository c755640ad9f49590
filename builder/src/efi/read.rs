//! A UEFI program's file, read whole: what its sections hold, and whether it is what was written.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::pe::{Checksum, HEAD_MAX, Headers};
use crate::error::{Error, Result};
use crate::{files, interrupt};

/// A program.
#[derive(Clone, Debug)]
pub struct Program {
    /// Size of the file in bytes.
    pub bytes: u64,
    /// Its headers.
    pub headers: Headers,
    /// SHA-256 of each section's content, in the order of the sections.
    pub sha256: Vec<String>,
}

impl Program {
    /// Reads a program.
    ///
    /// # Errors
    /// It is none, it is truncated, its checksum does not fit its content.
    pub fn open(path: &Path) -> Result<Self> {
        let wrong = |reason: String| Error::environment(format!("{} {reason}", path.display()));
        let bytes = files::size(path)?;
        let mut head = Vec::new();
        File::open(path)
            .and_then(|file| file.take(HEAD_MAX as u64).read_to_end(&mut head))
            .map_err(Error::io("read", path))?;
        let headers = Headers::parse(&head, bytes).map_err(wrong)?;

        let field = headers.checksum_offset();
        let mut sum = Checksum::default();
        let mut hashes = vec![Sha256::new(); headers.sections.len()];
        let mut at = 0;
        files::copy(path, &mut |chunk| {
            interrupt::check()?;
            sum.push(chunk, field);
            for (section, hash) in headers.sections.iter().zip(&mut hashes) {
                let content = section.content();
                let end = at + chunk.len() as u64;
                let (from, to) = (content.start.clamp(at, end), content.end.clamp(at, end));
                hash.update(&chunk[(from - at) as usize..(to - at) as usize]);
            }
            at += chunk.len() as u64;
            Ok(())
        })?;
        if sum.finish() != headers.checksum {
            let (told, is) = (headers.checksum, sum.finish());
            return Err(wrong(format!("is damaged: its checksum is {is:08x}, and its header says {told:08x}")));
        }
        let sha256 = hashes.into_iter().map(|hash| files::hex(&hash.finalize())).collect();
        Ok(Self { bytes, headers, sha256 })
    }

    /// SHA-256 of a section's content.
    pub fn section_sha256(&self, name: &str) -> Option<&str> {
        let index = self.headers.sections.iter().position(|section| section.name == name)?;
        self.sha256.get(index).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::efi::testing::program;

    #[test]
    fn a_single_altered_bit_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program.efi");
        let whole = program(&[(".text", b"code"), (".data", &[7; 600])]);
        std::fs::write(&path, &whole).unwrap();
        let found = Program::open(&path).unwrap();
        assert_eq!(found.section_sha256(".text"), Some(files::sha256(b"code").as_str()));
        assert_eq!(found.section_sha256(".data"), Some(files::sha256(&[7; 600]).as_str()));
        assert_eq!(found.section_sha256(".none"), None);
        for at in [600, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            let told = Program::open(&path).unwrap_err().to_string();
            assert!(told.contains("program.efi is damaged: its checksum is"), "{told}");
        }
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert!(Program::open(&path).unwrap_err().to_string().contains("program.efi is truncated"));
    }
}
