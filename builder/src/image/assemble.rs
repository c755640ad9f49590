//! All that stands in an image, by path: what was kept of the packages, what the recipe adds, the few files of /etc.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use thimble_spec::definition::Mistake;
use thimble_spec::paths;

use super::elf;
use super::localize;
use super::recipe::Image;
use super::stub;
use super::tree::{Item, MERGED, Tree, canonical, follow};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::files;
use crate::tool::Tool;

/// Directories that every image has, with their permissions: PID 1 mounts on some, programs expect the others.
const DIRS: [(&str, u32); 13] = [
    ("/data", 0o755),
    ("/dev", 0o755),
    ("/etc", 0o755),
    ("/proc", 0o755),
    ("/root", 0o700),
    ("/run", 0o755),
    ("/sys", 0o755),
    ("/tmp", 0o1777),
    ("/usr", 0o755),
    ("/var", 0o755),
    ("/var/lib", 0o755),
    ("/var/log", 0o755),
    ("/var/tmp", 0o1777),
];
/// How many files are handed to one `strip`.
const STRIP_AT_ONCE: usize = 200;

/// What lies at a path of the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// As in a package or in `files/`.
    Item(Item),
    /// Written by us, mode 0644.
    Text(String),
}

/// All paths of an image.
pub type Nodes = BTreeMap<String, Node>;

/// Puts an image together; later ones win: directories, packages, /etc, `files/`, links, services.
///
/// # Errors
/// A service whose program is not there.
pub fn assemble(image: &Image, kept: BTreeMap<String, Item>, overlay: &Tree) -> Result<Nodes, Vec<Mistake>> {
    let mut nodes = Nodes::new();
    let link = |target: &str| Node::Item(Item::Link { target: target.to_owned() });
    for (path, mode) in DIRS {
        nodes.insert(path.to_owned(), Node::Item(Item::Dir { mode }));
    }
    for name in MERGED {
        nodes.insert(format!("/{name}"), link(&format!("usr/{name}")));
        nodes.insert(format!("/usr/{name}"), Node::Item(Item::Dir { mode: 0o755 }));
    }
    nodes.insert("/var/run".to_owned(), link("/run"));
    nodes.extend(kept.into_iter().map(|(path, item)| (path, Node::Item(item))));
    nodes.extend(etc(&image.recipe.users).into_iter().map(|(path, text)| (path.to_owned(), Node::Text(text))));
    nodes.extend(overlaid(overlay));
    nodes.extend(image.recipe.links.iter().map(|(path, target)| (canonical(path), link(target))));
    // Plain data of strings and numbers: it always has a JSON form.
    let services = serde_json::to_string_pretty(&image.services).unwrap_or_default();
    nodes.insert(paths::SERVICES.to_owned(), Node::Text(services + "\n"));
    // PID 1 writes it, from the guest's own name servers.
    nodes.remove("/etc/resolv.conf");

    let mut mistakes: Vec<Mistake> = image
        .recipe
        .services
        .iter()
        .enumerate()
        .filter_map(|(index, service)| {
            let program = service.exec.first()?;
            let message = match leads_to(&nodes, program) {
                Some(Node::Item(Item::File { mode, .. })) if mode & 0o111 != 0 => return None,
                Some(Node::Item(Item::File { .. })) => format!("{program} is not executable: set its mode"),
                _ => format!("{program} is not in the image: add it to `keep`, or put it in files/"),
            };
            Some(image.source.mistake(&format!("service[{index}].exec"), message))
        })
        .collect();
    for (index, stub) in image.recipe.stubs.iter().enumerate() {
        if !nodes.keys().any(|path| path.rsplit('/').next() == Some(stub)) {
            let message = format!("nothing in the image needs {stub}: leave it out");
            mistakes.push(image.source.mistake(&format!("stubs[{index}]"), message));
        }
    }
    for (index, name) in image.recipe.localize.iter().enumerate() {
        if !nodes.keys().any(|path| path.rsplit('/').next() == Some(name)) {
            let message = format!("the image has no {name}: leave it out");
            mistakes.push(image.source.mistake(&format!("localize[{index}]"), message));
        }
    }
    if mistakes.is_empty() { Ok(nodes) } else { Err(mistakes) }
}

/// What lies in an overlay.
pub fn overlaid(overlay: &Tree) -> impl Iterator<Item = (String, Node)> {
    overlay.paths().filter_map(|path| {
        let item = match overlay.get(path)?.clone() {
            // What a check-out's umask decides is no part of the image.
            Item::File { source, mode } => Item::File { source, mode: mode & !0o022 },
            Item::Dir { mode } => Item::Dir { mode: mode & !0o022 },
            other => other,
        };
        Some((path.to_owned(), Node::Item(item)))
    })
}

/// Follows links at the end of a path.
fn leads_to<'a>(nodes: &'a Nodes, path: &str) -> Option<&'a Node> {
    let mut path = canonical(path);
    for _ in 0..8 {
        match nodes.get(&path)? {
            Node::Item(Item::Link { target }) => path = follow(&path, target),
            node => return Some(node),
        }
    }
    None
}

/// The few files that the C library reads, with these users beside root.
pub fn etc(users: &BTreeMap<String, u32>) -> [(&'static str, String); 4] {
    let mut passwd = String::from("root:x:0:0:root:/root:/bin/sh\n");
    let mut group = String::from("root:x:0:\n");
    for (name, uid) in users {
        passwd.push_str(&format!("{name}:x:{uid}:{uid}:{name}:/nonexistent:/usr/sbin/nologin\n"));
        group.push_str(&format!("{name}:x:{uid}:\n"));
    }
    [
        ("/etc/passwd", passwd),
        ("/etc/group", group),
        ("/etc/hosts", "127.0.0.1 localhost\n".to_owned()),
        ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\nservices: files\n".to_owned()),
    ]
}

/// What programs and libraries are changed besides that they are stripped.
#[derive(Clone, Copy, Debug)]
pub struct Changes<'a> {
    /// Libraries of which only the names are there.
    pub stubs: &'a [String],
    /// What some functions of those give.
    pub variables: &'a stub::Variables,
    /// Files without names that nothing else in the tree mentions.
    pub localize: &'a [String],
}

/// Writes the image's tree into a directory, programs and libraries without the symbols that nothing needs that runs.
///
/// # Errors
/// The disk is full, a tool fails.
pub fn write(context: &Context, nodes: &Nodes, changes: &Changes<'_>, root: &Path) -> Result<()> {
    let Changes { stubs, variables, localize } = changes;
    let mut modes: Vec<(PathBuf, u32)> = Vec::new();
    let mut programs = Vec::new();
    for (path, node) in nodes {
        let place = root.join(&path[1..]);
        files::make_dir(files::parent(&place))?;
        match node {
            Node::Item(Item::Dir { mode }) => {
                files::make_dir(&place)?;
                modes.push((place, *mode));
            }
            Node::Item(Item::Link { target }) => symlink(target, &place).map_err(Error::io("write", &place))?,
            Node::Item(Item::File { source, mode }) => {
                let content = files::read(source)?;
                fs::write(&place, &content).map_err(Error::io("write", &place))?;
                if let Some(needs) = elf::needs(&content) {
                    if needs.soname.is_some_and(|name| stubs.contains(&name)) {
                        stub::write(context, &content, variables, &place)?;
                    }
                    programs.push(place.clone());
                }
                modes.push((place, *mode));
            }
            Node::Text(text) => {
                fs::write(&place, text).map_err(Error::io("write", &place))?;
                modes.push((place, 0o644));
            }
        }
    }
    for programs in programs.chunks(STRIP_AT_ONCE) {
        Tool::new("strip").arg("--strip-unneeded").arg("--").args(programs).run(context)?;
    }
    if !localize.is_empty() {
        close_names(&programs, localize)?;
    }
    // Directories that nobody named get what everybody may read; deepest first, so that none is closed too early.
    for (place, mode) in modes.into_iter().rev() {
        fs::set_permissions(&place, fs::Permissions::from_mode(mode)).map_err(Error::io("set the mode of", &place))?;
    }
    Ok(())
}

/// Takes the names that no other of the `programs` mentions out of those that `localize` names.
fn close_names(programs: &[PathBuf], localize: &[String]) -> Result<()> {
    let mut files = Vec::new();
    for place in programs {
        let content = files::read(place)?;
        let soname = elf::needs(&content).and_then(|needs| needs.soname);
        let file_name = place.file_name().and_then(|name| name.to_str());
        let asked = localize.iter().any(|name| soname.as_ref() == Some(name) || file_name == Some(name));
        files.push((place, asked, localize::names(&content)));
    }
    for (index, (place, _, _)) in files.iter().enumerate().filter(|(_, (_, asked, _))| *asked) {
        let others = || files.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, (_, _, names))| names);
        let mut content = files::read(place)?;
        localize::localize(&mut content, &|name| others().any(|names| names.contains(name))).ok_or_else(|| {
            let name = place.file_name().unwrap_or_default().display().to_string();
            Error::environment(format!("the symbols of {name} cannot be read: leave it out of `localize`"))
        })?;
        fs::write(place, content).map_err(Error::io("write", place))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::recipe;
    use crate::place::Source;

    fn image(text: &str) -> Image {
        let source = Source { file: "recipe.toml".into(), text: text.into() };
        let parsed = recipe::parse(&source).unwrap();
        recipe::complete("web", Path::new("/images/web"), parsed, &[], source).unwrap()
    }

    #[test]
    fn users_are_known_and_links_stand_in_usr() {
        let image = image("summary = \"s\"\n[users]\nwww = 33\n[links]\n\"/bin/sh\" = \"busybox\"\n");
        let nodes = assemble(&image, BTreeMap::new(), &Tree::default()).unwrap();
        let text = |path: &str| match &nodes[path] {
            Node::Text(text) => text.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(text("/etc/passwd").lines().last(), Some("www:x:33:33:www:/nonexistent:/usr/sbin/nologin"));
        assert_eq!(nodes["/usr/bin/sh"], Node::Item(Item::Link { target: "busybox".into() }));
        assert_eq!(nodes["/bin"], Node::Item(Item::Link { target: "usr/bin".into() }));
        assert!(text(paths::SERVICES).starts_with('{'));
        assert!(!nodes.contains_key("/etc/resolv.conf"));
    }

    #[test]
    fn a_service_needs_its_program() {
        let image = image("summary = \"s\"\n[[service]]\nname = \"a\"\nexec = [\"/bin/a\"]\n");
        let file = |mode| [("/usr/bin/a".to_owned(), Item::File { source: "/x".into(), mode })].into();
        let told = |kept| assemble(&image, kept, &Tree::default()).map_err(|mistakes| mistakes[0].to_string());
        assert!(told(file(0o755)).is_ok());
        assert_eq!(
            told(file(0o644)).unwrap_err(),
            "recipe.toml:4: service[0].exec: /bin/a is not executable: set its mode"
        );
        assert_eq!(
            told(BTreeMap::new()).unwrap_err(),
            "recipe.toml:4: service[0].exec: /bin/a is not in the image: add it to `keep`, or put it in files/"
        );
    }
}
