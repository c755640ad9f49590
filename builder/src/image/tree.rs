//! The files of several packages as one tree, by the path that each has in an image.
//!
//! Images have one place for programs and libraries: `/bin`, `/sbin`, `/lib` and `/lib64` are links into `/usr`. Packages
//! that still ship the old paths are read as if they shipped the new ones.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::{files, interrupt};

/// Directories at the top that are links into `/usr`.
pub const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];
/// How many links may lie on the way to a file (as in the kernel).
const LINKS_MAX: usize = 40;

/// A path as it is in an image: absolute, below `/usr` where old paths are not.
pub fn canonical(path: &str) -> String {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or("");
    if MERGED.contains(&first) { format!("/usr{path}") } else { path.to_owned() }
}

/// `target` of a link that lies at `link`, as a path in the image.
pub fn follow(link: &str, target: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    if !target.starts_with('/') {
        parts.extend(link.split('/').filter(|part| !part.is_empty()));
        parts.pop();
    }
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    canonical(&format!("/{}", parts.join("/")))
}

/// What lies at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A directory.
    Dir {
        /// Permission bits.
        mode: u32,
    },
    /// A file.
    File {
        /// Where its content is.
        source: PathBuf,
        /// Permission bits.
        mode: u32,
    },
    /// A symbolic link.
    Link {
        /// Where to.
        target: String,
    },
}

/// Files of packages.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    items: BTreeMap<String, Item>,
}

impl Tree {
    /// Adds what lies in `root`. Where packages share a path, the first has it.
    ///
    /// # Errors
    /// Something cannot be read.
    pub fn add(&mut self, root: &Path) -> Result<()> {
        walk(root, &mut |path, item| {
            self.items.entry(canonical(&path)).or_insert(item);
        })
    }

    /// What lies at a path.
    pub fn get(&self, path: &str) -> Option<&Item> {
        self.items.get(path)
    }

    /// All paths.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.items.keys().map(String::as_str)
    }

    /// All that lies below a directory, the directory itself left out.
    pub fn below<'a>(&'a self, dir: &str) -> impl Iterator<Item = (&'a str, &'a Item)> {
        let prefix = format!("{dir}/");
        let start = prefix.clone();
        self.items
            .range(start..)
            .take_while(move |(path, _)| path.starts_with(&prefix))
            .map(|(path, item)| (path.as_str(), item))
    }

    /// The file or directory that `path` leads to, over links in all of its parts, and the links on the way.
    pub fn resolve(&self, path: &str) -> Option<(String, Vec<String>)> {
        let mut links = Vec::new();
        let mut path = canonical(path);
        'again: loop {
            let ends = path.match_indices('/').map(|(at, _)| at).skip(1).chain([path.len()]).collect::<Vec<_>>();
            for end in ends {
                let part = &path[..end];
                if let Some(Item::Link { target }) = self.items.get(part) {
                    links.push(part.to_owned());
                    if links.len() > LINKS_MAX {
                        return None;
                    }
                    path = follow(part, target) + &path[end..];
                    continue 'again;
                }
            }
            return self.items.contains_key(&path).then_some((path, links));
        }
    }
}

/// Visits all that lies below `root`, by its path from there.
///
/// # Errors
/// Something cannot be read.
pub fn walk(root: &Path, visit: &mut dyn FnMut(String, Item)) -> Result<()> {
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        interrupt::check()?;
        for path in files::list(&dir)? {
            let data = fs::symlink_metadata(&path).map_err(Error::io("read", &path))?;
            let name = path.strip_prefix(root).unwrap_or(&path);
            let name = name
                .to_str()
                .ok_or_else(|| Error::Environment(format!("{}: a file's name must be UTF-8", path.display())))?;
            let name = format!("/{name}");
            let mode = data.permissions().mode() & 0o7777;
            if data.is_symlink() {
                let target = fs::read_link(&path).map_err(Error::io("read", &path))?;
                visit(name, Item::Link { target: target.to_string_lossy().into_owned() });
            } else if data.is_dir() {
                visit(name, Item::Dir { mode });
                todo.push(path);
            } else if data.is_file() {
                visit(name, Item::File { source: path, mode });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn old_paths_are_new_ones() {
        assert_eq!(canonical("/bin/sh"), "/usr/bin/sh");
        assert_eq!(canonical("/lib64"), "/usr/lib64");
        assert_eq!(canonical("/libexec/x"), "/libexec/x");
        assert_eq!(follow("/usr/lib64/ld.so", "/lib/x/ld.so"), "/usr/lib/x/ld.so");
        assert_eq!(follow("/usr/lib/a.so", "../b/./a.so.1"), "/usr/b/a.so.1");
    }

    #[test]
    fn links_are_followed_in_every_part() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("lib/real")).unwrap();
        fs::write(dir.path().join("lib/real/a.so.1"), "").unwrap();
        symlink("a.so.1", dir.path().join("lib/real/a.so")).unwrap();
        symlink("real", dir.path().join("lib/other")).unwrap();
        symlink("circle", dir.path().join("lib/circle")).unwrap();
        let mut tree = Tree::default();
        tree.add(dir.path()).unwrap();
        let (path, links) = tree.resolve("/lib/other/a.so").unwrap();
        assert_eq!(path, "/usr/lib/real/a.so.1");
        assert_eq!(links, ["/usr/lib/other", "/usr/lib/real/a.so"]);
        assert!(tree.resolve("/lib/circle").is_none());
        assert!(tree.resolve("/lib/nothing").is_none());
        assert_eq!(tree.below("/usr/lib/real").count(), 2);
    }
}
