//! What a kernel module says of itself: section `.modinfo`, `key=value` strings that end in a zero each.

use object::{Object, ObjectSection};
use serde::{Deserialize, Serialize};

/// What we need of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Modinfo {
    /// Modules whose symbols it uses.
    pub depends: Vec<String>,
    /// Modules (or aliases) that should be loaded before it.
    pub before: Vec<String>,
    /// Modules (or aliases) that should be loaded behind it.
    pub after: Vec<String>,
    /// Patterns of what it drives, and other names of it.
    pub aliases: Vec<String>,
    /// Firmware files that it may ask for.
    pub firmware: Vec<String>,
}

/// A module's name as the kernel has it: `-` is `_`.
pub fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// Reads a module file; `None` if it is no ELF file with such a section.
pub fn read(file: &[u8]) -> Option<Modinfo> {
    let object = object::File::parse(file).ok()?;
    Some(parse(object.section_by_name(".modinfo")?.data().ok()?))
}

/// Reads the section.
pub fn parse(section: &[u8]) -> Modinfo {
    let mut info = Modinfo::default();
    for entry in section.split(|byte| *byte == 0) {
        let entry = String::from_utf8_lossy(entry);
        let Some((key, value)) = entry.split_once('=') else { continue };
        match key {
            "depends" => info.depends.extend(value.split(',').filter(|name| !name.is_empty()).map(canonical)),
            "softdep" => soft(value, &mut info),
            "alias" => info.aliases.push(value.to_owned()),
            "firmware" => info.firmware.push(value.to_owned()),
            _ => {}
        }
    }
    info
}

/// `pre: a b post: c`
fn soft(value: &str, info: &mut Modinfo) {
    let mut list = None;
    for word in value.split_whitespace() {
        match (word, &mut list) {
            ("pre:", _) => list = Some(&mut info.before),
            ("post:", _) => list = Some(&mut info.after),
            (name, Some(list)) => list.push(canonical(name)),
            (_, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_section() {
        let section = b"license=GPL\0softdep=pre: crc32c post: x-y\0alias=fs-ext4\0depends=mbcache,jbd2\0\0\0\
            firmware=a/b.bin\0depends=";
        assert_eq!(
            parse(section),
            Modinfo {
                depends: vec!["mbcache".into(), "jbd2".into()],
                before: vec!["crc32c".into()],
                after: vec!["x_y".into()],
                aliases: vec!["fs-ext4".into()],
                firmware: vec!["a/b.bin".into()],
            }
        );
        assert_eq!(read(b"no ELF"), None);
    }
}
