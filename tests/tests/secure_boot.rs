//! Machines that enforce Secure Boot: with the vendor's keys, the distribution's shim, GRUB and kernel start; with the
//! owner's, the unified kernel image that the build signed. What was altered does not start.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use thimble_tests::{BOOT_LIMIT, Boot, Machine, repository, thimble};

const READY: [&str; 3] = ["^thimble: host demo up ", "^thimble: guest web1 ready ", "^thimble: guest web2 ready "];
/// How long firmware and boot loader may take to refuse.
const REFUSAL_LIMIT: Duration = Duration::from_secs(120);
/// The test key of Debian's package `ovmf`, whose pass phrase is public, and variables that know its certificate alone.
const KEY: &str = "/usr/share/ovmf/PkKek-1-snakeoil.key";
const CERTIFICATE: &str = "/usr/share/ovmf/PkKek-1-snakeoil.pem";
const OWN_KEYS: &str = "--secure-boot=/usr/share/OVMF/OVMF_VARS_4M.snakeoil.fd";
/// Variables with the keys of vendors' machines.
const VENDOR_KEYS: &str = "--secure-boot";

/// Builds the demonstration with a table about Secure Boot.
fn build(dir: &Path, table: &str, formats: &str) -> PathBuf {
    let demo = fs::read_to_string(repository().join("configs/demo.toml")).expect("the demonstration");
    let config = dir.join("demo.toml");
    fs::write(&config, format!("{demo}\n[secure-boot]\n{table}\n")).expect("a definition");
    let out = dir.join("out");
    let mut command = thimble();
    command.arg("build").arg(&config).args(["--quiet", "--library", ".", "--format", formats, "--out"]).arg(&out);
    assert!(command.status().expect("thimble starts").success(), "the demonstration builds");
    out
}

fn boot<'a>(artefacts: &'a Path, by: &'a str, more: &'a [&'a str]) -> Machine {
    Machine::boot(&Boot { artefacts, by, forward: &[], append: "", more })
}

/// Inverts a bit of `file` in the middle of `piece`, which is somewhere in it.
fn alter(file: &Path, piece: &[u8]) {
    let mut bytes = fs::read(file).expect("an artefact");
    let middle = &piece[piece.len() / 2..][..4096];
    let at = bytes.windows(middle.len()).position(|window| window == middle).expect("it is in there");
    bytes[at] ^= 1;
    fs::write(file, bytes).expect("it can be written");
}

#[test]
fn the_distributions_signatures_start_the_flash_disk_and_an_altered_kernel_does_not_start() {
    // Given a flash disk and an ISO with the distribution's loaders,
    let dir = TempDir::new().expect("a temporary directory");
    let out = build(dir.path(), "mode = \"debian\"", "flash,netboot,iso");
    // when firmware with the vendor's keys starts the one, and the other from a stick,
    boot(&out, "flash-uefi", &[VENDOR_KEYS]).wait_all(&READY, BOOT_LIMIT);
    // then both come up.
    boot(&out, "usb-uefi", &[VENDOR_KEYS]).wait("^thimble: host demo up ", BOOT_LIMIT);

    // And when one bit of the kernel on the disk is another, GRUB does not start it.
    let kernel = fs::read(out.join("netboot/vmlinuz")).expect("the kernel");
    alter(&out.join("flash.img"), &kernel);
    let mut machine = boot(&out, "flash-uefi", &[VENDOR_KEYS]);
    machine.wait("bad shim signature", REFUSAL_LIMIT);
    machine.wait("cannot be loaded", REFUSAL_LIMIT);
    assert!(!machine.seen().iter().any(|line| line.contains("manifest")), "{:?}", machine.seen());
}

#[test]
fn ones_own_signature_starts_the_unified_kernel_image_and_an_altered_one_does_not_start() {
    // Given an image that was signed with a key whose certificate the firmware knows,
    let dir = TempDir::new().expect("a temporary directory");
    let mut openssl = Command::new("openssl");
    openssl.args(["rsa", "-in", KEY, "-passin", "pass:snakeoil", "-out"]).arg(dir.path().join("db.key"));
    assert!(openssl.output().expect("openssl starts").status.success());
    let table = format!("mode = \"own\"\nkey = \"db.key\"\ncertificate = \"{CERTIFICATE}\"");
    let out = build(dir.path(), &table, "iso,netboot,uki");
    // when firmware starts it, alone or from the ISO,
    boot(&out, "uki", &[OWN_KEYS]).wait_all(&READY, BOOT_LIMIT);
    // then it comes up.
    boot(&out, "iso-uefi", &[OWN_KEYS]).wait("^thimble: host demo up ", BOOT_LIMIT);

    // Firmware with other keys refuses it,
    boot(&out, "uki", &[VENDOR_KEYS]).wait("Access Denied", REFUSAL_LIMIT);
    // and so does the right one if a bit of the initramfs is another.
    let initrd = fs::read(out.join("netboot/initrd")).expect("the initramfs");
    alter(&out.join("thimble.efi"), &initrd);
    boot(&out, "uki", &[OWN_KEYS]).wait("Access Denied", REFUSAL_LIMIT);
}
