//! From the paths that a recipe keeps to all files that an image needs for them.

use std::collections::{BTreeMap, BTreeSet};

use thimble_spec::definition::Mistake;
use thimble_spec::modules::glob;

use super::elf;
use super::tree::{Item, Tree, canonical};
use crate::error::{Error, Result};
use crate::files;
use crate::nearest::hint;
use crate::place::{Source, refuse};

/// Where the dynamic loader looks, beside what a file itself says.
const LIBRARY_DIRS: [&str; 3] = ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"];
/// Links into these lead to what exists only while a guest runs.
const LIVE_DIRS: [&str; 6] = ["/dev", "/proc", "/sys", "/run", "/tmp", "/data"];

/// Gets another package's files into the tree, one that may hold the library; `false` when there is none left.
pub type MoreLibraries<'a> = dyn FnMut(&str, &mut Tree) -> Result<bool> + 'a;

/// All that `keep` names, and what that needs. What a library of `stubs` needs is not.
///
/// # Errors
/// A path that no package has, a library that none has.
pub fn closure(
    tree: &mut Tree,
    keep: &[String],
    stubs: &[String],
    overlay: &Tree,
    source: &Source,
    more: &mut MoreLibraries<'_>,
) -> Result<BTreeMap<String, Item>> {
    let mut mistakes = Vec::new();
    let mut todo = Vec::new();
    for (index, path) in keep.iter().enumerate() {
        match expand(tree, path) {
            paths if paths.is_empty() => mistakes.push(not_there(tree, source, index, path)),
            paths => todo.extend(paths),
        }
    }
    refuse(mistakes)?;
    let mut closure = Closure { tree, stubs, kept: BTreeMap::new(), checked: BTreeSet::new() };
    for path in todo {
        closure.keep(&path)?;
    }
    closure.libraries(overlay, source, more)?;
    Ok(closure.kept)
}

fn not_there(tree: &Tree, source: &Source, index: usize, path: &str) -> Mistake {
    let hint = hint(&canonical(path), tree.paths());
    source.mistake(&format!("keep[{index}]"), format!("none of the recipe's packages has {path}{hint}"))
}

/// The paths that an entry of `keep` names; wildcards stand in its last part only.
fn expand(tree: &Tree, path: &str) -> Vec<String> {
    let (dir, pattern) = path.rsplit_once('/').unwrap_or(("", path));
    if !pattern.contains(['*', '?', '[']) {
        // Reached over a link or not, it is there.
        return tree.resolve(path).map(|_| vec![canonical(path)]).unwrap_or_default();
    }
    let Some((dir, _)) = tree.resolve(dir) else { return Vec::new() };
    let matches = |path: &str| {
        let name = &path[dir.len() + 1..];
        !name.contains('/') && glob(pattern.as_bytes(), name.as_bytes())
    };
    tree.below(&dir).map(|(path, _)| path).filter(|path| matches(path)).map(str::to_owned).collect()
}

struct Closure<'a> {
    tree: &'a mut Tree,
    stubs: &'a [String],
    kept: BTreeMap<String, Item>,
    /// Files whose needs are met.
    checked: BTreeSet<String>,
}

impl Closure<'_> {
    /// Keeps a path: links with what they lead to, directories with all below them.
    fn keep(&mut self, path: &str) -> Result<()> {
        let live = |target: &str| LIVE_DIRS.iter().any(|dir| target == *dir || target.starts_with(&format!("{dir}/")));
        let Some((real, links)) = self.tree.resolve(path) else {
            if let Some(item @ Item::Link { target }) = self.tree.get(path) {
                let target = super::tree::follow(path, target);
                // A link to nothing is as the package has it; of those, only links to live files are worth a place.
                if live(&target) {
                    self.kept.insert(path.to_owned(), item.clone());
                }
            }
            return Ok(());
        };
        for link in links {
            if let Some(item) = self.tree.get(&link) {
                self.kept.insert(link, item.clone());
            }
        }
        let Some(item) = self.tree.get(&real).cloned() else { return Ok(()) };
        let is_dir = matches!(item, Item::Dir { .. });
        if self.kept.insert(real.clone(), item).is_some() || !is_dir {
            return Ok(());
        }
        let below: Vec<String> = self.tree.below(&real).map(|(path, _)| path.to_owned()).collect();
        for path in below {
            self.keep(&path)?;
        }
        Ok(())
    }

    /// Adds libraries until nothing needs one more.
    fn libraries(&mut self, overlay: &Tree, source: &Source, more: &mut MoreLibraries<'_>) -> Result<()> {
        loop {
            let overlaid = overlay.paths().filter_map(|path| Some((path.to_owned(), overlay.get(path)?.clone())));
            let files: Vec<(String, Item)> = self
                .kept
                .clone()
                .into_iter()
                .chain(overlaid)
                .filter(|(path, _)| !self.checked.contains(path))
                .collect();
            if files.is_empty() {
                return Ok(());
            }
            for (path, item) in files {
                if let Item::File { source: file, .. } = &item
                    && let Some(needs) = elf::needs(&head_or_all(file)?)
                    && !needs.soname.as_ref().is_some_and(|name| self.stubs.contains(name))
                {
                    self.meet(&path, &needs, source, more)?;
                }
                self.checked.insert(path);
            }
        }
    }

    fn meet(&mut self, path: &str, needs: &elf::Needs, source: &Source, more: &mut MoreLibraries<'_>) -> Result<()> {
        let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
        let run_paths: Vec<String> = needs
            .run_paths
            .iter()
            .map(|run_path| canonical(&run_path.replace("$ORIGIN", dir).replace("${ORIGIN}", dir)))
            .collect();
        let find = |tree: &Tree, name: &str| {
            if name.contains('/') {
                return tree.resolve(name).map(|_| canonical(name));
            }
            let dirs = run_paths.iter().map(String::as_str).chain(LIBRARY_DIRS);
            dirs.map(|dir| format!("{dir}/{name}")).find(|path| tree.resolve(path).is_some())
        };
        for name in needs.interpreter.iter().chain(&needs.libraries) {
            let found = loop {
                if let Some(found) = find(self.tree, name) {
                    break found;
                }
                let file = name.rsplit('/').next().unwrap_or(name);
                if !more(file, self.tree)? {
                    let message = format!(
                        "{path} needs {name}, which is in no package that these depend on: add the one that has it"
                    );
                    return Err(source.error("packages", message));
                }
            };
            self.keep(&found)?;
        }
        Ok(())
    }
}

/// A file's content if it is an ELF file, else its first bytes.
fn head_or_all(path: &std::path::Path) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    let file = std::fs::File::open(path).map_err(Error::io("read", path))?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, elf::MAGIC.len() as u64), &mut head)
        .map_err(Error::io("read", path))?;
    if head == elf::MAGIC { files::read(path) } else { Ok(head) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn source() -> Source {
        Source { file: "recipe.toml".into(), text: "packages = [\"x\"]\nkeep = [\n\"/usr/bin/x\"]\n".into() }
    }

    /// A package with a copy of this machine's shell, and its libraries in another.
    fn packages() -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().unwrap();
        for part in ["a/bin", "a/usr/share/x/deep", "b/lib/x86_64-linux-gnu", "b/lib64"] {
            fs::create_dir_all(dir.path().join(part)).unwrap();
        }
        fs::copy("/bin/sh", dir.path().join("a/bin/dash")).unwrap();
        symlink("dash", dir.path().join("a/bin/sh")).unwrap();
        symlink("/run/live", dir.path().join("a/usr/share/x/live")).unwrap();
        symlink("nothing", dir.path().join("a/usr/share/x/dangling")).unwrap();
        fs::write(dir.path().join("a/usr/share/x/deep/file"), "text").unwrap();
        fs::write(dir.path().join("b/lib/x86_64-linux-gnu/libc.so.6"), "no ELF").unwrap();
        fs::write(dir.path().join("b/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"), "no ELF").unwrap();
        symlink("/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", dir.path().join("b/lib64/ld-linux-x86-64.so.2")).unwrap();
        let mut tree = Tree::default();
        tree.add(&dir.path().join("a")).unwrap();
        (dir, tree)
    }

    fn close(tree: &mut Tree, keep: &[&str], more: &mut MoreLibraries<'_>) -> Result<Vec<String>> {
        let keep: Vec<String> = keep.iter().map(|path| (*path).to_owned()).collect();
        Ok(closure(tree, &keep, &[], &Tree::default(), &source(), more)?.into_keys().collect())
    }

    #[test]
    fn a_program_brings_its_libraries() {
        let (dir, mut tree) = packages();
        let mut asked = Vec::new();
        let paths = close(&mut tree, &["/bin/sh"], &mut |name, tree| {
            asked.push(name.to_owned());
            tree.add(&dir.path().join("b"))?;
            Ok(true)
        });
        assert_eq!(
            paths.unwrap(),
            [
                "/usr/bin/dash",
                "/usr/bin/sh",
                "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
                "/usr/lib/x86_64-linux-gnu/libc.so.6",
                "/usr/lib64/ld-linux-x86-64.so.2",
            ]
        );
        assert_eq!(asked, ["ld-linux-x86-64.so.2"], "one package has both");
    }

    #[test]
    fn a_directory_brings_what_is_below() {
        let (_dir, mut tree) = packages();
        let mut none = |_: &str, _: &mut Tree| Ok(false);
        let whole = ["/usr/share/x", "/usr/share/x/deep", "/usr/share/x/deep/file", "/usr/share/x/live"];
        assert_eq!(close(&mut tree, &["/usr/share/x"], &mut none).unwrap(), whole);
        assert_eq!(close(&mut tree, &["/usr/share/x/d*"], &mut none).unwrap(), whole[1..3]);
    }

    #[test]
    fn what_is_missing_is_told() {
        let (_dir, mut tree) = packages();
        let mut none = |_: &str, _: &mut Tree| Ok(false);
        let told = |result: Result<Vec<String>>| result.unwrap_err().to_string();
        assert_eq!(
            told(close(&mut tree, &["/bin/dahs"], &mut none)),
            "recipe.toml:3: keep[0]: none of the recipe's packages has /bin/dahs; did you mean /usr/bin/dash?"
        );
        assert_eq!(
            told(close(&mut tree, &["/bin/sh"], &mut none)),
            "recipe.toml:1: packages: /usr/bin/dash needs /lib64/ld-linux-x86-64.so.2, which is in no package that \
             these depend on: add the one that has it"
        );
    }
}
