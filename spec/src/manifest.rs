//! `manifest.json`: every object of a build, and where it came from.

use serde::{Deserialize, Serialize};

/// What a build made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format: 1.
    pub version: u32,
    /// The appliance.
    pub appliance: String,
    /// The most that `flash.img` may take, in bytes.
    pub budget: u64,
    /// Command line of the host's kernel.
    pub cmdline: String,
    /// SHA-256 over the names and hashes of what the host's initramfs holds; the host prints it.
    pub hash: String,
    /// The files in the output directory.
    pub artefacts: Vec<Object>,
    /// What they are made of.
    pub objects: Vec<Object>,
    /// Firmware files that the packed modules may ask for, and which module; none is packed unless an object says so.
    pub firmware: Vec<Firmware>,
}

/// One object or artefact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Path inside the tree that it belongs to, or the file in the output directory.
    pub name: String,
    /// Which part of the appliance pays for it.
    pub room: Room,
    /// Bytes as they are on the running system.
    pub size: u64,
    /// Bytes that it takes on the flash: compressed where it is packed compressed (a share by size, where many are
    /// compressed together).
    pub packed: u64,
    /// SHA-256 of its content, in hexadecimal.
    pub sha256: String,
    /// Where it came from.
    pub origin: Origin,
}

/// Who spends bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Room {
    /// GRUB, partition tables, file system overhead.
    Boot,
    /// The host's kernel.
    HostKernel,
    /// Its modules.
    HostModules,
    /// Our programs and configuration on the host.
    Host,
    /// The guests' shared kernel.
    GuestKernel,
    /// The guests' shared initramfs.
    GuestInitrd,
    /// The guests' images.
    Images,
    /// What is left for the node's data.
    Data,
    /// A finished file of the output directory.
    Artefact,
}

/// Where an object came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub enum Origin {
    /// A package of the distribution.
    Package {
        /// Its name.
        package: String,
        /// Its version.
        version: String,
    },
    /// Compiled from a source package.
    Source {
        /// The package of the source.
        package: String,
        /// Its version.
        version: String,
        /// SHA-256 over source, configuration and compiler.
        hash: String,
    },
    /// Written by Thimble itself (its programs, generated configuration).
    Thimble,
    /// Packed from several packages, each named.
    Image {
        /// The recipe.
        recipe: String,
        /// `PACKAGE=VERSION` of each.
        packages: Vec<String>,
    },
}

/// A firmware file that a module names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Firmware {
    /// The module.
    pub module: String,
    /// Path below `/lib/firmware`.
    pub file: String,
}
