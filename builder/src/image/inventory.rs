//! What each file of an image is and which package it came from: recorded when the image is made, kept beside it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thimble_spec::manifest;

use super::assemble::{Node, Nodes};
use super::compiled::Compiled;
use super::tree::Item;
use crate::apt::Package;
use crate::error::{Error, Result};
use crate::files::{self, Digests};
use crate::interrupt;

/// The file's name in the cache.
const FILE: &str = "inventory.json";

/// All files of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// The packages that it was made of.
    pub packages: Vec<Origin>,
    /// Its files, by path; directories and links have no content.
    pub files: Vec<Record>,
}

/// A package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of the package file.
    pub sha256: String,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Absolute path in the image.
    pub path: String,
    /// Its hashes.
    pub digests: Digests,
    /// Where it came from.
    pub from: From,
}

/// Where a file came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum From {
    /// That package, as it is there.
    Package(String),
    /// That package, without its symbols.
    Stripped(String),
    /// Compiled from these packages, the source's first.
    Compiled {
        /// Their names.
        packages: Vec<String>,
        /// Hash over sources, options and compiler.
        hash: String,
    },
    /// `files/` of the recipe.
    Recipe,
    /// Written by Thimble, from what the recipe says.
    Thimble,
}

impl Inventory {
    /// Records what `assemble` wrote into `root`. `trees` are the directories of the packages' files, `compiled` those of what
    /// was compiled.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn take(nodes: &Nodes, root: &Path, trees: &[(PathBuf, Package)], compiled: &[Compiled]) -> Result<Self> {
        let mut files = Vec::new();
        for (path, node) in nodes {
            interrupt::check()?;
            let source = match node {
                Node::Item(Item::File { source, .. }) => Some(source),
                Node::Text(_) => None,
                Node::Item(Item::Dir { .. } | Item::Link { .. }) => continue,
            };
            let digests = Digests::of(&root.join(&path[1..]))?;
            let package = source.and_then(|source| trees.iter().find(|(tree, _)| source.starts_with(tree)));
            let made = source.and_then(|source| compiled.iter().find(|compiled| source.starts_with(&compiled.tree)));
            let from = match (source, package) {
                (None, _) => From::Thimble,
                (Some(_), None) => made.map_or(From::Recipe, |made| From::Compiled {
                    packages: made.packages.iter().map(|package| package.name.clone()).collect(),
                    hash: made.hash.clone(),
                }),
                (Some(source), Some((_, package))) if files::sha256_of(source)? == digests.sha256 => {
                    From::Package(package.name.clone())
                }
                (Some(_), Some((_, package))) => From::Stripped(package.name.clone()),
            };
            files.push(Record { path: path.clone(), digests, from });
        }
        let origin = |package: &Package| Origin {
            name: package.name.clone(),
            version: package.version.clone(),
            sha256: package.sha256.clone(),
        };
        let of_trees = trees.iter().map(|(_, package)| package);
        let mut packages: Vec<Origin> = Vec::new();
        for package in of_trees.chain(compiled.iter().flat_map(|compiled| &compiled.packages)) {
            if packages.iter().all(|there| there.name != package.name) {
                packages.push(origin(package));
            }
        }
        Ok(Self { packages, files })
    }

    /// Where a file came from, for the manifest.
    pub fn origin(&self, record: &Record) -> manifest::Origin {
        let version = |name: &String| {
            let package = self.packages.iter().find(|package| package.name == *name);
            package.map(|package| package.version.clone()).unwrap_or_default()
        };
        match &record.from {
            From::Package(name) | From::Stripped(name) => {
                manifest::Origin::Package { package: name.clone(), version: version(name) }
            }
            From::Compiled { packages, hash } => {
                let package = packages.first().cloned().unwrap_or_default();
                manifest::Origin::Source { version: version(&package), package, hash: hash.clone() }
            }
            From::Recipe | From::Thimble => manifest::Origin::Thimble,
        }
    }

    /// Writes it into a directory of the cache.
    ///
    /// # Errors
    /// The disk is full.
    pub fn write(&self, dir: &Path) -> Result<()> {
        files::write(&dir.join(FILE), &super::json(self)?)
    }

    /// `PACKAGE=VERSION` of each package.
    pub fn exact(&self) -> Vec<String> {
        self.packages.iter().map(|package| format!("{}={}", package.name, package.version)).collect()
    }

    /// What was recorded in a directory of the cache.
    ///
    /// # Errors
    /// It is not there or damaged.
    pub fn read(dir: &Path) -> Result<Self> {
        serde_json::from_slice(&files::read(&dir.join(FILE))?)
            .map_err(|error| Error::environment(format!("the cache is damaged ({error}): remove it")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_says_where_it_came_from() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str, content: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, content).unwrap();
            path
        };
        let file = |source: PathBuf| Node::Item(Item::File { source, mode: 0o644 });
        let nodes: Nodes = [
            ("/a".to_owned(), file(place("nginx/a", "same"))),
            ("/b".to_owned(), file(place("nginx/b", "with symbols"))),
            ("/c".to_owned(), file(place("files/c", "ours"))),
            ("/d".to_owned(), Node::Text("text".to_owned())),
            ("/f".to_owned(), file(place("compiled/f", "compiled"))),
            ("/e".to_owned(), Node::Item(Item::Link { target: "a".to_owned() })),
        ]
        .into();
        for (name, content) in [("a", "same"), ("b", "without"), ("c", "ours"), ("d", "text"), ("f", "compiled")] {
            place(&format!("root/{name}"), content);
        }
        let package = Package { name: "nginx".to_owned(), version: "1".to_owned(), ..Package::default() };
        let trees = [(dir.path().join("nginx"), package)];
        let sources = ["src:busybox", "musl-dev"].map(|name| Package { name: name.to_owned(), ..Package::default() });
        let compiled = Compiled { tree: dir.path().join("compiled"), hash: "00".to_owned(), packages: sources.into() };
        let inventory = Inventory::take(&nodes, &dir.path().join("root"), &trees, &[compiled]).unwrap();
        let from: Vec<&From> = inventory.files.iter().map(|record| &record.from).collect();
        let nginx = "nginx".to_owned();
        let packages = vec!["src:busybox".to_owned(), "musl-dev".to_owned()];
        assert_eq!(
            from,
            [
                &From::Package(nginx.clone()),
                &From::Stripped(nginx),
                &From::Recipe,
                &From::Thimble,
                &From::Compiled { packages, hash: "00".to_owned() }
            ]
        );
        assert_eq!(inventory.exact(), ["nginx=1", "src:busybox=", "musl-dev="]);
        assert_eq!(inventory.files[0].digests.sha256, files::sha256(b"same"));
    }
}
