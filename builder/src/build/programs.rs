//! Phase 2: our own programs, compiled beforehand: `make programs`.

use std::env;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files;
use crate::image::elf;

/// The programs that an appliance carries.
#[derive(Clone, Debug)]
pub struct Programs {
    /// PID 1 of the host.
    pub init: PathBuf,
    /// PID 1 of the guests: the same, without the host's role.
    pub init_guest: PathBuf,
    /// The daemon.
    pub node: PathBuf,
    /// The virtual machine monitor.
    pub vmm: PathBuf,
}

/// File names, in the order of the fields.
const NAMES: [&str; 4] = ["init", "init-guest", "thimble-node", "thimble-vmm"];

impl Programs {
    /// Finds and checks them: in `given`, else beside this executable, else in `../appliance` from there.
    ///
    /// # Errors
    /// One is missing or would not run on a host, which has no C library.
    pub fn find(given: Option<&Path>) -> Result<Self> {
        let dirs = match given {
            Some(dir) => vec![dir.to_owned()],
            None => beside_us()?,
        };
        let complete = |dir: &&PathBuf| NAMES.iter().all(|name| dir.join(name).is_file());
        let dir = dirs.iter().find(complete).ok_or_else(|| missing(&dirs))?;
        let [init, init_guest, node, vmm] = NAMES.map(|name| dir.join(name));
        for path in [&init, &init_guest, &node, &vmm] {
            check(path)?;
        }
        Ok(Self { init, init_guest, node, vmm })
    }
}

fn beside_us() -> Result<Vec<PathBuf>> {
    let exe = env::current_exe().map_err(Error::io("find", "this executable"))?;
    let dir = files::parent(&exe);
    Ok(vec![dir.to_owned(), files::parent(dir).join("appliance")])
}

fn missing(dirs: &[PathBuf]) -> Error {
    // The directory that has most of them is the one that was meant.
    let lacks = |dir: &PathBuf| NAMES.into_iter().filter(|name| !dir.join(name).is_file()).collect::<Vec<_>>();
    let names = dirs.iter().map(lacks).min_by_key(Vec::len).unwrap_or_default().join(", ");
    let places = dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(" and in ");
    Error::environment(format!(
        "the appliance's own programs are missing ({names}; looked in {places}): compile them with `make programs`, or say \
         where they are with --programs DIR"
    ))
}

fn check(path: &Path) -> Result<()> {
    let wrong = |what: &str| {
        let path = path.display();
        Err(Error::environment(format!("{path} {what}: compile the programs with `make programs`")))
    };
    match elf::needs(&files::read(path)?) {
        None => wrong("is no x86-64 program"),
        Some(needs) if !needs.is_static() => wrong("needs shared libraries, which an appliance does not have"),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_unfit_is_told() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["init", "thimble-node"] {
            std::fs::copy("/bin/sh", dir.path().join(name)).unwrap();
        }
        let told = || Programs::find(Some(dir.path())).unwrap_err().to_string();
        assert!(told().contains("(init-guest, thimble-vmm; looked in "), "{}", told());
        for name in ["init-guest", "thimble-vmm"] {
            std::fs::write(dir.path().join(name), "#!/bin/sh\n").unwrap();
        }
        assert!(told().contains("init needs shared libraries"), "{}", told());
        std::fs::write(dir.path().join("init"), "#!/bin/sh\n").unwrap();
        assert!(told().contains("init is no x86-64 program"), "{}", told());
    }
}
