//! The artefacts for machines that boot from a CD, from a USB stick or from a single program: each one, by each firmware
//! that can start it, comes to the same state as the flash disk.

use std::path::Path;
use std::time::Duration;

use thimble_tests::{BOOT_LIMIT, Boot, Machine, media};

/// Shutting two guests and the host down, emulated.
const END_LIMIT: Duration = Duration::from_secs(90);

fn boot<'a>(artefacts: &'a Path, by: &'a str) -> Machine {
    Machine::boot(&Boot { artefacts, by, forward: &[], append: "", more: &[] })
}

/// The hash that the host says it runs, and the one that the manifest has.
fn same_manifest(machine: &Machine, artefacts: &Path) {
    let manifest = std::fs::read(artefacts.join("manifest.json")).expect("a build has a manifest");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("it is JSON");
    let line = format!("demo: manifest {}", manifest["hash"].as_str().expect("a hash"));
    assert!(machine.seen().contains(&line), "{line}: {:?}", machine.seen());
}

/// Boots to both guests' ready lines and ends by the power button.
fn boots_to_ready(by: &str) {
    // Given the artefact in a machine with that firmware,
    let mut machine = boot(media(), by);
    // when both guests are ready,
    machine.wait_all(
        &["^thimble: host demo up ", "^thimble: guest web1 ready ", "^thimble: guest web2 ready "],
        BOOT_LIMIT,
    );
    // then the host runs what the manifest says, and nothing went wrong.
    same_manifest(&machine, media());
    machine.press_power_button();
    assert!(machine.end(END_LIMIT).success());
    let errors: Vec<&String> = machine.seen().iter().filter(|line| line.starts_with("thimble: error")).collect();
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn the_iso_boots_from_a_cd_by_bios() {
    boots_to_ready("iso-bios");
}

#[test]
fn the_iso_is_a_stick_as_well_and_for_uefi_too() {
    for by in ["usb-bios", "usb-uefi", "iso-uefi"] {
        let mut machine = boot(media(), by);
        machine.wait("^thimble: host demo up ", BOOT_LIMIT);
        same_manifest(&machine, media());
    }
}

#[test]
fn the_unified_kernel_image_boots_by_uefi() {
    boots_to_ready("uki");
}
