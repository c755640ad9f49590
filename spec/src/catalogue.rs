//! What the guests of a node share: the kernel, the initramfs and the images, by their content.
//!
//! A node carries the list itself; the objects may be beside it in the initramfs, or on an NFS export under their
//! hashes. The list is the same in both cases, and with it the manifest's hash.

use serde::{Deserialize, Serialize};

/// One object that guests share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared {
    /// Where it is on the node: an absolute path.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of its content, in hexadecimal.
    pub sha256: String,
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalogue {
    /// In the order of their paths.
    pub objects: Vec<Shared>,
}

impl Catalogue {
    /// The object that belongs at `path`.
    pub fn at(&self, path: &str) -> Option<&Shared> {
        self.objects.iter().find(|object| object.path == path)
    }
}
