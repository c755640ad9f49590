//! The programs of packages that a host has for a feature: a tree of files, stripped, that its initramfs holds as it is.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::features::Feature;
use crate::apt::Apt;
use crate::context::Context;
use crate::error::Result;
use crate::files::Key;
use crate::image::assemble::{self, Changes, Node, Nodes};
use crate::image::gather::{self, Wanted};
use crate::image::inventory::Inventory;
use crate::image::tree::{Item, Tree, canonical};

/// Changes when the same inputs would give another tree.
const FORMAT: &str = "host tools 1";
/// The tree in the directory of the cache.
const ROOT: &str = "root";

/// A feature's programs.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The feature.
    pub name: String,
    /// The directory with the tree.
    pub root: PathBuf,
    /// All its files.
    pub inventory: Inventory,
    /// Its users.
    pub users: BTreeMap<String, u32>,
    /// Whether it was there before.
    pub reused: bool,
}

/// The programs of a feature, from the cache or gathered; none if it has none.
///
/// # Errors
/// A package, a file or a library is missing; a tool fails.
pub fn build(context: &Context, apt: &Apt<'_>, feature: &Feature) -> Result<Option<Tools>> {
    let mut overlay = Tree::default();
    if feature.overlay.is_dir() {
        overlay.add(&feature.overlay)?;
    }
    if feature.keep.is_empty() && feature.links.is_empty() && overlay.paths().next().is_none() {
        return Ok(None);
    }
    let texts = feature.keep.iter().chain(&feature.packages);
    let links = feature.links.iter().flat_map(|(path, target)| [path, target]);
    let key = texts.chain(links).fold(Key::new(FORMAT), |key, text| key.with(text));
    let wanted = Wanted {
        store: "host-tools",
        label: format!("host feature {}", feature.set.name),
        key: gather::key(key, &overlay)?,
        packages: &feature.packages,
        keep: &feature.keep,
        stubs: &[],
        overlay: &overlay,
        source: &feature.set.source,
    };
    let (dir, reused) = gather::obtain(context, apt, &wanted, &|gathered, out, _| {
        let mut nodes: Nodes = gathered.kept.into_iter().map(|(path, item)| (path, Node::Item(item))).collect();
        nodes.extend(assemble::overlaid(&overlay));
        let link = |target: &String| Node::Item(Item::Link { target: target.clone() });
        nodes.extend(feature.links.iter().map(|(path, target)| (canonical(path), link(target))));
        let root = out.join(ROOT);
        let unchanged = Changes { stubs: &[], variables: &BTreeMap::new(), localize: &[] };
        assemble::write(context, &nodes, &unchanged, &root)?;
        Inventory::take(&nodes, &root, &gathered.trees)?.write(out)
    })?;
    let inventory = Inventory::read(&dir)?;
    let users = feature.users.clone();
    Ok(Some(Tools { name: feature.set.name.clone(), root: dir.join(ROOT), inventory, users, reused }))
}
