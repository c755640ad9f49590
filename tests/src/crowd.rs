//! Many guests on one host: those of a recipe that serves a page, in 40 MiB each.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::Definition;

/// How many a host has that nothing else is said of.
pub const GUESTS: u32 = 20;

/// The name of one of them, from 1 on.
pub fn name(number: u32) -> String {
    format!("g{number}")
}

/// Builds a host, with its data on its disk, for so many guests of `minimal` in 64 MiB each; it starts the first by itself and
/// lets root in with a key. Gives its artefacts.
///
/// # Panics
/// It is refused.
pub fn build_idle(directory: &Path, public: &str, count: u32) -> PathBuf {
    let mut guests = format!("[access.ssh]\nkeys = [\"{public}\"]\n");
    for number in 1..=count {
        // Writing to a string does not fail.
        let _ = writeln!(
            guests,
            "[[guest]]\nname = \"{}\"\nimage = \"minimal\"\nmemory = \"64MiB\"\nautostart = {}\n\
             network = {{ bridge = \"br0\", address = \"10.1.1.{}/24\", gateway = \"10.1.1.1\" }}\ndisk = {{ size = \"16MiB\" }}",
            name(number),
            number == 1,
            100 + number
        );
    }
    let limit = format!("[node.overcommit]\nvcpus-percent = {}\n", count * 100);
    host("idle", "memory = \"768MiB\"").and(&guests).and(&limit).build(directory, [""; 0])
}

/// The definition of a host for virtual machines, without guests.
fn host(name: &str, memory: &str) -> Definition {
    Definition::read("configs/demo.toml").named(name).up_to("[[guest]]").with(&[
        ("\"virtio\", \"raid\", \"nic-server\", \"usb\"", "\"virtio\""),
        ("address = \"dhcp\"", "address = \"10.1.1.2/24\"\ngateway = \"10.1.1.1\""),
        ("memory = \"768MiB\"", memory),
    ])
}

/// Builds a host for so many, which starts the first ones by itself and lets root in with a key; gives its artefacts. The last
/// guest is not started again when it fails; and there is one, `late`, that is more than may run.
///
/// # Panics
/// It is refused.
pub fn build(directory: &Path, public: &str, count: u32, autostart: u32) -> PathBuf {
    let mut guests = format!("[access.ssh]\nkeys = [\"{public}\"]\n");
    for number in 1..=count {
        // Writing to a string does not fail.
        let _ = writeln!(
            guests,
            "[[guest]]\nname = \"{}\"\nimage = \"page\"\nmemory = \"40MiB\"\nautostart = {}\nrestart = \"{}\"\n\
             network = {{ bridge = \"br0\", address = \"10.1.1.{}/24\", gateway = \"10.1.1.1\" }}\ndisk = {{ size = \"16MiB\" }}",
            name(number),
            number <= autostart,
            if number == count { "never" } else { "on-failure" },
            100 + number
        );
    }
    // Each has some 8 MiB of the host's besides its own, and the host some for itself.
    let memory = format!("memory = \"{}MiB\"", 1088 + 48 * count);
    let definition = host("crowd", &memory);
    // As many vCPUs as they have, on the two processors of a machine of `thimble run`; one more has no place.
    let limit = format!("[node.overcommit]\nvcpus-percent = {}\n", count * 100 / 2);
    let late = "[[guest]]\nname = \"late\"\nimage = \"page\"\nmemory = \"40MiB\"\nautostart = false\n";
    definition.and(&guests).and(late).and(&limit).build(directory, ["--format", "netboot"])
}
