//! `thimble.iso` and `thimble.efi` taken apart again, whatever wrote them.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Serialize;

use super::iso::read::{self as iso, Disc};
use crate::efi::read::Program;
use crate::error::{Error, Result};

/// What a file is.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Medium {
    /// An ISO image.
    Iso(Disc),
    /// A program for UEFI firmware.
    Program(Sections),
}

/// What a program holds.
#[derive(Clone, Debug, Serialize)]
pub struct Sections {
    /// Size in bytes.
    pub bytes: u64,
    /// Its sections, in their order.
    pub sections: Vec<Section>,
    /// Bytes of its signatures.
    pub signatures: u64,
}

/// A section.
#[derive(Clone, Debug, Serialize)]
pub struct Section {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// SHA-256 of its content.
    pub sha256: String,
}

/// Reads a file, if it is one of these.
///
/// # Errors
/// It is truncated or damaged.
pub fn open(path: &Path) -> Result<Option<Medium>> {
    let mut mark = Vec::new();
    File::open(path).and_then(|file| file.take(2).read_to_end(&mut mark)).map_err(Error::io("read", path))?;
    if mark == *b"MZ" {
        return Ok(Some(Medium::Program(sections(&Program::open(path)?))));
    }
    Ok(if iso::is_iso(path)? { Some(Medium::Iso(iso::open(path)?)) } else { None })
}

fn sections(program: &Program) -> Sections {
    let of = program.headers.sections.iter().zip(&program.sha256);
    let sections = of.map(|(section, sha256)| Section {
        name: section.name.clone(),
        bytes: u64::from(section.size),
        sha256: sha256.clone(),
    });
    let certificates = &program.headers.certificates;
    Sections {
        bytes: program.bytes,
        sections: sections.collect(),
        signatures: certificates.end.saturating_sub(certificates.start),
    }
}

impl Medium {
    /// What is in it, for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        match self {
            Self::Iso(Disc { bytes, label, files, .. }) => {
                let _ = writeln!(text, "an ISO image of {bytes} bytes, {label}\n\n       bytes  file");
                for file in files {
                    let _ = writeln!(text, "{:>12}  {}", file.bytes, file.path);
                }
            }
            Self::Program(Sections { bytes, sections, signatures }) => {
                let signed = match signatures {
                    0 => "not signed".to_owned(),
                    bytes => format!("with {bytes} bytes of signatures"),
                };
                let _ = writeln!(text, "a UEFI program of {bytes} bytes, {signed}, its checksum right\n");
                text.push_str("       bytes  section\n");
                for section in sections {
                    let _ = writeln!(text, "{:>12}  {}", section.bytes, section.name);
                }
            }
        }
        text
    }

    /// What is not as it should be, a sentence each.
    pub fn damage(&self) -> Vec<String> {
        match self {
            Self::Iso(disc) => disc.damage.clone(),
            Self::Program(_) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::efi::testing::program;

    #[test]
    fn programs_are_shown_and_disks_are_left_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, program(&[(".linux", b"kernel")])).unwrap();
        let text = open(&path).unwrap().unwrap().text();
        assert_eq!(
            text,
            "a UEFI program of 1536 bytes, not signed, its checksum right\n\n\x20      bytes  section\n\
             \x20          6  .linux\n"
        );
        for other in [&b""[..], &[0; 40_000]] {
            std::fs::write(&path, other).unwrap();
            assert!(open(&path).unwrap().is_none());
        }
    }
}
