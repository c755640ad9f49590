//! From the modules that hardware sets name to those that are packed: dependencies, order of loading, firmware.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use thimble_spec::definition::Mistake;
use thimble_spec::manifest::Firmware;
use thimble_spec::modules::{Module, ModuleIndex};

use super::hardware::Set;
use super::modinfo::{Modinfo, canonical};
use crate::nearest::hint;

/// All modules of a kernel package.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalog {
    /// The kernel's release.
    pub release: String,
    /// Canonical name to what is known.
    pub modules: BTreeMap<String, Known>,
    /// Canonical names of those that are part of the kernel itself.
    pub builtin: BTreeSet<String>,
}

/// One module of the package.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Path below the package's module directory.
    pub path: String,
    /// What it says of itself.
    pub info: Modinfo,
}

/// What is packed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// For PID 1.
    pub index: ModuleIndex,
    /// Name to path below the package's module directory.
    pub files: BTreeMap<String, String>,
    /// What they may ask for.
    pub firmware: Vec<Firmware>,
}

/// Resolves the sets against a kernel; `whose` names it in messages. Modules that do not exist are told, all of them.
pub fn select(catalog: &Catalog, sets: &[Set], whose: &str) -> Result<Selection, Vec<Mistake>> {
    let mut mistakes = Vec::new();
    let mut resolver = Resolver { catalog, aliases: aliases(catalog), orders: BTreeMap::new() };
    for set in sets {
        for (index, name) in set.modules.iter().enumerate() {
            let canonical = canonical(name);
            if catalog.modules.contains_key(&canonical) {
                resolver.add(&canonical);
            } else if !catalog.builtin.contains(&canonical) {
                let known = catalog.modules.keys().chain(&catalog.builtin).map(String::as_str);
                let message = format!(
                    "the set {} names the module {name}, which {whose} has neither as a file nor built \
                     in{}",
                    set.name,
                    hint(&canonical, known)
                );
                mistakes.push(set.source.mistake(&format!("modules[{index}]"), message));
            }
        }
    }
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    let packed = resolver.orders;
    let mut always: Vec<String> = Vec::new();
    for name in sets.iter().flat_map(|set| &set.always).map(|name| canonical(name)) {
        if packed.contains_key(&name) && !always.contains(&name) {
            always.push(name);
        }
    }
    let modules = packed.iter().map(|(name, needs)| {
        let aliases = catalog.modules[name].info.aliases.clone();
        (name.clone(), Module { needs: needs.clone(), aliases })
    });
    let firmware = packed.keys().flat_map(|name| {
        let files = catalog.modules[name].info.firmware.iter();
        files.map(|file| Firmware { module: name.clone(), file: file.clone() })
    });
    Ok(Selection {
        index: ModuleIndex { release: catalog.release.clone(), modules: modules.collect(), always },
        files: packed.keys().map(|name| (name.clone(), catalog.modules[name].path.clone())).collect(),
        firmware: firmware.collect::<BTreeSet<_>>().into_iter().collect(),
    })
}

/// Aliases that are plain other names (no patterns) to the modules that have them: soft dependencies use those.
fn aliases(catalog: &Catalog) -> BTreeMap<String, Vec<&str>> {
    let mut map: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (name, known) in &catalog.modules {
        for alias in known.info.aliases.iter().filter(|alias| !alias.contains(['*', ':', '['])) {
            let modules = map.entry(canonical(alias)).or_default();
            if !modules.contains(&name.as_str()) {
                modules.push(name);
            }
        }
    }
    map
}

struct Resolver<'a> {
    catalog: &'a Catalog,
    aliases: BTreeMap<String, Vec<&'a str>>,
    /// Modules to pack, and what to load before each.
    orders: BTreeMap<String, Vec<String>>,
}

impl Resolver<'_> {
    /// Packs a module and all that it needs.
    fn add(&mut self, name: &str) {
        if self.orders.contains_key(name) {
            return;
        }
        let mut order = Vec::new();
        self.visit(name, &mut order, &mut BTreeSet::new());
        // The module itself comes last.
        order.pop();
        self.orders.insert(name.to_owned(), order.clone());
        for needed in &order {
            self.add(needed);
        }
        let Some(known) = self.catalog.modules.get(name) else { return };
        for behind in &known.info.after {
            for module in self.named(behind) {
                self.add(&module);
            }
        }
    }

    /// Depth first: what a module needs stands before it. A circle (soft dependencies make them) is cut where it closes.
    fn visit(&self, name: &str, order: &mut Vec<String>, seen: &mut BTreeSet<String>) {
        let Some(known) = self.catalog.modules.get(name) else { return };
        if !seen.insert(name.to_owned()) {
            return;
        }
        let soft = known.info.before.iter().flat_map(|before| self.named(before));
        for needed in soft.chain(known.info.depends.iter().cloned()) {
            self.visit(&needed, order, seen);
        }
        order.push(name.to_owned());
    }

    /// The modules that a soft dependency means: by name, else by alias. One that nobody has is no mistake.
    fn named(&self, name: &str) -> Vec<String> {
        if self.catalog.modules.contains_key(name) || self.catalog.builtin.contains(name) {
            return vec![name.to_owned()];
        }
        self.aliases.get(name).into_iter().flatten().map(|module| (*module).to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::Source;

    fn catalog() -> Catalog {
        let module = |name: &str, depends: &[&str], before: &[&str], aliases: &[&str]| {
            let owned = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
            let info = Modinfo {
                depends: owned(depends),
                before: owned(before),
                aliases: owned(aliases),
                firmware: if name == "igb" { vec!["igb.bin".into(), "igb.bin".into()] } else { vec![] },
                ..Modinfo::default()
            };
            (name.to_owned(), Known { path: format!("kernel/{name}.ko"), info })
        };
        Catalog {
            release: "6.1".into(),
            modules: [
                module("ext4", &["mbcache", "jbd2"], &["crc32c"], &["fs-ext4"]),
                module("jbd2", &["libcrc"], &[], &[]),
                module("mbcache", &[], &[], &[]),
                module("libcrc", &[], &["crc32c"], &[]),
                module("crc32c_generic", &[], &[], &["crc32c", "crypto-crc32c"]),
                module("crc32c_intel", &[], &[], &["crc32c", "cpu:type:x86*"]),
                module("igb", &[], &["igb"], &["pci:*"]),
                module("unused", &[], &[], &[]),
            ]
            .into(),
            builtin: ["vfat".to_owned()].into(),
        }
    }

    fn set(text: &str, modules: &[&str]) -> Set {
        Set {
            name: "test".into(),
            modules: modules.iter().map(|name| (*name).to_owned()).collect(),
            always: modules.iter().take(1).map(|name| (*name).to_owned()).collect(),
            fragments: Vec::new(),
            when: Vec::new(),
            source: Source { file: "test.toml".into(), text: text.into() },
        }
    }

    #[test]
    fn the_order_of_loading_is_complete() {
        let selection = select(&catalog(), &[set("", &["ext4", "vfat", "igb"])], "linux-image").unwrap();
        let module = &selection.index.modules["ext4"];
        assert_eq!(module.needs, ["crc32c_generic", "crc32c_intel", "mbcache", "libcrc", "jbd2"]);
        assert_eq!(selection.index.modules["jbd2"].needs, ["crc32c_generic", "crc32c_intel", "libcrc"]);
        assert_eq!(selection.index.always, ["ext4"]);
        assert!(!selection.files.contains_key("unused") && !selection.files.contains_key("vfat"));
        assert_eq!(selection.firmware, [Firmware { module: "igb".into(), file: "igb.bin".into() }]);
    }

    #[test]
    fn a_module_that_is_not_there_is_told_with_the_nearest() {
        let text = "modules = [\n\"ext4\",\n\"exta\"]";
        let mistakes = select(&catalog(), &[set(text, &["ext4", "exta"])], "the package linux-image-6.1").unwrap_err();
        assert_eq!(
            mistakes[0].to_string(),
            "test.toml:3: modules[1]: the set test names the module exta, which the package linux-image-6.1 has \
             neither as a file nor built in; did you mean ext4?"
        );
    }
}
