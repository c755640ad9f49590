//! Host features: `configs/host/NAME.toml`, what one concern of the host takes.
//!
//! ```toml
//! summary = "arrays of disks: mdadm and the kernel's personalities"
//! modules = ["md_mod", "raid1"]          # of the host's kernel, with all that they need
//! always = []                            # those of them that PID 1 loads whatever is there
//! fragments = []                         # what switches them on in a kernel that is compiled
//! packages = ["mdadm"]                   # of the distribution
//! keep = ["/sbin/mdadm"]                 # paths in them, with the ELF closure of each
//! stubs = ["libsystemd.so.0"]            # libraries that are linked with and not used: functions that return 0 take their place
//! [links]
//! "/usr/bin/x" = "busybox"               # symbolic links: path = target
//! [users]
//! chrony = 101                           # name = uid (and gid)
//! [[script]]                             # modules of JavaScript as one script for browsers, by gzip
//! path = "/usr/share/thimble/x.js"       # where it stands, with `.gz` behind it
//! module = "/usr/share/nodejs/x/x.js"    # what is kept in the directory of the first module goes into it, and is not
//!                                        # packed itself unless `keep` names it
//! name = "X"                             # what it exports is called so
//! ```
//! A directory `configs/host/NAME/` is laid over the packages' files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use thimble_spec::appliance::Appliance;
use thimble_spec::definition::Mistake;
use thimble_spec::feature;

use crate::error::{Error, Result};
use crate::files;
use crate::kernel::hardware::Set;
use crate::library::Library;
use crate::place::Source;

/// A feature as it stands in its file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// Said for whoever reads the file.
    #[serde(rename = "summary")]
    _summary: String,
    #[serde(default)]
    modules: Vec<String>,
    #[serde(default)]
    always: Vec<String>,
    #[serde(default)]
    fragments: Vec<String>,
    #[serde(default)]
    packages: Vec<String>,
    #[serde(default)]
    keep: Vec<String>,
    #[serde(default)]
    stubs: Vec<String>,
    #[serde(default)]
    links: BTreeMap<String, String>,
    #[serde(default)]
    users: BTreeMap<String, u32>,
    #[serde(default, rename = "script")]
    scripts: Vec<Script>,
}

/// Modules that become one script for browsers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// Its path, without `.gz`.
    pub path: String,
    /// The first module.
    pub module: String,
    /// What is exported has this name.
    pub name: String,
}

/// A feature.
#[derive(Clone, Debug)]
pub struct Feature {
    /// Its modules, its name and its file.
    pub set: Set,
    /// Packages of the distribution.
    pub packages: Vec<String>,
    /// Absolute paths in the packages to keep, with the ELF closure of each; directories with all below them.
    pub keep: Vec<String>,
    /// Libraries of which only the names are there.
    pub stubs: Vec<String>,
    /// Symbolic links: path to target.
    pub links: BTreeMap<String, String>,
    /// Users, each with a group of the same name and number.
    pub users: BTreeMap<String, u32>,
    /// Scripts for browsers.
    pub scripts: Vec<Script>,
    /// What is laid over the packages' files, if the directory exists.
    pub overlay: PathBuf,
}

/// Reads those that an appliance asks for.
///
/// # Errors
/// A file cannot be read.
pub fn read(library: &Library, appliance: &Appliance, mistakes: &mut Vec<Mistake>) -> Result<Vec<Feature>> {
    let mut features = Vec::new();
    for name in feature::wanted(appliance) {
        let path = library.host(name);
        if !path.is_file() {
            let path = path.display();
            return Err(Error::environment(format!("the library is not complete: {path} does not exist")));
        }
        let source = Source { file: path.display().to_string(), text: files::read_text(&path)? };
        match parse(name, source, path.with_extension("")) {
            Ok(feature) => features.push(feature),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    Ok(features)
}

fn parse(name: &str, source: Source, overlay: PathBuf) -> std::result::Result<Feature, Mistake> {
    let table: Table = toml::from_str(&source.text).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        Mistake::at(&source.file, &source.text, span, String::new(), error.message())
    })?;
    let set = Set {
        name: name.to_owned(),
        modules: table.modules,
        always: table.always,
        fragments: table.fragments,
        when: Vec::new(),
        source,
    };
    set.check()?;
    let Table { packages, keep, stubs, links, users, scripts, .. } = table;
    Ok(Feature { set, packages, keep, stubs, links, users, scripts, overlay })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_feature_of_this_library_can_be_read() {
        let library = Library::find(None, &PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("x")).unwrap();
        for known in feature::FEATURES {
            let path = library.host(known.name);
            let source = Source { file: path.display().to_string(), text: files::read_text(&path).unwrap() };
            let feature = parse(known.name, source, path.with_extension("")).unwrap();
            assert!(feature.keep.is_empty() || !feature.packages.is_empty(), "{}", known.name);
        }
        let files = Library::siblings(&library.host("x"));
        let unknown: Vec<&String> =
            files.iter().filter(|name| !feature::FEATURES.iter().any(|known| known.name == **name)).collect();
        assert!(unknown.is_empty(), "files that no feature names: {unknown:?}");
    }

    #[test]
    fn what_is_loaded_always_must_be_packed() {
        let source = Source { file: "x.toml".into(), text: "summary = \"s\"\nalways = [\n\"b\"]".into() };
        let mistake = parse("x", source, PathBuf::new()).unwrap_err();
        assert_eq!(mistake.to_string(), "x.toml:3: always[0]: b is not among `modules`: add it there");
    }
}
