//! Hardware sets: `configs/hardware/NAME.toml`, the modules that some kind of machine needs.

use serde::Deserialize;
use thimble_spec::definition::Mistake;

use crate::error::Result;
use crate::files;
use crate::library::Library;
use crate::nearest::hint;
use crate::place::{Source, refuse};

/// The set that every host has, whatever its definition says.
pub const BASE: &str = "base";

/// A set as it stands in its file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// Said for whoever reads the file.
    #[serde(rename = "summary")]
    _summary: String,
    modules: Vec<String>,
    #[serde(default)]
    always: Vec<String>,
    #[serde(default)]
    fragments: Vec<String>,
    #[serde(default)]
    when: Vec<String>,
}

/// A hardware set.
#[derive(Clone, Debug)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// Modules that it names.
    pub modules: Vec<String>,
    /// Modules to load whatever hardware is there; all of them are among `modules`.
    pub always: Vec<String>,
    /// What switches them on in a kernel that is compiled: names of configuration fragments.
    pub fragments: Vec<String>,
    /// Patterns of `modalias`: `thimble hardware` proposes the set where a device has one of them. Without any, everywhere.
    pub when: Vec<String>,
    /// Its file, for mistakes.
    pub source: Source,
}

impl Set {
    /// Checks what can be checked without a kernel.
    ///
    /// # Errors
    /// A module is to be loaded and is not packed.
    pub fn check(&self) -> std::result::Result<(), Mistake> {
        match self.always.iter().enumerate().find(|(_, name)| !self.modules.contains(name)) {
            None => Ok(()),
            Some((index, stray)) => {
                let message = format!("{stray} is not among `modules`: add it there");
                Err(self.source.mistake(&format!("always[{index}]"), message))
            }
        }
    }
}

/// Reads the base set and the named ones. Names that have no file are mistakes of `definition`.
///
/// # Errors
/// A set's file is wrong or cannot be read.
pub fn read(library: &Library, names: &[String], definition: &Source, mistakes: &mut Vec<Mistake>) -> Result<Vec<Set>> {
    let mut sets = Vec::new();
    let base = (BASE.to_owned(), "kernel.host.hardware".to_owned());
    let named = names.iter().enumerate().filter(|(_, name)| *name != BASE);
    let named = named.map(|(index, name)| (name.clone(), format!("kernel.host.hardware[{index}]")));
    for (name, key) in std::iter::once(base).chain(named) {
        let path = library.hardware(&name);
        if !path.is_file() {
            let known = Library::siblings(&path);
            let hint = hint(&name, known.iter().map(String::as_str));
            let message = format!("there is no hardware set {name}: {} does not exist{hint}", path.display());
            mistakes.push(definition.mistake(&key, message));
            continue;
        }
        let source = Source { file: path.display().to_string(), text: files::read_text(&path)? };
        match parse(&name, source) {
            Ok(set) => sets.push(set),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    Ok(sets)
}

/// Reads all sets of a library, sorted by name.
///
/// # Errors
/// A set's file is wrong or cannot be read; there is none.
pub fn all(library: &Library) -> Result<Vec<Set>> {
    let names = Library::siblings(&library.hardware(BASE));
    let (mut sets, mut mistakes) = (Vec::new(), Vec::new());
    for name in names {
        let path = library.hardware(&name);
        let source = Source { file: path.display().to_string(), text: files::read_text(&path)? };
        match parse(&name, source) {
            Ok(set) => sets.push(set),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    refuse(mistakes)?;
    Ok(sets)
}

fn parse(name: &str, source: Source) -> std::result::Result<Set, Mistake> {
    let table: Table = toml::from_str(&source.text).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        Mistake::at(&source.file, &source.text, span, String::new(), error.message())
    })?;
    let set = Set {
        name: name.to_owned(),
        modules: table.modules,
        always: table.always,
        fragments: table.fragments,
        when: table.when,
        source,
    };
    set.check()?;
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source { file: "set.toml".into(), text: text.into() }
    }

    #[test]
    fn reads_a_set() {
        let set = parse("usb", source("summary = \"s\"\nmodules = [\"a\", \"b\"]\nalways = [\"b\"]")).unwrap();
        assert_eq!((set.modules.len(), set.always), (2, vec!["b".to_owned()]));
    }

    #[test]
    fn what_is_loaded_always_must_be_packed() {
        let mistake = parse("usb", source("summary = \"s\"\nmodules = [\"a\"]\nalways = [\n\"b\"]")).unwrap_err();
        assert_eq!(mistake.to_string(), "set.toml:4: always[0]: b is not among `modules`: add it there");
    }
}
