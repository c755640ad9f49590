//! A recipe becomes a read-only image.
//!
//! | module | what |
//! | --- | --- |
//! | [`recipe`] | what the recipe says, checked |
//! | [`tree`] | the files of its packages as one tree |
//! | [`closure`] | what is kept of them, with all that it needs |
//! | [`gather`] | all that together, from the cache or made |
//! | [`libraries`] | packages that come in for a library |
//! | [`elf`] | what one program needs |
//! | [`assemble`] | the image's own tree |
//! | [`inventory`] | which package each of its files came from |

pub mod assemble;
pub mod closure;
pub mod elf;
pub mod gather;
pub mod inventory;
pub mod libraries;
pub mod recipe;
pub mod tree;

use std::path::{Path, PathBuf};

use crate::apt::Apt;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::files::{self, Key};
use crate::place::refuse;
use crate::tool::Tool;
use gather::Wanted;
use inventory::Inventory;
use recipe::Image;
use tree::Tree;

/// Changes when the same inputs would give another image.
const FORMAT: &str = "image 2";

/// A finished image.
#[derive(Clone, Debug)]
pub struct Built {
    /// The recipe's name.
    pub name: String,
    /// EROFS.
    pub path: PathBuf,
    /// The packages that it was made of.
    pub packages: Vec<String>,
    /// All its files.
    pub inventory: Inventory,
    /// Whether it was there before.
    pub reused: bool,
}

/// The image of a recipe, from the cache or made.
///
/// # Errors
/// A package, a file or a library is missing; a tool fails.
pub fn build(context: &Context, apt: &Apt<'_>, image: &Image) -> Result<Built> {
    let overlay_dir = image.dir.join("files");
    let mut overlay = Tree::default();
    if overlay_dir.is_dir() {
        overlay.add(&overlay_dir)?;
    }
    let wanted = Wanted {
        store: "images",
        label: format!("image {}", image.name),
        key: gather::key(Key::new(FORMAT).with(json(&image.recipe)?), &overlay)?,
        packages: &image.recipe.packages,
        keep: &image.recipe.keep,
        overlay: &overlay,
        source: &image.source,
    };
    let (dir, reused) = gather::obtain(context, apt, &wanted, &|gathered, out, key| {
        let nodes = match assemble::assemble(image, gathered.kept, &overlay) {
            Ok(nodes) => nodes,
            Err(mistakes) => {
                refuse(mistakes)?;
                return Err(Error::environment(format!("the image {} cannot be put together", image.name)));
            }
        };
        let root = files::temp_dir_in(&context.cache.temp_dir(), "image-")?;
        assemble::write(context, &nodes, root.path())?;
        Inventory::take(&nodes, root.path(), &gathered.trees)?.write(out)?;
        pack(context, root.path(), &out.join("image.erofs"), key)
    })?;
    let inventory = Inventory::read(&dir)?;
    let packages = inventory.exact();
    Ok(Built { name: image.name.clone(), path: dir.join("image.erofs"), packages, inventory, reused })
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Error::environment(format!("cannot write JSON: {error}")))
}

/// Packs a tree. The same tree gives the same bytes: no time, no owner, no attribute of this machine goes in.
fn pack(context: &Context, root: &Path, out: &Path, key: &str) -> Result<()> {
    Tool::new("mkfs.erofs")
        .args(["--quiet", "-zlz4hc,12", "-C65536", "--all-root", "-T0", "-x-1", "-U"])
        .arg(uuid(key))
        .arg(out)
        .arg(root)
        .run(context)
}

/// A UUID (RFC 9562, version 8) of the first digits of a hash.
pub fn uuid(hash: &str) -> String {
    format!("{}-{}-8{}-8{}-{}", &hash[..8], &hash[8..12], &hash[13..16], &hash[17..20], &hash[20..32])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_well_formed() {
        let uuid = uuid(&files::sha256(b"x"));
        let lengths: Vec<usize> = uuid.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
    }
}
