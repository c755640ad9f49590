//! SHA-256, in hexadecimal digits.

use std::fmt::Write;

use sha2::{Digest, Sha256};

/// The digest of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    digits(&Sha256::digest(bytes))
}

/// The digest of what was put into `hasher`.
pub fn finish(hasher: Sha256) -> String {
    digits(&hasher.finalize())
}

/// Bytes as lower-case digits.
pub fn digits(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // A String takes everything.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Digits, of either case, as bytes; none if these are not `N` bytes.
pub fn bytes<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if digits.len() != 2 * N || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(bytes)
}
