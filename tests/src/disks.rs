//! Disks of a machine under `thimble run`, each known by its serial number: files that a test can make, look at and pull.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{BOOT_LIMIT, Boot, Definition, Machine, repository, ssh};

/// Where a disk is plugged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plug {
    /// A virtio disk, for good.
    Virtio,
    /// A virtio disk in a slot of its own: it can be pulled.
    Slot,
    /// A SATA disk.
    Sata,
    /// A SATA disk with this world wide name.
    Wwn(u64),
}

/// Disks in a directory.
pub struct Disks {
    directory: PathBuf,
    disks: Vec<(&'static str, Plug)>,
}

impl Disks {
    /// Blank ones of these serial numbers and sizes, in MiB.
    ///
    /// # Panics
    /// They cannot be made.
    pub fn new(directory: &Path, disks: &[(&'static str, u64, Plug)]) -> Self {
        for (serial, mib, _) in disks {
            let file = File::create(directory.join(serial)).expect("a disk can be made");
            file.set_len(mib << 20).expect("a disk can be made");
        }
        let disks = disks.iter().map(|(serial, _, plug)| (*serial, *plug)).collect();
        Self { directory: directory.to_owned(), disks }
    }

    /// The same without some, which were pulled.
    pub fn without(mut self, serials: &[&str]) -> Self {
        self.disks.retain(|(serial, _)| !serials.contains(serial));
        self
    }

    /// The file of one.
    pub fn file(&self, serial: &str) -> PathBuf {
        self.directory.join(serial)
    }

    /// What is on one, as a hash.
    ///
    /// # Panics
    /// It cannot be read.
    pub fn hash(&self, serial: &str) -> String {
        let content = fs::read(self.file(serial)).expect("a disk can be read");
        Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// QEMU's words for them.
    fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        for (number, (serial, plug)) in self.disks.iter().enumerate() {
            let file = self.file(serial);
            words.push("-blockdev".to_owned());
            words.push(format!("driver=raw,node-name=disk-{serial},file.driver=file,file.filename={}", file.display()));
            if *plug == Plug::Slot {
                words.push("-device".to_owned());
                words.push(format!("pcie-root-port,id=slot-{serial},chassis={0},slot={0}", number + 1));
            }
            words.push("-device".to_owned());
            words.push(match plug {
                Plug::Virtio => format!("virtio-blk-pci,drive=disk-{serial},serial={serial}"),
                Plug::Slot => {
                    format!("virtio-blk-pci,id={serial},drive=disk-{serial},serial={serial},bus=slot-{serial}")
                }
                Plug::Sata => format!("ide-hd,drive=disk-{serial},serial={serial}"),
                Plug::Wwn(wwn) => format!("ide-hd,drive=disk-{serial},serial={serial},wwn={wwn:#x}"),
            });
        }
        words
    }

    /// Boots `out` with these disks.
    ///
    /// # Panics
    /// As [`Machine::boot`].
    pub fn boot(&self, out: &Path, forward: &[(u16, &str)]) -> Machine {
        let words = self.words();
        let more: Vec<&str> = ["--"].into_iter().chain(words.iter().map(String::as_str)).collect();
        let append = "thimble.guest-consoles";
        Machine::boot(&Boot { forward, append, more: &more, ..Boot::new(out, "direct") })
    }

    /// Pulls a disk out of its slot, and waits until it is gone.
    ///
    /// # Panics
    /// The machine does not let it go.
    pub fn pull(machine: &Machine, serial: &str) {
        machine.unplug(serial);
    }

    /// Plugs it in again.
    ///
    /// # Panics
    /// QEMU refuses.
    pub fn plug(machine: &Machine, serial: &str) {
        let (drive, bus) = (format!("disk-{serial}"), format!("slot-{serial}"));
        let disk = json!({ "driver": "virtio-blk-pci", "id": serial, "drive": drive, "serial": serial, "bus": bus });
        machine.qmp("device_add", disk);
    }
}

/// Builds `tests/library/NAME.toml` with these texts replaced, from the library of the repository and the images of the tests.
///
/// # Panics
/// It does not build.
pub fn build(directory: &Path, name: &str, changes: &[(&str, &str)]) -> PathBuf {
    from_library(directory, Definition::read(&format!("tests/library/{name}.toml")).with(changes))
}

/// Builds the host of `tests/library/storage.toml`, which lets in who has the key, with other storage and guests.
///
/// # Panics
/// It does not build.
pub fn build_other(directory: &Path, key: &str, storage: &str) -> PathBuf {
    let host = Definition::read("tests/library/storage.toml").with(&[("KEY", key)]).up_to("# A mirror of");
    from_library(directory, host.and(storage))
}

fn from_library(directory: &Path, definition: Definition) -> PathBuf {
    let library = directory.join("library");
    if !library.exists() {
        fs::create_dir_all(library.join("images")).expect("a directory");
        symlink(repository().join("configs"), library.join("configs")).expect("a link");
        for (from, image) in [("images", "page"), ("tests/library/images", "writer")] {
            symlink(repository().join(from).join(image), library.join("images").join(image)).expect("a link");
        }
    }
    definition.library(library).build(directory, ["--format", "netboot"])
}

/// What a host tells of its storage.
///
/// # Panics
/// It does not.
pub fn status(port: u16, key: &Path) -> Value {
    serde_json::from_str(&ssh::said(port, key, "thimble-node storage --json")).expect("JSON")
}

/// An array in that.
///
/// # Panics
/// There is none of that name.
pub fn array<'a>(status: &'a Value, name: &str) -> &'a Value {
    let arrays = status["arrays"].as_array().expect("a list");
    arrays.iter().find(|array| array["name"] == name).unwrap_or_else(|| panic!("{status}"))
}

/// Whether it has all of its members, and nothing to do.
pub fn whole(status: &Value, name: &str) -> bool {
    array(status, name)["degraded"] == 0 && array(status, name)["action"] == "idle"
}

/// Waits until the storage's status is so.
///
/// # Panics
/// It never is.
pub fn until(port: u16, key: &Path, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let status = status(port, key);
        if is(&status) {
            return status;
        }
        assert!(began.elapsed() < BOOT_LIMIT, "never {what}: {status:#}");
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Steps that write something new.
pub fn made(machine: &Machine) -> Vec<&String> {
    let writes = ["storage: make ", "storage: wipe ", "storage: write ", "storage: add ", "storage: clear "];
    machine.seen().iter().filter(|line| writes.iter().any(|begin| line.starts_with(begin))).collect()
}
