//! A release: what one slot of a flash disk starts, and what an update brings.
//!
//! A release names its objects (the host's kernel, the parts of its initramfs) by their SHA-256, so that a signature of
//! the release holds for all of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::cmdline::MAX_BYTES;
use crate::names::check_name;

/// Names of the initramfs parts with what only guests use, their kernel and their initramfs, without what says how each is
/// packed: a node can take them while it runs. Two, so that another initramfs does not pack the kernel anew.
pub const GUEST_PARTS: [&str; 2] = ["guest", "guest-init"];
/// Name of the part that is the node's alone: appliance, catalogue, end marker.
pub const NODE_PART: &str = "node";

/// Version of this format.
pub const VERSION: u32 = 1;
/// Parts of an initramfs, at most.
pub const MAX_INITRD_PARTS: usize = 24;
/// Times that a new release may be started before the boot loader gives it up: what the loader's script can count.
pub const TRIES: std::ops::RangeInclusive<u8> = 1..=9;
/// Digits of an object's SHA-256 that are its name on the boot partition: all that a FAT's short name holds.
pub const STORE_NAME_DIGITS: usize = 11;

/// What a slot starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Release {
    /// Version of this format: 1.
    pub version: u32,
    /// The appliance. An update for another one is refused.
    pub appliance: String,
    /// The manifest hash, 64 hexadecimal digits: what the host prints, and what tells two builds apart.
    pub manifest: String,
    /// The host's kernel command line, without the words of the slot.
    pub cmdline: String,
    /// How often the boot loader starts this release, unconfirmed, before it goes back to the other one.
    pub tries: u8,
    /// The public key (ed25519, 64 hexadecimal digits) that must have signed the next update; without one there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The host's kernel.
    pub kernel: Part,
    /// The parts of its initramfs, in the order in which they are loaded.
    pub initrd: Vec<Part>,
}

/// An object of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// What it is called in a build's output: `vmlinuz`, `host.cpio.zst`.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// SHA-256 of its content, 64 lower-case hexadecimal digits.
    pub sha256: String,
}

impl Part {
    /// Whether it is the initramfs part of this name, however it is packed.
    pub fn is_archive(&self, name: &str) -> bool {
        self.name.strip_prefix(name).is_some_and(|rest| rest.starts_with(".cpio"))
    }

    /// Its name in the store of objects: the first digits of its SHA-256.
    pub fn store_name(&self) -> &str {
        self.sha256.get(..STORE_NAME_DIGITS).unwrap_or(&self.sha256)
    }
}

/// Why this is no release.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReleaseError {
    /// Of another format.
    #[error("it is of version {0}, this program knows version {VERSION}: update this program first")]
    Version(u32),
    /// A field that says nothing sensible.
    #[error("its {field} is wrong: {reason}")]
    Field {
        /// Which.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Release {
    /// All objects, the kernel first.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        std::iter::once(&self.kernel).chain(&self.initrd)
    }

    /// All objects, each once: two parts may have the same content.
    pub fn objects(&self) -> Vec<&Part> {
        let mut objects: Vec<&Part> = Vec::new();
        for part in self.parts() {
            if !objects.iter().any(|known| known.sha256 == part.sha256) {
                objects.push(part);
            }
        }
        objects
    }

    /// Whether it says what a release says; everything that reads one asks this first.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn check(&self) -> Result<(), ReleaseError> {
        let wrong =
            |field: &str, reason: &str| ReleaseError::Field { field: field.to_owned(), reason: reason.to_owned() };
        if self.version != VERSION {
            return Err(ReleaseError::Version(self.version));
        }
        check_name(&self.appliance).map_err(|error| wrong("appliance", &error.to_string()))?;
        if !is_hex256(&self.manifest) {
            return Err(wrong("manifest", "that is no SHA-256"));
        }
        if self.cmdline.len() > MAX_BYTES || self.cmdline.contains(|letter: char| letter.is_control()) {
            return Err(wrong("cmdline", "it is too long or holds control characters"));
        }
        if !TRIES.contains(&self.tries) {
            return Err(wrong("tries", "it is a number from 1 to 9"));
        }
        if self.key.as_ref().is_some_and(|key| !is_hex256(key)) {
            return Err(wrong("key", "it is 64 hexadecimal digits"));
        }
        if self.initrd.is_empty() || self.initrd.len() > MAX_INITRD_PARTS {
            return Err(wrong("initrd", "it has from 1 to 24 parts"));
        }
        let mut stored: BTreeMap<&str, &Part> = BTreeMap::new();
        for part in self.parts() {
            let field = |name: &str| format!("part {:.64}", name.escape_default().to_string());
            let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            if part.name.is_empty() || part.name.len() > 64 || !part.name.bytes().all(letter) {
                return Err(wrong(&field(&part.name), "a name has up to 64 letters, digits, `-`, `_` and `.`"));
            }
            if !is_hex256(&part.sha256) {
                return Err(wrong(&field(&part.name), "its hash is no SHA-256"));
            }
            // A file of a FAT has less than 4 GiB.
            if part.size == 0 || part.size > u64::from(u32::MAX) {
                return Err(wrong(&field(&part.name), "a part has from 1 byte to 4 GiB"));
            }
            let known = stored.insert(part.store_name(), part).unwrap_or(part);
            if known.sha256 != part.sha256 || known.size != part.size {
                return Err(wrong(&field(&part.name), &format!("it cannot be stored beside {}", known.name)));
            }
        }
        Ok(())
    }
}

/// Whether these are 64 lower-case hexadecimal digits.
fn is_hex256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, digit: &str) -> Part {
        Part { name: name.into(), size: 7, sha256: digit.repeat(64) }
    }

    fn release() -> Release {
        Release {
            version: VERSION,
            appliance: "demo".into(),
            manifest: "0".repeat(64),
            cmdline: "console=ttyS0 quiet".into(),
            tries: 3,
            key: None,
            kernel: part("vmlinuz", "a"),
            initrd: vec![part("host.cpio", "b"), part("guest.cpio", "b")],
        }
    }

    #[test]
    fn objects_with_the_same_content_are_one() {
        let release = release();
        assert_eq!(release.check(), Ok(()));
        let names: Vec<&str> = release.objects().iter().map(|part| part.name.as_str()).collect();
        assert_eq!(names, ["vmlinuz", "host.cpio"]);
        assert_eq!(release.kernel.store_name(), "aaaaaaaaaaa");
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let told = |change: &dyn Fn(&mut Release)| {
            let mut release = release();
            change(&mut release);
            release.check().unwrap_err().to_string()
        };
        assert!(told(&|release| release.version = 2).contains("version 2"));
        assert!(told(&|release| release.appliance = "../x".into()).contains("appliance"));
        assert!(told(&|release| release.manifest = "A".repeat(64)).contains("manifest"));
        assert!(told(&|release| release.cmdline = "a\nb".into()).contains("cmdline"));
        assert!(told(&|release| release.tries = 0).contains("tries"));
        assert!(told(&|release| release.initrd.clear()).contains("initrd"));
        assert!(told(&|release| release.kernel.name = "a/b".into()).contains("part a/b"));
        assert!(told(&|release| release.kernel.size = 0).contains("vmlinuz"));
        assert!(told(&|release| release.initrd[1].size = 8).contains("beside host.cpio"));
        // The same first digits, another hash: a FAT's short name cannot tell them apart.
        let twin = format!("{}{}", "a".repeat(20), "c".repeat(44));
        assert!(told(&|release| release.initrd[0].sha256 = twin.clone()).contains("beside vmlinuz"));
    }
}
