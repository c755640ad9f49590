//! Machines without a disk boot from the network: by each firmware, against `thimble serve` and against what a site has
//! already. They end in the state that a flash disk leads to, as the manifest's hash says; their guests' disks are in memory,
//! and they say so. One boots the whole demonstration until its guests are ready; of the others the way there is the question.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use thimble_tests::site::{Firmware, SERVER, Site};
use thimble_tests::{BOOT_LIMIT, Boot, Machine, demo, repository, small};

const RANGE: [&str; 2] = ["--dhcp", "10.1.1.100-10.1.1.150"];
const READY: [&str; 2] = ["^thimble: guest web1 ready [0-9.]+$", "^thimble: guest web2 ready [0-9.]+$"];
/// What comes over the network and what is in it, on its own: the promise is about that sum.
const PAYLOAD: u64 = 32_000_000;

/// What a host says that is this one, and nothing else.
fn up(artefacts: &Path) -> [String; 2] {
    let manifest: Value =
        serde_json::from_slice(&fs::read(artefacts.join("manifest.json")).expect("it was built")).expect("it is JSON");
    let word = |key: &str| manifest[key].as_str().expect("a word").to_owned();
    let name = word("appliance");
    [format!("^{name}: manifest {}$", word("hash")), format!("^thimble: host {name} up [0-9.]+$")]
}

/// What a site serves.
fn tree() -> PathBuf {
    fs::canonicalize(small().join("netboot")).expect("it was built")
}

/// The files that went out whole, by protocol.
fn sent(events: &[Value], by: &str) -> Vec<String> {
    let of = |event: &&Value| event["event"] == "sent" && event["by"] == by;
    let name = |event: &Value| event["file"].as_str().expect("a name").trim_start_matches('/').to_owned();
    events.iter().filter(of).map(name).collect()
}

fn boots(artefacts: &Path, firmware: Firmware, by: &str, wanted: &[&str], guests: &[&str]) {
    // Given a network without a DHCP server, and `thimble serve` as that,
    let site = Site::new();
    let mut serve = site.serve(artefacts, &RANGE);
    // when a machine is switched on,
    let mut node = site.machine(firmware);
    // then it is the node that the manifest says, says that nothing of it is kept, and its guests are ready.
    let [hash, up] = up(artefacts);
    let said: Vec<&str> = [&hash, "no thimble-data partition", &up].into_iter().chain(guests.iter().copied()).collect();
    node.wait_all(&said, BOOT_LIMIT);
    // The board knows the machine by its card.
    let leased = serve.wait("it has an address", |event| event["event"] == "leased");
    assert_eq!(leased["mac"], "52:54:00:12:34:56");
    drop(node);
    let events = serve.end();
    let files = sent(&events, by);
    for file in wanted {
        assert!(files.iter().any(|sent| sent == file), "{file} by {by}: {files:?}");
    }
    assert!(!events.iter().any(|event| event["event"] == "failed"), "{events:#?}");
}

#[test]
fn by_bios_and_ipxe_over_http() {
    let payload: u64 =
        ["vmlinuz", "initrd"].iter().map(|file| fs::metadata(demo().join("netboot").join(file)).unwrap().len()).sum();
    assert!(payload <= PAYLOAD, "kernel and initramfs have {payload} bytes");
    boots(demo(), Firmware::Bios, "http", &["boot.ipxe", "vmlinuz", "initrd"], &READY);
}

#[test]
fn by_uefi_and_grub_over_tftp() {
    let files = ["grub/x86_64-efi/core.efi", "grub/grub.cfg", "vmlinuz", "initrd"];
    boots(small(), Firmware::UefiPxe, "tftp", &files, &[]);
}

#[test]
fn by_uefi_http_boot_and_grub_over_http() {
    boots(small(), Firmware::UefiHttp, "http", &["grub/x86_64-efi/core.efi", "vmlinuz", "initrd"], &[]);
}

#[test]
fn beside_a_sites_dhcp_server_which_stays_as_it_is() {
    // Given a site whose DHCP server knows nothing of booting,
    let site = Site::new();
    let dnsmasq = site.dnsmasq(&[]);
    let serve = site.serve(small(), &["--proxy", "--loader", "ipxe"]);
    // when a machine with UEFI is switched on,
    let mut node = site.machine(Firmware::UefiPxe);
    // then it gets its address there and iPXE here, and iPXE the same way its script,
    node.wait_all(&up(small()).each_ref().map(String::as_str), BOOT_LIMIT);
    drop(node);
    let events = serve.end();
    assert!(sent(&events, "tftp").contains(&"snponly.efi".to_owned()), "{events:#?}");
    let files = sent(&events, "http");
    assert!(["boot.ipxe", "vmlinuz", "initrd"].iter().all(|file| files.iter().any(|sent| sent == file)), "{files:?}");
    // and no address is ours.
    assert!(!events.iter().any(|event| event["event"] == "leased"));
    assert!(events.iter().any(|event| event["ip"].as_str().is_some_and(|ip| ip.starts_with("10.1.1.2"))));
    assert!(dnsmasq.said().iter().any(|line| line.contains("DHCPACK(eth0) 10.1.1.2")));
}

#[test]
fn from_the_tree_alone_by_bios_and_grub() {
    // Given the tree on a site's own TFTP server,
    let site = Site::new();
    let tree = tree();
    let root = format!("--tftp-root={}", tree.display());
    let dnsmasq = site.dnsmasq(&["--enable-tftp", &root, "--dhcp-boot=grub/i386-pc/core.0"]);
    // when a machine with a BIOS is switched on,
    let mut node = site.machine(Firmware::Bios);
    // then GRUB finds the rest where it came from itself.
    node.wait_all(&up(small()).each_ref().map(String::as_str), BOOT_LIMIT);
    let said = dnsmasq.said();
    assert!(said.iter().any(|line| line.contains("sent") && line.contains("/initrd to 10.1.1.2")), "{said:#?}");
    assert!(!said.iter().any(|line| line.contains(SERVER)), "nobody else serves");
}

#[test]
fn by_the_dnsmasq_of_the_documentation() {
    // Given a site whose dnsmasq is set up as docs/netboot.md says,
    let text = fs::read_to_string(repository().join("docs/netboot.md")).expect("it is there");
    let (_, text) = text.split_once("dnsmasq, all of it:\n\n").expect("the documentation has it");
    let tree = tree();
    let words: Vec<String> = text
        .lines()
        .map_while(|line| line.strip_prefix("    "))
        // What is the site's own.
        .filter(|line| !line.starts_with("interface=") && !line.starts_with("dhcp-range="))
        .map(|line| format!("--{}", line.replace("/srv/rack7/netboot", &tree.display().to_string())))
        .collect();
    assert!(words.len() > 5, "{words:?}");
    let site = Site::new();
    let dnsmasq = site.dnsmasq(&words.iter().map(String::as_str).collect::<Vec<_>>());
    // when a machine with a BIOS is switched on, whose card has iPXE,
    let mut node = site.machine(Firmware::Bios);
    // then that gets its script by TFTP, and the rest from beside it.
    node.wait_all(&up(small()).each_ref().map(String::as_str), BOOT_LIMIT);
    let said = dnsmasq.said();
    for file in ["boot.ipxe", "vmlinuz", "initrd"] {
        assert!(said.iter().any(|line| line.contains(&format!("sent {}/{file} to", tree.display()))), "{said:#?}");
    }
}

#[test]
fn by_bios_and_the_ipxe_that_a_foreign_rom_loads() {
    // Given a site whose DHCP server names iPXE's loader to whatever ROM asks,
    let site = Site::new();
    let tree = tree();
    let root = format!("--tftp-root={}", tree.display());
    let dnsmasq = site.dnsmasq(&["--enable-tftp", &root, "--dhcp-boot=undionly.kpxe"]);
    // when a machine with a BIOS has loaded that by its ROM's PXE, and asks again,
    let mut node = site.machine(Firmware::Bios);
    dnsmasq.wait("sent .*/undionly.kpxe to", BOOT_LIMIT);
    drop(dnsmasq);
    let serve = site.serve(small(), &RANGE);
    // then it goes on by the ROM's own driver, with what it gets from us.
    node.wait_all(&up(small()).each_ref().map(String::as_str), BOOT_LIMIT);
    drop(node);
    let files = sent(&serve.end(), "http");
    assert!(["boot.ipxe", "vmlinuz", "initrd"].iter().all(|file| files.iter().any(|sent| sent == file)), "{files:?}");
}

#[test]
fn thimble_run_boots_the_tree_by_its_own_servers() {
    for by in ["pxe-bios", "pxe-uefi"] {
        // UEFI and GRUB take more than this host does.
        let more = ["--internet", "--memory", "768MiB"];
        let mut machine = Machine::boot(&Boot { more: &more, ..Boot::new(small(), by) });
        machine.wait_all(&up(small()).each_ref().map(String::as_str), BOOT_LIMIT);
    }
}
