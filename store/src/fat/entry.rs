//! Directory entries: short names only, 32 bytes each (FAT: General Overview of On-Disk Format 1.03, section 6).

use std::cmp::Ordering;

use super::ENTRY;

/// Attribute of a directory.
const DIRECTORY: u8 = 0x10;
/// Attribute of the volume's label; a part of a long name has it too, with three others.
const VOLUME: u8 = 0x08;
/// Attribute of a file that was changed since the last backup: all files are made with it.
const ARCHIVE: u8 = 0x20;
/// Windows NT's and Linux's flags for a name and an extension in lower case.
const LOWER: u8 = 0x18;
/// First byte of an entry that is free although others follow.
const FREE: u8 = 0xe5;
/// 1 January 1980, the first day that FAT knows: the date of all files.
const FIRST_DAY: [u8; 2] = [0x21, 0x00];

/// Eight letters and three, filled with spaces, in upper case; compared as such.
#[derive(Clone, Copy, Debug)]
pub struct Name {
    letters: [u8; 11],
    /// Whether people see it in lower case.
    lower: bool,
}

impl Name {
    /// A directory's name for itself.
    pub const DOT: Self = Self { letters: *b".          ", lower: false };
    /// A directory's name for the one that it is in.
    pub const DOT_DOT: Self = Self { letters: *b"..         ", lower: false };

    /// The name `BASE.EXTENSION`, of letters and digits of one case or the other; none if it does not fit.
    pub fn new(text: &str) -> Option<Self> {
        let (base, extension) = text.split_once('.').unwrap_or((text, ""));
        let fits = |part: &str, most| part.len() <= most && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if base.is_empty() || !fits(base, 8) || !fits(extension, 3) {
            return None;
        }
        let mut letters = [b' '; 11];
        letters[..base.len()].copy_from_slice(base.as_bytes());
        letters[8..8 + extension.len()].copy_from_slice(extension.as_bytes());
        let lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        letters.make_ascii_uppercase();
        Some(Self { letters, lower })
    }

    /// The letters, without dot and spaces, in lower case.
    pub fn letters(&self) -> String {
        self.letters.iter().filter(|byte| **byte != b' ').map(|byte| char::from(byte.to_ascii_lowercase())).collect()
    }

    /// Whether it is `.` or `..`.
    pub fn is_dots(&self) -> bool {
        self.letters[0] == b'.'
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.letters == other.letters
    }
}

impl Eq for Name {}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        self.letters.cmp(&other.letters)
    }
}

/// A file or directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: Name,
    /// Whether it is a directory.
    pub directory: bool,
    /// Its first cluster; 0 for an empty file.
    pub cluster: u16,
    /// Its size; 0 for a directory.
    pub size: u32,
    /// Where the entry stands on the partition.
    pub place: u64,
}

/// What 32 bytes of a directory are.
#[derive(Debug, PartialEq, Eq)]
pub enum Record {
    /// Free, and so is everything behind it.
    End,
    /// Free.
    Free,
    /// A part of a long name, the volume's label.
    Other,
    /// A file or directory.
    Entry(Entry),
}

impl Record {
    /// Reads 32 bytes that stand at `place`.
    pub fn read(bytes: &[u8; ENTRY], place: u64) -> Self {
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        match bytes[0] {
            0 => return Self::End,
            FREE => return Self::Free,
            _ if bytes[11] & VOLUME != 0 => return Self::Other,
            _ => {}
        }
        let mut letters = [0; 11];
        letters.copy_from_slice(&bytes[..11]);
        let name = Name { letters, lower: bytes[12] & LOWER != 0 };
        let directory = bytes[11] & DIRECTORY != 0;
        let size = u32::from_le_bytes([bytes[28], bytes[29], bytes[30], bytes[31]]);
        Self::Entry(Entry { name, directory, cluster: word(26), size, place })
    }
}

/// The bytes of a new file's entry.
pub fn of_file(name: Name, cluster: u16, size: u32) -> [u8; ENTRY] {
    let mut bytes = [0; ENTRY];
    bytes[..11].copy_from_slice(&name.letters);
    bytes[11] = ARCHIVE;
    bytes[12] = if name.lower { LOWER } else { 0 };
    for date in [16, 18, 24] {
        bytes[date..date + 2].copy_from_slice(&FIRST_DAY);
    }
    bytes[26..28].copy_from_slice(&cluster.to_le_bytes());
    bytes[28..].copy_from_slice(&size.to_le_bytes());
    bytes
}

/// The bytes of a new directory's entry.
pub fn of_dir(name: Name, cluster: u16) -> [u8; ENTRY] {
    let mut bytes = of_file(name, cluster, 0);
    bytes[11] = DIRECTORY;
    bytes
}

/// Marks an entry as free.
pub fn free(bytes: &mut [u8; ENTRY]) {
    bytes[0] = FREE;
}
