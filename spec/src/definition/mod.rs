//! The administrator's TOML: read, checked as a whole, and turned into an [`Appliance`].
//!
//! A definition passes three gates, a file each: [`source`] says what may be written, [`check`] what must hold between
//! the parts, [`mistake`] how a mistake is told. Every mistake that can be found without opening another file is found
//! here, before anything is fetched or compiled, and all of them at once.

mod check;
mod mistake;
mod source;

pub use mistake::{Mistake, Mistakes};

use crate::appliance::Appliance;
use crate::format::Format;
use crate::recipe::Recipe;
use crate::secure_boot::SecureBoot;
use crate::units::ByteSize;

/// A definition that has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// What the host obeys.
    pub appliance: Appliance,
    /// What only the builder needs to know: the host is the same, whatever stands here.
    pub build: Build,
}

/// How an appliance is to be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// What is made of it, in the order of making.
    pub formats: Vec<Format>,
    /// The public key that updates are signed with, as the definition names it: a file beside it, or 64 hexadecimal
    /// digits. Whoever reads the file puts the key into [`Appliance::update`].
    pub update_key: Option<String>,
    /// Bytes that the boot partition keeps free for the next update; if nothing is said, as much as it holds already
    /// where there is a key, as far as the disk has so much.
    pub update_room: Option<ByteSize>,
    /// How often a new release is started before the boot loader gives it up.
    pub tries: u8,
    /// How it boots where Secure Boot is enforced, if it does.
    pub secure_boot: Option<SecureBoot>,
    /// The certificates of [`crate::appliance::ApiListener`], if there is one.
    pub tls: Option<Tls>,
    /// The directory with the certificates for a syslog server that is reached by TLS, as the definition names it.
    pub syslog_keys: Option<String>,
}

/// The certificates that the node daemon and its clients show each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// The directory that they are kept in, as the definition names it; beside the definition without one.
    pub keys: Option<String>,
    /// Names and addresses that the node is reached by, besides those that the definition says elsewhere.
    pub names: Vec<String>,
}

/// Reads a definition; `file` is the name that mistakes are told under.
///
/// # Errors
/// All that is wrong with it; a file that is no TOML or has an unknown key stops at the first of those.
pub fn parse(file: &str, text: &str) -> Result<Definition, Mistakes> {
    let source: source::Definition = read(file, text)?;
    check::check(file, text, source)
}

/// Reads a recipe.
///
/// # Errors
/// The first mistake; names that don't resolve are the builder's to find, which knows the packages.
pub fn parse_recipe(file: &str, text: &str) -> Result<Recipe, Mistakes> {
    read(file, text)
}

/// Deserializes, and tells a mistake by line and by the path of its key.
fn read<T: serde::de::DeserializeOwned>(file: &str, text: &str) -> Result<T, Mistakes> {
    let told = |error: &toml::de::Error, path: String| {
        let span = error.span().unwrap_or(0..0);
        let mistake = Mistake::at(file, text, span, path, error.message().trim_end());
        Mistakes::from(vec![mistake])
    };
    let deserializer = toml::Deserializer::parse(text).map_err(|error| told(&error, String::new()))?;
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let path = mistake::path_of(error.path());
        told(error.inner(), path)
    })
}

#[cfg(test)]
mod firewall_tests;
#[cfg(test)]
mod host_tests;
#[cfg(test)]
mod network_tests;
#[cfg(test)]
mod tests;
