//! A signed release: the first part of an update file, and what a slot keeps of it.
//!
//! ```text
//! "THIMBLE RELEASE\n"                16 bytes
//! length of the text                 32 bits, little endian, at most MAX_TEXT
//! release (spec::release) as JSON    so many bytes
//! signature                          64 bytes; all zero where nobody signed
//! ```
//! Signed (ed25519) are the bytes `thimble release 1` and a zero, so that the key's other signatures are none of a release,
//! and then everything before the signature.

use std::fmt;
use std::io::Read;

use ed25519_compact::{KeyPair, Noise, PublicKey, Seed, Signature};
use thimble_spec::release::Release;

use crate::error::{Error, Result};
use crate::hash;

/// What an envelope starts with.
const MAGIC: &[u8; 16] = b"THIMBLE RELEASE\n";
/// What is signed starts with this.
const DOMAIN: &[u8] = b"thimble release 1\0";
/// Longest JSON, in bytes.
pub const MAX_TEXT: usize = 64 << 10;
/// Bytes of a signature.
const SIGNATURE: usize = Signature::BYTES;
/// Where nobody signed. (As a point and a number it is no signature of anything.)
const UNSIGNED: [u8; SIGNATURE] = [0; SIGNATURE];

/// Who may sign updates: an ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key([u8; PublicKey::BYTES]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hash::digits(&self.0))
    }
}

impl Key {
    /// From its 32 bytes.
    ///
    /// # Errors
    /// They are no key that anybody could sign with.
    pub fn from_bytes(bytes: [u8; PublicKey::BYTES]) -> Result<Self> {
        PublicKey::new(bytes).validate().map_err(|_| Error::Wrong("that is no ed25519 public key".to_owned()))?;
        Ok(Self(bytes))
    }

    /// From its 64 hexadecimal digits.
    ///
    /// # Errors
    /// They are no key.
    pub fn from_hex(digits: &str) -> Result<Self> {
        let bytes =
            hash::bytes(digits).ok_or_else(|| Error::Wrong("a key is written as 64 hexadecimal digits".to_owned()))?;
        Self::from_bytes(bytes)
    }
}

/// Who signs: the seed of an ed25519 key pair (RFC 8032, section 5.1.5, calls it the private key).
pub struct Signer(KeyPair);

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.key())
    }
}

impl Signer {
    /// From 32 secret bytes.
    ///
    /// # Errors
    /// They are a seed that nobody draws: all zero.
    pub fn from_seed(seed: [u8; Seed::BYTES]) -> Result<Self> {
        let pair = KeyPair::try_from_seed(Seed::new(seed))
            .map_err(|_| Error::Wrong("that is no ed25519 private key".to_owned()))?;
        Ok(Self(pair))
    }

    /// Its public half.
    pub fn key(&self) -> Key {
        Key(*self.0.pk)
    }
}

/// A release as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    release: Release,
    /// All of it: what is written is what was read, byte for byte.
    bytes: Vec<u8>,
}

impl Envelope {
    /// Packs a release; signed, if somebody signs. The same release and signer give the same bytes.
    ///
    /// # Errors
    /// The release says nothing sensible.
    pub fn seal(release: &Release, signer: Option<&Signer>) -> Result<Self> {
        release.check().map_err(|error| Error::Wrong(format!("this is no release: {error}")))?;
        let text = serde_json::to_vec(release).map_err(|error| Error::Wrong(error.to_string()))?;
        let length = u32::try_from(text.len()).ok().filter(|_| text.len() <= MAX_TEXT);
        let length = length.ok_or_else(|| Error::Wrong("a release of more than 64 KiB".to_owned()))?;
        let mut bytes = [MAGIC.as_slice(), &length.to_le_bytes(), &text].concat();
        // Without noise: deterministic, as RFC 8032 has it.
        let signature = signer.map_or(UNSIGNED, |signer| *signer.0.sk.sign(message(&bytes), None::<Noise>));
        bytes.extend(signature);
        Ok(Self { release: release.clone(), bytes })
    }

    /// Reads one from the start of an update, or of a slot's file. Nothing is verified.
    ///
    /// # Errors
    /// It is no release, or ends too early: [`Error::Refused`].
    pub fn read(mut from: impl Read) -> Result<Self> {
        let refused = |reason: &str| Error::Refused(reason.to_owned());
        let mut bytes = vec![0; MAGIC.len() + 4];
        fill(&mut from, &mut bytes)?;
        if !bytes.starts_with(MAGIC) {
            return Err(refused("it is no Thimble update"));
        }
        let [.., a, b, c, d] = bytes[..] else { return Err(refused("it is no Thimble update")) };
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length > MAX_TEXT {
            return Err(refused("its release is longer than any"));
        }
        let start = bytes.len();
        bytes.resize(start + length + SIGNATURE, 0);
        fill(&mut from, &mut bytes[start..])?;
        let release: Release = serde_json::from_slice(&bytes[start..start + length])
            .map_err(|error| Error::Refused(format!("its release cannot be read: {error}")))?;
        release.check().map_err(|error| Error::Refused(format!("its release makes no sense: {error}")))?;
        Ok(Self { release, bytes })
    }

    /// What it says.
    pub fn release(&self) -> &Release {
        &self.release
    }

    /// As it is written.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether anybody signed, whoever it was.
    pub fn is_signed(&self) -> bool {
        !self.bytes.ends_with(&UNSIGNED)
    }

    /// Whether the owner of `key` signed this, for `appliance`.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason.
    pub fn verify(&self, key: &Key, appliance: &str) -> Result<()> {
        if !self.is_signed() {
            return Err(Error::Refused("it is not signed".to_owned()));
        }
        let (signed, signature) = self.bytes.split_at(self.bytes.len() - SIGNATURE);
        let genuine = Signature::from_slice(signature)
            .is_ok_and(|signature| PublicKey::new(key.0).verify(message(signed), &signature).is_ok());
        if !genuine {
            return Err(Error::Refused(format!("it was altered, or not signed with this appliance's key ({key})")));
        }
        if self.release.appliance != appliance {
            let other = &self.release.appliance;
            return Err(Error::Refused(format!("it is for the appliance {other}, and this is {appliance}")));
        }
        Ok(())
    }
}

fn message(signed: &[u8]) -> Vec<u8> {
    [DOMAIN, signed].concat()
}

/// `read_exact` with the error of a truncated update.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> Result<()> {
    from.read_exact(buffer).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => Error::Refused("it is truncated".to_owned()),
        _ => Error::Source(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use proptest::prelude::*;

    fn signer(byte: u8) -> Signer {
        Signer::from_seed([byte; 32]).unwrap()
    }

    fn sealed() -> Envelope {
        Envelope::seal(&testing::release(&[b"kernel", b"host"]), Some(&signer(1))).unwrap()
    }

    #[test]
    fn only_the_owner_of_the_key_signs() {
        let envelope = sealed();
        let read = Envelope::read(envelope.bytes()).unwrap();
        assert_eq!(read, envelope);
        read.verify(&signer(1).key(), "demo").unwrap();
        let told = |envelope: &Envelope, key: &Key, name| envelope.verify(key, name).unwrap_err().to_string();
        assert!(told(&read, &signer(2).key(), "demo").contains("not signed with this appliance's key"));
        assert!(told(&read, &signer(1).key(), "other").contains("for the appliance demo"));
        let unsigned = Envelope::seal(envelope.release(), None).unwrap();
        assert!(told(&unsigned, &signer(1).key(), "demo").contains("not signed"));
        assert_eq!(envelope, sealed(), "the same bytes again");
    }

    #[test]
    fn every_truncation_is_told() {
        let bytes = sealed().bytes().to_vec();
        for length in 0..bytes.len() {
            let error = Envelope::read(&bytes[..length]).unwrap_err().to_string();
            assert!(error.contains("truncated"), "{length}: {error}");
        }
        assert!(Envelope::read(&[0; 100][..]).unwrap_err().to_string().contains("no Thimble update"));
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let bytes = sealed().bytes().to_vec();
        for bit in (0..bytes.len() * 8).step_by(5) {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let accepted = Envelope::read(&flipped[..]).and_then(|read| read.verify(&signer(1).key(), "demo"));
            assert!(matches!(accepted, Err(Error::Refused(_))), "bit {bit}: {accepted:?}");
        }
    }

    #[test]
    fn keys_are_read_in_digits() {
        let key = signer(1).key();
        assert_eq!(Key::from_hex(&key.to_string()).unwrap(), key);
        assert!(Key::from_hex(&"0".repeat(64)).is_err());
        assert!(Key::from_hex("ab").is_err());
        assert!(Signer::from_seed([0; 32]).is_err());
    }

    proptest! {
        #[test]
        fn garbage_is_no_panic(text in proptest::collection::vec(any::<u8>(), 0..400)) {
            let length = u32::try_from(text.len().saturating_sub(64)).unwrap();
            let _ = Envelope::read(&text[..]);
            let _ = Envelope::read(&[MAGIC.as_slice(), &length.to_le_bytes(), &text].concat()[..]);
        }
    }
}
