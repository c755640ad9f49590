//! What an administrator tells a guest beside its network: keys, a role, variables, an identity.
//!
//! They are words of the kernel command line ([`crate::cmdline`]). Where that is too short for them, or cannot carry one (a
//! double quote, a line break), they stand as the same words on a small read-only disk, the configuration device:
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | [`MAGIC`] |
//! | 4 | [`VERSION`], as all numbers with the lowest byte first |
//! | 4 | length of the words in bytes |
//! | 8 | checksum of the sixteen bytes above and of the words: FNV-1a, 64 bits ([`fnv1a`]) |
//! | | the words, `KEY=VALUE` or `KEY`, a zero byte behind each |
//! | | zeros to the end of the sector |
//!
//! The guest finds the disk by its serial number, [`DISK_SERIAL`], when its command line has [`CONFIG`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::cmdline::Cmdline;
use crate::names::fnv1a;

/// The word of the command line that says that there is a configuration device; its value is the disk's serial number.
pub const CONFIG: &str = "thimble.config";
/// The serial number of the configuration device.
pub const DISK_SERIAL: &str = "thimble-config";
/// How a configuration device begins.
pub const MAGIC: [u8; 8] = *b"thimble\n";
/// The version of the form above.
pub const VERSION: u32 = 1;
/// The most that a configuration device has.
pub const MAX_BYTES: usize = 64 << 10;

const HEADER: usize = 24;
const SECTOR: usize = 512;
/// Where the checksum is.
const CHECKSUM: std::ops::Range<usize> = 16..24;

/// The variable by which services learn the guest's role.
pub const ROLE_VARIABLE: &str = "THIMBLE_ROLE";

const SSH_KEY: &str = "thimble.ssh-key";
const ROLE: &str = "thimble.guest-role";
const IDENTITY: &str = "thimble.identity";
const VARIABLE: &str = "thimble.env.";

/// What a guest is told beside its network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(deny_unknown_fields))]
pub struct Parameters {
    /// Public keys that log in as root besides those of the image (`thimble.ssh-key`, once for each).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh_keys: Vec<String>,
    /// What it is there for, in a word (`thimble.guest-role`); its services have it as [`ROLE_VARIABLE`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Variables for its services (`thimble.env.NAME`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// Any word (`thimble.identity`). A guest whose disk has not seen it yet becomes another one: it forgets its host keys
    /// and its machine id, makes new ones, and remembers the word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
}

impl Parameters {
    /// Writes them behind what is in `line` already.
    pub fn write(&self, line: &mut Cmdline) {
        for (key, value) in [(ROLE, &self.role), (IDENTITY, &self.identity)] {
            if let Some(value) = value {
                line.set(key, value);
            }
        }
        for key in &self.ssh_keys {
            line.set(SSH_KEY, key);
        }
        for (name, value) in &self.environment {
            line.set(&format!("{VARIABLE}{name}"), value);
        }
    }

    /// Reads them. Whatever stands there, it is some.
    pub fn read(line: &Cmdline) -> Self {
        let variable =
            |(key, value): (&str, Option<&str>)| Some((key.strip_prefix(VARIABLE)?.to_owned(), value?.to_owned()));
        Self {
            ssh_keys: line.all(SSH_KEY).map(str::to_owned).collect(),
            role: line.get(ROLE).map(str::to_owned),
            environment: line.words().filter_map(variable).collect(),
            identity: line.get(IDENTITY).map(str::to_owned),
        }
    }

    /// Says what keeps a guest from being told all of it.
    ///
    /// # Errors
    /// It is too long; a zero byte.
    pub fn check(&self) -> Result<(), ParametersError> {
        let mut line = Cmdline::default();
        self.write(&mut line);
        pack(&line).map(drop)
    }

    /// The variables that services have from it.
    pub fn variables(&self) -> BTreeMap<String, String> {
        let role = self.role.iter().map(|role| (ROLE_VARIABLE.to_owned(), role.clone()));
        self.environment.clone().into_iter().chain(role).collect()
    }
}

/// A configuration device that cannot be made or understood.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ParametersError {
    /// A word that it cannot carry.
    #[error("{0} cannot hold a zero byte")]
    Word(String),
    /// More than it may hold.
    #[error("keys and variables of a guest have {0} bytes together, {MAX_BYTES} are the most: shorten them")]
    TooLong(usize),
    /// Something else, or half of it.
    #[error("the configuration device is {0}: start the guest again by its node")]
    Broken(&'static str),
}

/// The bytes of a configuration device with these words.
///
/// # Errors
/// A zero byte in one, an equals sign in a key; more than [`MAX_BYTES`].
pub fn pack(words: &Cmdline) -> Result<Vec<u8>, ParametersError> {
    let mut bytes = vec![0; HEADER];
    for (key, value) in words.words() {
        if key.is_empty() || key.contains(['\0', '=']) || value.is_some_and(|value| value.contains('\0')) {
            return Err(ParametersError::Word(key.to_owned()));
        }
        bytes.extend(key.bytes());
        bytes.extend(value.iter().flat_map(|value| [b"=", value.as_bytes()].concat()));
        bytes.push(0);
    }
    let length = bytes.len() - HEADER;
    let whole = bytes.len().next_multiple_of(SECTOR);
    if whole > MAX_BYTES {
        return Err(ParametersError::TooLong(length));
    }
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&(length as u32).to_le_bytes());
    let sum = checksum(&bytes[..16], &bytes[HEADER..]);
    bytes[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
    bytes.resize(whole, 0);
    Ok(bytes)
}

/// The words of a configuration device.
///
/// # Errors
/// It is none, of another version, cut off or altered.
pub fn read(bytes: &[u8]) -> Result<Cmdline, ParametersError> {
    let (header, rest) = bytes.split_at_checked(HEADER).ok_or(ParametersError::Broken("cut off"))?;
    let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if header[..8] != MAGIC {
        return Err(ParametersError::Broken("something else"));
    }
    if number(8) != VERSION {
        return Err(ParametersError::Broken("of a version that is not known here"));
    }
    let length = usize::try_from(number(12)).ok().filter(|length| *length <= MAX_BYTES);
    let words = length.and_then(|length| rest.get(..length)).ok_or(ParametersError::Broken("cut off"))?;
    if header[CHECKSUM] != checksum(&header[..16], words).to_le_bytes() {
        return Err(ParametersError::Broken("damaged"));
    }
    let text = std::str::from_utf8(words).map_err(|_| ParametersError::Broken("no text"))?;
    let mut line = Cmdline::default();
    for word in text.split_terminator('\0') {
        match word.split_once('=') {
            Some((key, value)) => line.set(key, value),
            None => line.flag(word),
        };
    }
    Ok(line)
}

fn checksum(header: &[u8], words: &[u8]) -> u64 {
    fnv1a(header.iter().chain(words).copied())
}

/// Any that a definition may ask for.
#[cfg(test)]
pub(crate) fn any_parameters() -> impl proptest::strategy::Strategy<Value = Parameters> {
    use proptest::prelude::*;
    let key = "ssh-ed25519 [A-Za-z0-9+/]{32,68}( [ -~]{0,20})?";
    let environment = prop::collection::btree_map("[A-Za-z_][A-Za-z0-9_]{0,15}", "[^\\x00]{0,200}", 0..20);
    let (role, identity) = (prop::option::of("[a-z0-9]{1,63}"), prop::option::of("[A-Za-z0-9._-]{1,64}"));
    (prop::collection::vec(key, 0..25), role, environment, identity)
        .prop_map(|(ssh_keys, role, environment, identity)| Parameters { ssh_keys, role, environment, identity })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(parameters: &Parameters) -> Cmdline {
        let mut line = Cmdline::default();
        parameters.write(&mut line);
        line
    }

    #[test]
    fn the_form_is_as_it_is_written_down() {
        let parameters = Parameters { role: Some("db".to_owned()), ..Parameters::default() };
        let device = pack(&line(&parameters)).unwrap();
        assert_eq!(device.len(), 512);
        assert_eq!(&device[..16], b"thimble\n\x01\0\0\0\x16\0\0\0");
        assert_eq!(&device[24..47], b"thimble.guest-role=db\0\0");
        assert_eq!(parameters.variables(), [("THIMBLE_ROLE".to_owned(), "db".to_owned())].into());
    }

    #[test]
    fn what_it_cannot_carry_is_named() {
        let variable = |name: &str, value: &str| {
            let environment = [(name.to_owned(), value.to_owned())].into();
            Parameters { environment, ..Parameters::default() }.check().map_err(|error| error.to_string())
        };
        assert_eq!(variable("A", "b\0c"), Err("thimble.env.A cannot hold a zero byte".to_owned()));
        assert!(variable("A", &"x".repeat(MAX_BYTES)).unwrap_err().contains("65536 are the most"));
        assert_eq!(variable("A", &"x".repeat(MAX_BYTES - 100)), Ok(()));
    }

    proptest! {
        #[test]
        fn what_is_packed_reads_back(parameters in any_parameters()) {
            let words = line(&parameters);
            let device = pack(&words).unwrap();
            prop_assert_eq!(device.len() % SECTOR, 0);
            prop_assert_eq!(&read(&device), &Ok(words));
            prop_assert_eq!(Parameters::read(&read(&device).unwrap()), parameters);
        }

        #[test]
        fn what_was_altered_or_cut_off_is_refused(parameters in any_parameters(), at: prop::sample::Index, bit in 0..8u8) {
            let words = line(&parameters);
            let device = pack(&words).unwrap();
            let used = HEADER + u32::from_le_bytes(device[12..16].try_into().unwrap()) as usize;
            let mut altered = device.clone();
            altered[at.index(used)] ^= 1 << bit;
            prop_assert!(read(&altered).is_err());
            prop_assert!(read(&device[..at.index(used)]).is_err());
        }

        #[test]
        fn no_bytes_make_the_reader_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..600), sound: bool) {
            // With a checksum that is right, more of it is reached.
            if sound && bytes.len() >= HEADER {
                let length = bytes.len() - HEADER;
                bytes[..8].copy_from_slice(&MAGIC);
                bytes[8..16].copy_from_slice(&[&VERSION.to_le_bytes()[..], &(length as u32).to_le_bytes()[..]].concat());
                let sum = checksum(&bytes[..16], &bytes[HEADER..]);
                bytes[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
            }
            if let Ok(line) = read(&bytes) {
                let _ = Parameters::read(&line);
            }
        }
    }
}
