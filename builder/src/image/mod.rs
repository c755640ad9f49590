//! A recipe becomes a read-only image.
//!
//! | module | what |
//! | --- | --- |
//! | [`recipe`] | what the recipe says, checked |
//! | [`tree`] | the files of its packages as one tree |
//! | [`closure`] | what is kept of them, with all that it needs |
//! | [`libraries`] | packages that come in for a library |
//! | [`elf`] | what one program needs |
//! | [`assemble`] | the image's own tree |
//! | [`inventory`] | which package each of its files came from |

pub mod assemble;
pub mod closure;
pub mod elf;
pub mod inventory;
pub mod libraries;
pub mod recipe;
pub mod tree;

use std::path::{Path, PathBuf};

use crate::apt::{Apt, Package};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::files::{self, Key};
use crate::place::refuse;
use crate::tool::Tool;
use inventory::Inventory;
use libraries::Libraries;
use recipe::Image;
use tree::{Item, Tree};

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
    let names: Vec<&str> = image.recipe.packages.iter().map(String::as_str).collect();
    let packages = apt.find(&names)?;
    let base = base_key(image, &packages, &overlay)?;

    // Which packages came in for their libraries is known only after a build; the next one asks for those.
    let plan = context.cache.root().join("image-plans").join(format!("{base}.json"));
    let planned: Vec<String> =
        std::fs::read(&plan).ok().and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
    let planned: Vec<&str> = planned.iter().map(String::as_str).collect();
    let key = whole_key(&base, &apt.find_some(&planned)?);
    let (key, reused) = if context.cache.find("images", &key).is_some() {
        (key, true)
    } else {
        let step = context.progress.step(format!("image {}", image.name));
        let key = make(context, apt, image, &packages, &overlay, &base, &plan)?;
        step.done();
        (key, false)
    };
    let entry = context.cache.dir_for("images", &key, |_| {
        Err(Error::environment("the cache lost an image that was just made: is another program clearing it?"))
    })?;
    let inventory = Inventory::read(&entry.path)?;
    let packages = inventory.packages.iter().map(|package| format!("{}={}", package.name, package.version)).collect();
    Ok(Built { name: image.name.clone(), path: entry.path.join("image.erofs"), packages, inventory, reused })
}

/// Makes the image and returns its key.
fn make(
    context: &Context,
    apt: &Apt<'_>,
    image: &Image,
    packages: &[Package],
    overlay: &Tree,
    base: &str,
    plan: &Path,
) -> Result<String> {
    let mut tree = Tree::default();
    for package in packages {
        tree.add(&apt.unpacked(package)?)?;
    }
    let mut libraries = Libraries::new(apt, packages);
    let mut used: Vec<Package> = Vec::new();
    let mut more = |name: &str, tree: &mut Tree| {
        let Some(package) = libraries.next(name)? else { return Ok(false) };
        tree.add(&apt.unpacked(&package)?)?;
        used.push(package);
        Ok(true)
    };
    let kept = closure::closure(&mut tree, &image.recipe.keep, overlay, &image.source, &mut more)?;
    // Packages that were looked into in vain are no part of the image.
    used.retain(|package| {
        let root = context.cache.find("packages", &package.sha256).map(|entry| entry.path);
        kept.values()
            .any(|item| matches!((item, &root), (Item::File { source, .. }, Some(root)) if source.starts_with(root)))
    });
    used.sort_by(|a, b| a.name.cmp(&b.name));

    let nodes = match assemble::assemble(image, kept, overlay) {
        Ok(nodes) => nodes,
        Err(mistakes) => {
            refuse(mistakes)?;
            return Err(Error::environment(format!("the image {} cannot be put together", image.name)));
        }
    };
    let key = whole_key(base, &used);
    context.cache.dir_for("images", &key, |out| {
        let root = files::temp_dir_in(&context.cache.temp_dir(), "image-")?;
        assemble::write(context, &nodes, root.path())?;
        let trees = packages.iter().chain(&used).map(|package| Ok((apt.unpacked(package)?, package.clone())));
        let inventory = Inventory::take(&nodes, root.path(), &trees.collect::<Result<Vec<_>>>()?)?;
        files::write(&out.join(inventory::FILE), &json(&inventory)?)?;
        pack(context, root.path(), &out.join("image.erofs"), &key)
    })?;
    files::make_dir(files::parent(plan))?;
    let names: Vec<&str> = used.iter().map(|package| package.name.as_str()).collect();
    files::write(plan, &json(&names)?)?;
    Ok(key)
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

/// What is known of an image's content before it is made.
fn base_key(image: &Image, packages: &[Package], overlay: &Tree) -> Result<String> {
    let mut key = Key::new(FORMAT).with(json(&image.recipe)?);
    for package in packages {
        key = key.with(&package.sha256);
    }
    for path in overlay.paths() {
        key = key.with(path);
        key = match overlay.get(path) {
            Some(Item::File { source, mode }) => key.with(format!("file {mode:o}")).with(files::sha256_of(source)?),
            Some(Item::Dir { mode }) => key.with(format!("dir {mode:o}")),
            Some(Item::Link { target }) => key.with("link").with(target),
            None => key,
        };
    }
    Ok(key.finish())
}

fn whole_key(base: &str, libraries: &[Package]) -> String {
    let key = Key::new(FORMAT).with(base);
    libraries.iter().fold(key, |key, package| key.with(&package.name).with(&package.sha256)).finish()
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
