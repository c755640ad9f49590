//! An ISO 9660 file system taken apart again (ECMA-119; names by Rock Ridge, IEEE P1282): its files, each compared with the
//! sum that the image has of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::SUMS;
use crate::error::{Error, Result};
use crate::{files, interrupt};

/// Bytes of a block; others are not written by anybody.
const BLOCK: u64 = 2048;
/// Block of the first volume descriptor (section 6.2.1).
const DESCRIPTOR: u64 = 16;
/// How deep directories are followed (section 6.8.2.1 has eight levels).
const DEPTH: usize = 8;
/// Longest directory, and most files, that are read: the numbers come from a file that may be anything.
const DIRECTORY_MAX: u64 = 1 << 20;
/// See [`DIRECTORY_MAX`].
const FILES_MAX: usize = 10_000;
/// Longest list of sums.
const SUMS_MAX: u64 = 1 << 20;
/// Bytes of a directory record before its name (section 9.1).
const RECORD: usize = 33;

/// What an image holds.
#[derive(Clone, Debug, Serialize)]
pub struct Disc {
    /// Size in bytes.
    pub bytes: u64,
    /// The volume's label.
    pub label: String,
    /// All files, sorted by path.
    pub files: Vec<Found>,
    /// What is not as it should be, a sentence each.
    pub damage: Vec<String>,
}

/// A file.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// Path from the root.
    pub path: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Whether it was compared with its sum.
    pub compared: bool,
    #[serde(skip)]
    block: u64,
}

/// Whether a file starts like such an image.
///
/// # Errors
/// It cannot be read.
pub fn is_iso(path: &Path) -> Result<bool> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let mut mark = [0; 6];
    Ok(file.read_exact_at(&mut mark, DESCRIPTOR * BLOCK).is_ok() && mark == *b"\x01CD001")
}

/// Reads an image.
///
/// # Errors
/// It is none, it is truncated, its directories are damaged. A file that differs from its sum is told in the answer.
pub fn open(path: &Path) -> Result<Disc> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let bytes = files::size(path)?;
    let wrong = |reason: String| Error::environment(format!("{} {reason}", path.display()));
    let image = Image { file: &file, bytes };
    let (label, root) = image.volume().map_err(wrong)?;
    let mut found = Vec::new();
    image.walk(root, "", DEPTH, &mut found).map_err(wrong)?;
    found.sort_by(|one, other| one.path.cmp(&other.path));
    let mut disc = Disc { bytes, label, files: found, damage: Vec::new() };
    compare(&image, &mut disc, path)?;
    Ok(disc)
}

/// Compares all files that have a sum with it.
fn compare(image: &Image<'_>, disc: &mut Disc, path: &Path) -> Result<()> {
    let shown = path.display();
    let wrong = |reason: String| Error::environment(format!("{shown} {reason}"));
    let Some(list) = disc.files.iter().find(|file| file.path == SUMS && file.bytes <= SUMS_MAX) else {
        disc.damage.push(format!("{shown} has no {SUMS}: nothing in it can be compared"));
        return Ok(());
    };
    let list = image.read(list.block * BLOCK, list.bytes).map_err(wrong)?;
    let list = String::from_utf8_lossy(&list).into_owned();
    let mut sums: BTreeMap<&str, &str> =
        list.lines().filter_map(|line| line.split_once("  ")).map(|(sum, path)| (path, sum)).collect();
    for file in &mut disc.files {
        let Some(sum) = sums.remove(file.path.as_str()) else { continue };
        file.compared = true;
        if image.sha256(file).map_err(Error::io("read", path))? != sum {
            disc.damage.push(format!("{shown}: {} is not what was written: its SHA-256 differs", file.path));
        }
    }
    disc.damage.extend(sums.keys().map(|name| format!("{shown}: {name} is missing")));
    Ok(())
}

struct Image<'a> {
    file: &'a File,
    bytes: u64,
}

impl Image<'_> {
    /// Label, and place and size of the root directory (section 8.4).
    fn volume(&self) -> Result<(String, (u64, u64)), String> {
        let descriptor = self.read(DESCRIPTOR * BLOCK, BLOCK)?;
        let head = descriptor.get(..6).unwrap_or_default();
        if head != b"\x01CD001" || word(&descriptor, 128)? & 0xffff != BLOCK {
            return Err("is no ISO image: it has no volume descriptor".to_owned());
        }
        let size = word(&descriptor, 80)? * BLOCK;
        if size > self.bytes {
            return Err(format!("is truncated: it should have {size} bytes, and has {}", self.bytes));
        }
        let label = String::from_utf8_lossy(descriptor.get(40..72).unwrap_or_default()).trim().to_owned();
        Ok((label, (word(&descriptor, 156 + 2)?, word(&descriptor, 156 + 10)?)))
    }

    fn walk(&self, at: (u64, u64), above: &str, depth: usize, found: &mut Vec<Found>) -> Result<(), String> {
        let (block, size) = at;
        if size > DIRECTORY_MAX {
            return Err(format!("is damaged: its directory /{above} has {size} bytes"));
        }
        let directory = self.read(block * BLOCK, size)?;
        for sector in directory.chunks(BLOCK as usize) {
            let mut rest = sector;
            // A length of zero: the next record is in the next block (section 6.8.1.1).
            while let Some(length @ 1..) = rest.first().map(|length| usize::from(*length)) {
                let damaged = || format!("is damaged: its directory /{above} has a record that is cut off");
                let record = rest.get(..length).filter(|record| record.len() > RECORD).ok_or_else(damaged)?;
                rest = &rest[length..];
                let (place, bytes) = (word(record, 2)?, word(record, 10)?);
                let Some(name) = name(record) else { continue };
                let path = format!("{above}{name}");
                if record[25] & 2 != 0 {
                    if depth > 0 {
                        self.walk((place, bytes), &format!("{path}/"), depth - 1, found)?;
                    }
                } else if place * BLOCK + bytes > self.bytes {
                    return Err(format!("is truncated: {path} ends at byte {}", place * BLOCK + bytes));
                } else if found.len() == FILES_MAX {
                    return Err("is damaged: it has no end of files".to_owned());
                } else {
                    found.push(Found { path, bytes, compared: false, block: place });
                }
            }
        }
        Ok(())
    }

    fn read(&self, at: u64, size: u64) -> Result<Vec<u8>, String> {
        // Nobody asks for more than a directory or a list of sums.
        let mut bytes = vec![0; usize::try_from(size.min(DIRECTORY_MAX)).unwrap_or_default()];
        self.file
            .read_exact_at(&mut bytes, at)
            .map_err(|_| format!("is truncated: it ends before byte {}", at + size))?;
        Ok(bytes)
    }

    fn sha256(&self, file: &Found) -> std::io::Result<String> {
        let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
        let (mut at, end) = (file.block * BLOCK, file.block * BLOCK + file.bytes);
        while at < end && !interrupt::requested() {
            let count = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            self.file.read_exact_at(&mut buffer[..count], at)?;
            hash.update(&buffer[..count]);
            at += count as u64;
        }
        Ok(files::hex(&hash.finalize()))
    }
}

/// A number of 32 bits, which stands there twice, the little end first (section 7.3.3).
fn word(bytes: &[u8], at: usize) -> Result<u64, String> {
    let bytes = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    bytes.map(|bytes| u64::from(u32::from_le_bytes(bytes))).ok_or_else(|| "is damaged: a record is cut off".to_owned())
}

/// The name of a record: Rock Ridge's, else the plain one without its version; none for the directory itself and its
/// parent.
fn name(record: &[u8]) -> Option<String> {
    let length = usize::from(record[32]);
    let plain = record.get(RECORD..RECORD + length)?;
    if matches!(plain, [0 | 1]) {
        return None;
    }
    // Padded to an even place (section 9.1.12).
    let mut fields = record.get(RECORD + length + usize::from(length.is_multiple_of(2))..).unwrap_or_default();
    while let Some(length @ 5..) = fields.get(2).map(|length| usize::from(*length)) {
        let Some(field) = fields.get(..length) else { break };
        if field.starts_with(b"NM") {
            return Some(String::from_utf8_lossy(&field[5..]).into_owned());
        }
        fields = &fields[length..];
    }
    let plain = String::from_utf8_lossy(plain);
    Some(plain.split(';').next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;
    use std::sync::OnceLock;

    /// An image with a sum for one of its files.
    fn image() -> &'static [u8] {
        static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
        IMAGE.get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            let path = |name: &str| dir.path().join(name);
            std::fs::create_dir_all(path("tree/thimble")).unwrap();
            let kernel = vec![0x5a; 5000];
            std::fs::write(path("tree/thimble/modules.cpio.zst"), &kernel).unwrap();
            std::fs::write(path("tree/thimble/bios.img"), b"bios").unwrap();
            let sums = format!("{}  thimble/modules.cpio.zst\n", files::sha256(&kernel));
            std::fs::write(path("tree").join(SUMS), sums).unwrap();
            let mut xorriso = Command::new("xorriso");
            xorriso.args(["-no_rc", "-as", "mkisofs", "-quiet", "-V", "LABEL", "-r", "-o"]).arg(path("iso"));
            assert!(xorriso.arg(path("tree")).output().unwrap().status.success());
            std::fs::read(path("iso")).unwrap()
        })
    }

    fn read(bytes: &[u8]) -> Result<Disc> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("thimble.iso");
        std::fs::write(&path, bytes).unwrap();
        open(&path)
    }

    #[test]
    fn files_are_found_and_compared() {
        let disc = read(image()).unwrap();
        assert_eq!(disc.label, "LABEL");
        let files: Vec<_> = disc.files.iter().map(|file| (file.path.as_str(), file.bytes, file.compared)).collect();
        assert_eq!(
            files,
            [(SUMS, 91, false), ("thimble/bios.img", 4, false), ("thimble/modules.cpio.zst", 5000, true)]
        );
        assert!(disc.damage.is_empty());
    }

    #[test]
    fn an_altered_bit_and_a_cut_are_told_by_name() {
        let mut bytes = image().to_vec();
        let at = bytes.windows(5000).position(|window| window == [0x5a; 5000]).unwrap();
        bytes[at + 2500] ^= 1;
        let damage = read(&bytes).unwrap().damage;
        assert!(
            damage[0].ends_with("thimble.iso: thimble/modules.cpio.zst is not what was written: its SHA-256 differs")
        );
        let told = read(&image()[..image().len() - 2048]).unwrap_err().to_string();
        assert!(told.contains("thimble.iso is truncated"), "{told}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn damage_does_no_harm(at in 0x8000usize..0xd000, to in any::<[u8; 8]>()) {
            let mut bytes = image().to_vec();
            bytes[at..at + 8].copy_from_slice(&to);
            let _ = read(&bytes);
        }
    }
}
