//! The programs of packages that a host has for a feature: a tree of files, stripped, that its initramfs holds as it is.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::features::Feature;
use super::script;
use crate::apt::Apt;
use crate::context::Context;
use crate::error::Result;
use crate::files::{self, Key};
use crate::image::assemble::{self, Changes, Node, Nodes};
use crate::image::gather::{self, Wanted};
use crate::image::inventory::Inventory;
use crate::image::tree::{Item, Tree, canonical};
use crate::tool::Tool;

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
    /// Libraries of which it has only the names.
    pub stubs: Vec<String>,
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
    let texts = feature.keep.iter().chain(&feature.packages).chain(&feature.stubs);
    let links = feature.links.iter().flat_map(|(path, target)| [path, target]);
    let scripts = feature.scripts.iter().flat_map(|script| [&script.path, &script.module, &script.name]);
    let key = texts.chain(links).chain(scripts).fold(Key::new(FORMAT), |key, text| key.with(text));
    let wanted = Wanted {
        store: "host-tools",
        label: format!("host feature {}", feature.set.name),
        key: gather::key(key, &overlay)?,
        packages: &feature.packages,
        compiled: &[],
        keep: &feature.keep,
        stubs: &feature.stubs,
        overlay: &overlay,
        source: &feature.set.source,
    };
    let (dir, reused) = gather::obtain(context, apt, &wanted, &|gathered, out, _| {
        let mut nodes: Nodes = gathered.kept.into_iter().map(|(path, item)| (path, Node::Item(item))).collect();
        let scripts = take_scripts(feature, &mut nodes)?;
        nodes.extend(assemble::overlaid(&overlay));
        let link = |target: &String| Node::Item(Item::Link { target: target.clone() });
        nodes.extend(feature.links.iter().map(|(path, target)| (canonical(path), link(target))));
        let root = out.join(ROOT);
        let changes = Changes { stubs: &feature.stubs, variables: &BTreeMap::new(), localize: &[] };
        assemble::write(context, &nodes, &changes, &root)?;
        for (path, text) in scripts {
            let place = root.join(&path[1..]);
            files::write_as(&place, text.as_bytes(), 0o644)?;
            // Without the time and the name, it is the same each time.
            Tool::new("gzip").args(["--no-name", "--best", "--force", "--"]).arg(&place).run(context)?;
        }
        Inventory::take(&nodes, &root, &gathered.trees, &[])?.write(out)
    })?;
    let inventory = Inventory::read(&dir)?;
    let (users, stubs) = (feature.users.clone(), feature.stubs.clone());
    Ok(Some(Tools { name: feature.set.name.clone(), root: dir.join(ROOT), inventory, users, stubs, reused }))
}

impl Tools {
    /// Whether a file is a library of which only the names are there.
    fn has_stub(&self, path: &str) -> bool {
        let name = path.rsplit('/').next().unwrap_or(path);
        self.stubs.iter().any(|stub| name.starts_with(stub.as_str()))
    }

    /// Whether a file of its is not to be packed: another feature's has the library itself.
    pub fn yields(&self, path: &str, all: &[Self]) -> bool {
        let whole = |other: &Self| !other.has_stub(path) && other.inventory.files.iter().any(|file| file.path == path);
        self.has_stub(path) && all.iter().any(whole)
    }
}

/// Takes the modules of the feature's scripts out of the tree. Where each script is to stand, its first module does for now: so
/// it is known which package it came from. Gives paths and texts.
fn take_scripts(feature: &Feature, nodes: &mut Nodes) -> Result<Vec<(String, String)>> {
    let mut scripts = Vec::new();
    for (index, script) in feature.scripts.iter().enumerate() {
        let read = |path: &str| match nodes.get(path) {
            Some(Node::Item(Item::File { source, .. })) => files::read_text(source).ok(),
            _ => None,
        };
        let text = script::of(&script.name, &script.module, &read)
            .map_err(|message| feature.set.source.error(&format!("script[{index}].module"), message))?;
        let place = nodes.get(&script.module).cloned();
        scripts.push((script.path.clone(), text, place));
    }
    for script in &feature.scripts {
        let modules = format!("{}/", script.module.rsplit_once('/').map_or("", |(directory, _)| directory));
        nodes.retain(|path, _| !path.starts_with(&modules) || feature.keep.contains(path));
    }
    for (path, _, place) in &scripts {
        nodes.extend(place.clone().map(|place| (format!("{path}.gz"), place)));
    }
    Ok(scripts.into_iter().map(|(path, text, _)| (path, text)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Digests;
    use crate::image::inventory::{From, Record};

    fn tools(files: &[&str], stubs: &[&str]) -> Tools {
        let record =
            |path: &&str| Record { path: (*path).to_owned(), digests: Digests::of_bytes(b""), from: From::Thimble };
        Tools {
            name: String::new(),
            root: PathBuf::new(),
            inventory: Inventory { files: files.iter().map(record).collect(), ..Inventory::default() },
            users: BTreeMap::new(),
            stubs: stubs.iter().map(|stub| (*stub).to_owned()).collect(),
            reused: true,
        }
    }

    #[test]
    fn a_library_goes_before_its_names() {
        const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/libsystemd.so.0.35.0";
        let (named, other) = (tools(&[LIBRARY, "/sbin/a"], &["libsystemd.so.0"]), tools(&["/sbin/a"], &[]));
        let whole = tools(&[LIBRARY], &[]);
        let yields = |path: &str, all: &[&Tools]| {
            named.yields(path, &all.iter().map(|tools| (*tools).clone()).collect::<Vec<_>>())
        };
        assert!(!yields(LIBRARY, &[&named, &other]) && yields(LIBRARY, &[&named, &whole]));
        assert!(!yields("/sbin/a", &[&named, &other]));
        assert!(!whole.yields(LIBRARY, &[named, whole.clone()]));
    }
}
