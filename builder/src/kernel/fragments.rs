//! The fragments that a kernel is configured by: found, read, laid over each other.

use thimble_spec::definition::Mistake;

use super::config::{self, Setting};
use super::hardware::Set;
use crate::error::Result;
use crate::files;
use crate::library::Library;
use crate::nearest::hint;
use crate::place::Source;

/// A fragment that somebody names.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// `host/virtio`.
    pub name: &'a str,
    /// The file that names it.
    pub by: &'a Source,
    /// The key there.
    pub key: String,
}

/// The guests': those of the definition.
pub fn of_guest<'a>(names: &'a [String], definition: &'a Source) -> Vec<Wanted<'a>> {
    listed(names, definition, "kernel.guest.fragments").collect()
}

/// The host's: those of its hardware sets, then those of the definition, so that the definition wins.
pub fn of_host<'a>(sets: &'a [Set], names: &'a [String], definition: &'a Source) -> Vec<Wanted<'a>> {
    let of_sets = sets.iter().flat_map(|set| listed(&set.fragments, &set.source, "fragments"));
    of_sets.chain(listed(names, definition, "kernel.host.fragments")).collect()
}

fn listed<'a>(names: &'a [String], by: &'a Source, list: &str) -> impl Iterator<Item = Wanted<'a>> {
    names.iter().enumerate().map(move |(index, name)| Wanted { name, by, key: format!("{list}[{index}]") })
}

/// Reads and merges them; the later ones win. Names that have no file are mistakes of whoever names them.
///
/// # Errors
/// A fragment cannot be read.
pub fn read(library: &Library, wanted: &[Wanted<'_>], mistakes: &mut Vec<Mistake>) -> Result<Vec<Setting>> {
    let mut settings = Vec::new();
    for Wanted { name, by, key } in wanted {
        let path = library.fragment(name);
        if !path.is_file() {
            let (dir, leaf) = name.rsplit_once('/').map_or(("", *name), |(dir, leaf)| (dir, leaf));
            let known: Vec<String> = Library::siblings(&path)
                .into_iter()
                .map(|sibling| if dir.is_empty() { sibling } else { format!("{dir}/{sibling}") })
                .collect();
            let hint = hint(if dir.is_empty() { leaf } else { name }, known.iter().map(String::as_str));
            let message = format!("there is no fragment {name}: {} does not exist{hint}", path.display());
            mistakes.push(by.mistake(key, message));
            continue;
        }
        match config::parse(&path.display().to_string(), &files::read_text(&path)?) {
            Ok(parsed) => settings.extend(parsed),
            Err(wrong) => mistakes.extend(wrong),
        }
    }
    Ok(config::merge(settings))
}
