//! A recipe becomes a read-only image.
//!
//! | module | what |
//! | --- | --- |
//! | [`recipe`] | what the recipe says, checked |
//! | [`compiled`] | programs that it has compiled |
//! | [`tree`] | the files of its packages as one tree |
//! | [`closure`] | what is kept of them, with all that it needs |
//! | [`gather`] | all that together, from the cache or made |
//! | [`libraries`] | packages that come in for a library |
//! | [`include`] | recipes that have others in them |
//! | [`elf`] | what one program needs |
//! | [`stub`] | a library of which only the names are there |
//! | [`localize`] | a program without the names that nobody asks for |
//! | [`assemble`] | the image's own tree |
//! | [`inventory`] | which package each of its files came from |

pub mod assemble;
pub mod closure;
pub mod compiled;
pub mod elf;
pub mod gather;
pub mod include;
pub mod inventory;
pub mod libraries;
mod localize;
pub mod recipe;
pub mod stub;
pub mod tree;

use std::path::{Path, PathBuf};

use thimble_spec::recipe::{Pack, Recipe};

use crate::apt::Apt;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::files::{self, Key};
use crate::place::refuse;
use crate::tool::Tool;
use assemble::Changes;
use compiled::Compiled;
use gather::Wanted;
use inventory::Inventory;
use recipe::Image;
use tree::{Item, Tree};

/// Changes when the same inputs would give another image.
const FORMAT: &str = "image 4";
/// The image in its directory of the cache.
const FILE: &str = "image.erofs";
/// Up to so many bytes, SquashFS packs little of a tree at once: a guest unpacks that much for any page of it. A twentieth of
/// what little there is buys a start in a tenth of the time; of what is large, a tenth would be megabytes.
const SMALL_TREE: u64 = 4 << 20;

/// A finished image.
#[derive(Clone, Debug)]
pub struct Built {
    /// The recipe's name.
    pub name: String,
    /// EROFS or SquashFS.
    pub path: PathBuf,
    /// The packages that it was made of.
    pub packages: Vec<String>,
    /// All its files.
    pub inventory: Inventory,
    /// Whether it was there before.
    pub reused: bool,
}

/// Programs that a recipe's image takes besides those of every build.
pub fn tools(image: &Image) -> impl Iterator<Item = &'static str> {
    let small: &[_] = if image.recipe.pack == Pack::Small { &["mksquashfs"] } else { &[] };
    [small, stub::tools(&image.recipe.stubs), compiled::tools(&image.programs)].into_iter().flatten().copied()
}

/// The image of a recipe, from the cache or made.
///
/// # Errors
/// A package, a file or a library is missing; a tool fails.
pub fn build(context: &Context, apt: &Apt<'_>, image: &Image) -> Result<Built> {
    let mut overlay = Tree::default();
    for dir in image.overlays.iter().filter(|dir| dir.is_dir()) {
        overlay.add(dir)?;
    }
    let compiled: Vec<Compiled> =
        image.programs.iter().map(|program| compiled::build(context, apt, program)).collect::<Result<_>>()?;
    let wanted = Wanted {
        store: "images",
        label: format!("image {}", image.name),
        key: gather::key(Key::new(FORMAT).with(json(&image.recipe)?), &overlay)?,
        packages: &image.recipe.packages,
        compiled: &compiled,
        keep: &image.recipe.keep,
        stubs: &image.recipe.stubs,
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
        let Recipe { stubs, stub_variables: variables, localize, .. } = &image.recipe;
        assemble::write(context, &nodes, &Changes { stubs, variables, localize }, root.path())?;
        Inventory::take(&nodes, root.path(), &gathered.trees, &compiled)?.write(out)?;
        pack(context, image.recipe.pack, root.path(), &out.join(FILE), key)
    })?;
    let inventory = Inventory::read(&dir)?;
    let packages = inventory.exact();
    Ok(Built { name: image.name.clone(), path: dir.join(FILE), packages, inventory, reused })
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Error::environment(format!("cannot write JSON: {error}")))
}

/// Packs a tree. The same tree gives the same bytes: no time, no owner, no attribute of this machine goes in.
fn pack(context: &Context, pack: Pack, root: &Path, out: &Path, key: &str) -> Result<()> {
    match pack {
        Pack::Fast => Tool::new("mkfs.erofs")
            .args(["--quiet", "-zlz4hc,12", "-C65536", "--all-root", "-T0", "-x-1", "-U"])
            .arg(uuid(key))
            .arg(out)
            .arg(root)
            .run(context),
        // SOURCE_DATE_EPOCH, which is the bill of materials' time, would be a second answer to the same question, and refused.
        Pack::Small => Tool::new("mksquashfs")
            .bare_environment()
            .arg(root)
            .arg(out)
            .args(["-quiet", "-no-progress", "-noappend", "-all-root", "-no-xattrs", "-no-exports"])
            .args([
                "-mkfs-time",
                "0",
                "-all-time",
                "0",
                "-comp",
                "xz",
                "-Xbcj",
                "x86",
                "-b",
                squashfs_block(size_of(root)?),
            ])
            .run(context),
    }
}

/// The bytes that SquashFS packs at once, of a tree of so many.
fn squashfs_block(size: u64) -> &'static str {
    if size <= SMALL_TREE { "64K" } else { "1M" }
}

/// Bytes of the files below a directory.
fn size_of(directory: &Path) -> Result<u64> {
    let mut places = Vec::new();
    tree::walk(directory, &mut |_, item| {
        if let Item::File { source, .. } = item {
            places.push(source);
        }
    })?;
    places.iter().map(|place| files::size(place)).sum()
}

/// A UUID (RFC 9562, version 8) of the first digits of a hash.
pub fn uuid(hash: &str) -> String {
    format!("{}-{}-8{}-8{}-{}", &hash[..8], &hash[8..12], &hash[13..16], &hash[17..20], &hash[20..32])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_small_tree_has_small_blocks() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        std::os::unix::fs::symlink("/nowhere", dir.path().join("link")).unwrap();
        let file = fs::File::create(dir.path().join("bin/x")).unwrap();
        for (size, block) in [(0, "64K"), (4 << 20, "64K"), ((4 << 20) + 1, "1M")] {
            file.set_len(size).unwrap();
            assert_eq!((size_of(dir.path()).unwrap(), squashfs_block(size)), (size, block));
        }
    }

    #[test]
    fn a_uuid_is_well_formed() {
        let uuid = uuid(&files::sha256(b"x"));
        let lengths: Vec<usize> = uuid.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
    }
}
