//! Appliances that update each other: `tests/library/update.toml` with a line changed here and there, signed with keys of
//! the test's own; and what is on the disk afterwards, looked at without the machine.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;
use thimble_spec::slot::Slot;
use thimble_store::{Partition, Store, silent};

use crate::{Definition, repository, thimble};

/// A directory with keys, definitions and what is built from them.
#[derive(Debug)]
pub struct Workshop {
    dir: TempDir,
}

impl Workshop {
    /// With the keys `node` and `other`.
    ///
    /// # Panics
    /// They cannot be made.
    pub fn open() -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        for key in ["node.key", "other.key"] {
            let made = thimble().args(["key"]).arg(dir.path().join(key)).output().expect("thimble starts");
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        }
        Self { dir }
    }

    /// A file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Builds the definition with these texts replaced, signed with `key`, with more arguments for `thimble build`; gives
    /// the output directory.
    ///
    /// # Panics
    /// It does not build, or a text is not in the definition.
    pub fn build(&self, name: &str, changes: &[(&str, &str)], key: &str, more: &[&str]) -> PathBuf {
        let key = self.path(key);
        let words = [OsStr::new("--sign"), key.as_os_str()].into_iter().chain(more.iter().map(OsStr::new));
        Definition::read("tests/library/update.toml").named(name).with(changes).build(self.dir.path(), words)
    }

    /// The programs that appliances carry, the guests' PID 1 with a byte more behind its end, which changes nothing but
    /// its hash.
    ///
    /// # Panics
    /// They cannot be copied.
    pub fn programs_with_another_guest(&self) -> PathBuf {
        let (from, to) = (repository().join("target/x86_64-unknown-linux-gnu/appliance"), self.path("programs"));
        fs::create_dir(&to).expect("a directory");
        for name in ["init", "init-guest", "thimble-node", "thimble-vmm"] {
            let mut bytes = fs::read(from.join(name)).expect("the program is compiled");
            if name == "init-guest" {
                bytes.push(0);
            }
            fs::write(to.join(name), bytes).expect("it can be written");
            let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(to.join(name), executable).expect("it can be made executable");
        }
        to
    }
}

/// The manifest hash of a build.
///
/// # Panics
/// There is none.
pub fn manifest_of(out: &Path) -> String {
    let manifest = fs::read(out.join("manifest.json")).expect("there is a manifest");
    let manifest: Value = serde_json::from_slice(&manifest).expect("it is JSON");
    manifest["hash"].as_str().expect("a hash").to_owned()
}

/// Whether all that fsck.fat finds is clusters that nothing leads to: what was written before its name was. They are
/// free space that nobody has counted yet, and the next update takes them back.
fn only_lost_clusters(said: &str) -> bool {
    let fine = |line: &str| {
        ["fsck.fat ", "Reclaimed ", "Leaving filesystem unchanged."].iter().any(|start| line.starts_with(start))
            || line.contains(" files, ")
    };
    said.lines().all(|line| line.is_empty() || fine(line))
}

/// Looks at a flash disk that no machine uses: both file systems and the store must be sound, the good slot and the one
/// that starts next whole. Gives the good slot and the next one.
///
/// # Panics
/// They are not.
pub fn check_disk(disk: &Path) -> (Slot, Slot) {
    let dir = TempDir::new().expect("a temporary directory");
    let table = thimble().args(["inspect", "--json"]).arg(disk).output().expect("thimble starts");
    assert!(table.status.success(), "{}", String::from_utf8_lossy(&table.stderr));
    let table: Value = serde_json::from_slice(&table.stdout).expect("it is JSON");
    let part = |name: &str| {
        let parts = table["partitions"].as_array().expect("partitions");
        let part = parts.iter().find(|part| part["name"] == name).expect(name);
        (part["start"].as_u64().expect("a number"), part["bytes"].as_u64().expect("a number"))
    };
    let copy = |name: &str| {
        let ((start, bytes), path) = (part(name), dir.path().join(name));
        let mut from = File::open(disk).expect("the disk opens");
        std::io::Seek::seek(&mut from, std::io::SeekFrom::Start(start)).expect("it has that place");
        let mut to = File::create(&path).expect("a file");
        std::io::copy(&mut std::io::Read::take(from, bytes), &mut to).expect("it is copied");
        path
    };
    let run = |program: &str, options: &[&str], path: &Path, fine: &[i32]| {
        let output = Command::new(program).args(options).arg(path).output().expect(program);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.code().is_some_and(|code| fine.contains(&code)), "{program} {options:?}: {said}");
    };
    let (esp, data) = (copy("esp"), copy("thimble-data"));
    let output = Command::new("fsck.fat").arg("-n").arg(&esp).output().expect("fsck.fat");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() || only_lost_clusters(&said), "fsck.fat: {said}");
    // What stands in the journal is written first, as a mount would; then nothing is left to mend.
    run("e2fsck", &["-E", "journal_only", "-p"], &data, &[0, 1]);
    run("e2fsck", &["-f", "-n"], &data, &[0]);

    let store = Store::open(Partition::open(&esp).expect("it opens")).expect("a store");
    let state = store.state().expect("a state");
    for slot in [state.good, state.next()] {
        store.verify(slot, &mut silent).unwrap_or_else(|error| panic!("slot {slot}: {error}"));
    }
    (state.good, state.next())
}
