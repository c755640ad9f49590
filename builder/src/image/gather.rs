//! Files of packages with all that they need, and what is made of them: from the cache, or made.
//!
//! Which packages come in for their libraries is known only when the closure is made. They are remembered, so that the
//! next build knows without a closure whether any of them changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::closure;
use super::compiled::Compiled;
use super::libraries::Libraries;
use super::tree::{self, Item, Tree};
use crate::apt::{Apt, Package};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::files::{self, Key};
use crate::place::Source;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// The kind of thing that is made, a directory of the cache.
    pub store: &'static str,
    /// What progress calls it.
    pub label: String,
    /// A hash over all that decides the result besides the packages, see [`key`].
    pub key: String,
    /// Packages to take from.
    pub packages: &'a [String],
    /// What was compiled: all of it is kept.
    pub compiled: &'a [Compiled],
    /// Paths to keep.
    pub keep: &'a [String],
    /// Libraries whose content does not count, and what they need neither.
    pub stubs: &'a [String],
    /// Files that are laid over the packages'.
    pub overlay: &'a Tree,
    /// The file with `packages` and `keep`, for mistakes.
    pub source: &'a Source,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Gathered {
    /// What is kept, by path.
    pub kept: BTreeMap<String, Item>,
    /// The packages that it came from, each with the directory of its files.
    pub trees: Vec<(PathBuf, Package)>,
}

/// What makes something of it in a directory of the cache, given the hash of all that it comes from.
pub type Finish<'a> = dyn Fn(Gathered, &Path, &str) -> Result<()> + 'a;

/// The directory that `finish` filled, now or before (then the second is true).
///
/// # Errors
/// A package, a file or a library is missing; what `finish` says.
pub fn obtain(context: &Context, apt: &Apt<'_>, wanted: &Wanted<'_>, finish: &Finish<'_>) -> Result<(PathBuf, bool)> {
    let names: Vec<&str> = wanted.packages.iter().map(String::as_str).collect();
    let packages = apt.find(&names)?;
    let base = Key::new("gathered base 1").with(&wanted.key);
    let base = packages.iter().fold(base, |key, package| key.with(&package.sha256));
    let base = wanted.compiled.iter().fold(base, |key, compiled| key.with(&compiled.hash)).finish();

    let plan = context.cache.root().join("image-plans").join(format!("{base}.json"));
    let planned: Vec<String> =
        std::fs::read(&plan).ok().and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
    let planned: Vec<&str> = planned.iter().map(String::as_str).collect();
    let key = whole_key(&base, &apt.find_some(&planned)?);
    let (key, reused) = if context.cache.find(wanted.store, &key).is_some() {
        (key, true)
    } else {
        let step = context.progress.step(wanted.label.as_str());
        let key = make(context, apt, wanted, &packages, &base, &plan, finish)?;
        step.done();
        (key, false)
    };
    let entry = context.cache.dir_for(wanted.store, &key, |_| {
        Err(Error::environment("the cache lost what was just made: is another program clearing it?"))
    })?;
    Ok((entry.path, reused))
}

/// Makes it and returns its key.
fn make(
    context: &Context,
    apt: &Apt<'_>,
    wanted: &Wanted<'_>,
    packages: &[Package],
    base: &str,
    plan: &Path,
    finish: &Finish<'_>,
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
    let mut kept = closure::closure(&mut tree, wanted.keep, wanted.stubs, wanted.overlay, wanted.source, &mut more)?;
    // Packages that were looked into in vain are no part of it.
    used.retain(|package| {
        let root = context.cache.find("packages", &package.sha256).map(|entry| entry.path);
        kept.values()
            .any(|item| matches!((item, &root), (Item::File { source, .. }, Some(root)) if source.starts_with(root)))
    });
    used.sort_by(|a, b| a.name.cmp(&b.name));
    // Of a path that a package has too, the recipe has asked for this.
    for compiled in wanted.compiled {
        tree::walk(&compiled.tree, &mut |path, item| {
            if !matches!(item, Item::Dir { .. }) {
                kept.insert(path, item);
            }
        })?;
    }

    let trees = packages.iter().chain(&used).map(|package| Ok((apt.unpacked(package)?, package.clone())));
    let gathered = Gathered { kept, trees: trees.collect::<Result<Vec<_>>>()? };
    let key = whole_key(base, &used);
    context.cache.dir_for(wanted.store, &key, |out| finish(gathered, out, &key))?;
    files::make_dir(files::parent(plan))?;
    let names: Vec<&str> = used.iter().map(|package| package.name.as_str()).collect();
    files::write(plan, &super::json(&names)?)?;
    Ok(key)
}

/// A hash over `key` and what an overlay holds.
///
/// # Errors
/// A file cannot be read.
pub fn key(mut key: Key, overlay: &Tree) -> Result<String> {
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
    let key = Key::new("gathered 1").with(base);
    libraries.iter().fold(key, |key, package| key.with(&package.name).with(&package.sha256)).finish()
}
