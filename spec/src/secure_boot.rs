//! Whose keys a machine that enforces Secure Boot has (UEFI 2.10, 32).

use serde::{Deserialize, Serialize};

/// How an appliance boots where Secure Boot is enforced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecureBoot {
    /// The vendor's keys: by the distribution's shim, its signed GRUB and its signed kernel.
    Debian,
    /// The owner's keys: by a unified kernel image that is signed with one of them.
    Own {
        /// The private key, as the definition names it: a file beside it.
        key: String,
        /// Its certificate, which the machines know.
        certificate: String,
    },
}

/// The word for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// [`SecureBoot::Debian`].
    Debian,
    /// [`SecureBoot::Own`].
    Own,
}
