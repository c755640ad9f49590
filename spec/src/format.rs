//! The artefacts that a build can make, all from the same objects.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// `flash.img`: a raw disk that boots by BIOS and by UEFI.
    Flash,
    /// `netboot/`: what a machine without a disk of its own loads.
    Netboot,
    /// `nfs/`: the same without the images, which stay on an NFS server.
    Nfs,
    /// `thimble.iso`: for a CD or a USB stick, boots by BIOS and by UEFI.
    Iso,
    /// `thimble.efi`: a unified kernel image, which UEFI firmware starts.
    Uki,
}

impl Format {
    /// All of them, in the order in which they are made.
    pub const ALL: &[Self] = &[Self::Flash, Self::Netboot, Self::Nfs, Self::Iso, Self::Uki];
    /// Those of a definition that names none.
    pub const DEFAULT: &[Self] = &[Self::Flash, Self::Netboot];

    /// The word that a definition and a command line have for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flash => "flash",
            Self::Netboot => "netboot",
            Self::Nfs => "nfs",
            Self::Iso => "iso",
            Self::Uki => "uki",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serde_and_people_use_the_same_words() {
        for format in Format::ALL {
            assert_eq!(serde_json::to_value(format).unwrap(), format.name());
        }
    }
}
