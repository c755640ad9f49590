//! Kernel modules: those that are always wanted, and a driver for each device that shows a `modalias`.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use thimble_spec::json::Json;
use thimble_spec::modules::ModuleIndex;

use crate::console;
use crate::error::{Doing, Error, Result};

/// Parameters of modules. The bonding driver makes a `bond0` of its own unless told otherwise
/// (Documentation/networking/bonding.rst in the kernel's tree).
const PARAMETERS: [(&str, &str); 1] = [("bonding", "max_bonds=0")];

/// What the kernel says of the processors: KVM's driver is chosen by it.
const PROCESSORS: &str = "/sys/devices/system/cpu/modalias";
/// Drivers that are there before their devices, if the host has them: what brings these devices to light brings them in the
/// order of their places, and a driver that came in the middle of that would take them, and so name them, in another.
const BEFORE_DEVICES: [&str; 2] = ["virtio_blk", "virtio_net"];
/// Drivers that are loaded at the same time.
const AT_ONCE: usize = 4;

/// Where devices are; the rest of /sys only points there.
const DEVICES: &str = "/sys/devices";

/// The modules of this host.
pub struct Modules {
    directory: PathBuf,
    index: ModuleIndex,
    /// Tried already, with or without success.
    tried: BTreeSet<String>,
    /// Seen already.
    seen: BTreeSet<String>,
}

impl Modules {
    /// Reads the index. Without one the host has what its kernel has built in.
    pub fn open(directory: &Path, index: &Path) -> Result<Self> {
        let text = fs::read(index).doing(|| format!("read {}", index.display()))?;
        let index = ModuleIndex::from_json(&text)
            .map_err(|error| Error::Said(format!("{}: {error}: build the image again", index.display())))?;
        Ok(Self { index, ..Self::none(directory) })
    }

    /// No modules.
    pub fn none(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            index: ModuleIndex::default(),
            tried: BTreeSet::new(),
            seen: BTreeSet::new(),
        }
    }

    /// The kernel release that they are made for.
    pub fn release(&self) -> &str {
        &self.index.release
    }

    /// Loads those that are wanted on every machine, and those for its processors.
    pub fn load_always(&mut self) {
        for name in self.index.always.clone() {
            self.load(&name);
        }
        if let Ok(modalias) = fs::read_to_string(PROCESSORS) {
            self.load_for(modalias.trim());
        }
    }

    /// Loads drivers for all devices that are there, several at once: most of a driver's time is waiting for its devices.
    pub fn load_drivers(&mut self) {
        for name in BEFORE_DEVICES {
            if self.index.modules.contains_key(name) {
                self.load(name);
            }
        }
        let mut found = BTreeSet::new();
        modaliases(Path::new(DEVICES), &mut found);
        let drivers = found.iter().flat_map(|modalias| self.index.drivers_of(modalias));
        let names: BTreeSet<String> = drivers.map(str::to_owned).collect();
        let todo = Mutex::new(names.iter());
        let next = || todo.lock().ok().and_then(|mut names| names.next());
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                // Two that need the same third one both ask for it: the kernel lets the second wait for the first.
                scope.spawn(|| {
                    while let Some(name) = next() {
                        self.bring(name, |_| true);
                    }
                });
            }
        });
        self.seen.extend(found);
        self.tried.extend(names);
        // What appeared by that.
        self.load_all();
    }

    /// Loads drivers for all devices that are there, and for those that appear by that.
    pub fn load_all(&mut self) {
        loop {
            let mut found = BTreeSet::new();
            modaliases(Path::new(DEVICES), &mut found);
            let new: Vec<String> = found.difference(&self.seen).cloned().collect();
            if new.is_empty() {
                return;
            }
            for modalias in new {
                self.load_for(&modalias);
            }
        }
    }

    /// Loads the drivers for a device, or for anything else that has aliases: `rtnl-link-bridge`, `fs-ext4`.
    pub fn load_for(&mut self, modalias: &str) {
        if !self.seen.insert(modalias.to_owned()) {
            return;
        }
        for name in self.index.drivers_of(modalias).map(str::to_owned).collect::<Vec<_>>() {
            self.load(&name);
        }
    }

    /// Loads a module and, before it, those that it needs.
    pub fn load(&mut self, name: &str) {
        let mut tried = std::mem::take(&mut self.tried);
        self.bring(name, |name| tried.insert(name.to_owned()));
        self.tried = tried;
    }

    /// The same, as far as `wanted` says so.
    fn bring(&self, name: &str, mut wanted: impl FnMut(&str) -> bool) {
        let needs = self.index.modules.get(name).map_or(&[][..], |module| &module.needs);
        for name in needs.iter().map(String::as_str).chain([name]) {
            if wanted(name)
                && !is_there(&Path::new("/sys/module").join(name))
                && let Err(error) = self.insert(name)
            {
                console::failed(&error);
                return;
            }
        }
    }

    fn insert(&self, name: &str) -> Result<()> {
        let path = self.directory.join(format!("{name}.ko"));
        let file = File::open(&path).doing(|| format!("open module {}", path.display()))?;
        let parameters = PARAMETERS.iter().find(|(module, _)| *module == name).map_or("", |(_, text)| text);
        let parameters = CString::new(parameters).unwrap_or_default();
        match finit_module(file, &parameters, ModuleInitFlags::empty()) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            // What a driver says that finds no hardware: kvm_intel on AMD, a watchdog that is not there.
            Err(Errno::ENODEV | Errno::EOPNOTSUPP | Errno::EBUSY) => {
                console::notice(&format!("module {name} has nothing to do here"));
                Ok(())
            }
            Err(errno) => Err(errno).doing(|| format!("load module {name}")),
        }
    }
}

/// Whether a module is loaded to its end, by its directory in sysfs. One that another process is loading is not: to ask
/// for it waits until it is.
fn is_there(directory: &Path) -> bool {
    match fs::read_to_string(directory.join("initstate")) {
        Ok(state) => state.trim() == "live",
        // What is built in has a directory, and no state.
        Err(_) => directory.exists(),
    }
}

/// Collects what the files called `modalias` below `directory` say.
fn modaliases(directory: &Path, found: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        // Symbolic links, of which sysfs is full, are not directories here: no circles.
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            modaliases(&entry.path(), found);
        } else if entry.file_name() == "modalias"
            && let Ok(text) = fs::read_to_string(entry.path())
            && !text.trim().is_empty()
        {
            found.insert(text.trim().to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_modalias_once() {
        let place = tempfile::tempdir().unwrap();
        for (path, text) in
            [("a/modalias", "pci:1\n"), ("a/b/modalias", "virtio:2\n"), ("c/modalias", "pci:1\n"), ("d/modalias", "\n")]
        {
            let path = place.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        std::os::unix::fs::symlink(place.path(), place.path().join("a/loop")).unwrap();
        let mut found = BTreeSet::new();
        modaliases(place.path(), &mut found);
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["pci:1", "virtio:2"]);
    }

    #[test]
    fn what_is_still_being_loaded_is_not_there() {
        let place = tempfile::tempdir().unwrap();
        assert!(!is_there(&place.path().join("nothing")));
        assert!(is_there(place.path()), "built in");
        for (state, there) in [("coming\n", false), ("live\n", true), ("going\n", false)] {
            fs::write(place.path().join("initstate"), state).unwrap();
            assert_eq!(is_there(place.path()), there, "{state}");
        }
    }

    #[test]
    fn a_broken_index_is_named() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("index.json");
        let error = |path: &Path| Modules::open(place.path(), path).err().unwrap().sentence();
        assert!(error(&path).contains("index.json: No such file"), "{}", error(&path));
        fs::write(&path, "{").unwrap();
        assert!(error(&path).contains("build the image again"));
        fs::write(&path, r#"{"release":"6.1","modules":{"a":{"aliases":["x*"]}},"always":["a"]}"#).unwrap();
        assert_eq!(Modules::open(place.path(), &path).unwrap().release(), "6.1");
    }
}
