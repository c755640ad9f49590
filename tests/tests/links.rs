//! Links that come and go: a bond's cables while a guest serves, a card that is pulled and plugged in; and a trunk.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use thimble_tests::{BOOT_LIMIT, Definition, Machine, free_port, get, ssh};

const LIMIT: Duration = Duration::from_secs(60);
/// The guest's file, in bytes, and how fast it is fetched: so that both cables are cut meanwhile.
const BIG: u64 = 8 << 20;
const RATE: &str = "400K";

/// A definition of `tests/library`.
fn definition(name: &str) -> Definition {
    Definition::read(&format!("tests/library/{name}.toml")).library("tests/library")
}

#[test]
fn cables_and_cards_come_and_go() {
    // Given a host with two cards of a bond at one switch, a third card that is alone, and a fourth that a guest has,
    let directory = TempDir::new().expect("a temporary directory");
    let (key, public) = ssh::key(directory.path(), "right");
    let out = definition("links").with(&[("KEY", &public)]).build(directory.path(), ["--format", "netboot"]);
    let (login, page, beside) = (free_port(), free_port(), free_port());
    let world = format!(
        "user,id=world,ipv6=off,restrict=on,net=10.1.1.0/24,host=10.1.1.1,dns=10.1.1.3,dhcpstart=10.1.1.100,\
         hostfwd=tcp:127.0.0.1:{login}-10.1.1.2:22,hostfwd=tcp:127.0.0.1:{page}-10.1.1.11:80,\
         hostfwd=tcp:127.0.0.1:{beside}-10.1.1.12:80"
    );
    let mut machine = Machine::of_qemu(
        &out,
        "thimble.guest-consoles",
        &[
            "-netdev",
            &world,
            "-netdev",
            "hubport,id=uplink,hubid=0,netdev=world",
            "-netdev",
            "hubport,id=port0,hubid=0",
            "-netdev",
            "hubport,id=port1,hubid=0",
            "-netdev",
            "hubport,id=port2,hubid=1",
            "-netdev",
            "hubport,id=port3,hubid=0",
            "-device",
            "virtio-net-pci,netdev=port0,id=card0,romfile=,mac=52:54:00:00:00:01",
            "-device",
            "virtio-net-pci,netdev=port1,id=card1,romfile=,mac=52:54:00:00:00:02",
            "-device",
            "pcie-root-port,id=hot,chassis=1,slot=1",
            "-device",
            "virtio-net-pci,netdev=port2,id=card2,romfile=,mac=52:54:00:00:00:03,bus=hot",
            // Behind a port as well: cards of the root bus have the first names.
            "-device",
            "pcie-root-port,id=last,chassis=2,slot=2",
            "-device",
            "virtio-net-pci,netdev=port3,id=card3,romfile=,mac=52:54:00:00:00:04,bus=last",
        ],
    );
    machine.wait_all(
        &["^thimble: host wires up", "^thimble: guest inner ready", "^thimble: guest beside ready"],
        BOOT_LIMIT,
    );
    assert!(get(page, "/", LIMIT).expect("the page").contains("a page behind the host"));
    ssh::wait(login);
    // then the guest beside the host is reached by its card;
    assert!(get(beside, "/", LIMIT).expect("the page").contains("a page behind the host"));
    let shown = ssh::said(login, &key, "thimblectl domiflist beside");
    assert!(shown.contains("direct") && shown.contains("eth3"), "{shown}");
    let active = || {
        let file = "/sys/class/net/bond0/bonding/active_slave";
        ssh::said(login, &key, &format!("cat {file}")).trim().to_owned()
    };

    // when each cable is pulled in turn while somebody fetches a file of a guest's,
    let mut fetch = Command::new("curl");
    fetch.args(["--silent", "--show-error", "--limit-rate", RATE, "--max-time", "120", "--output", "/dev/null"]);
    fetch.args(["--write-out", "%{size_download}"]).arg(format!("http://127.0.0.1:{page}/big"));
    let fetch = fetch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("curl starts");
    let mut used = vec![active()];
    for _ in 0..2 {
        sleep(Duration::from_secs(3));
        let card = if used.last().is_some_and(|card| card == "eth0") { "card0" } else { "card1" };
        let link = |up: bool| machine.qmp("set_link", json!({ "name": card, "up": up }));
        link(false);
        let began = Instant::now();
        while used.last() == Some(&active()) {
            assert!(began.elapsed() < LIMIT, "{used:?}");
        }
        used.push(active());
        link(true);
    }
    // then the bond went to the other card and back, and the connection was not lost.
    let fetched = fetch.wait_with_output().expect("curl ends");
    let size = String::from_utf8_lossy(&fetched.stdout).into_owned();
    assert!(fetched.status.success() && size == BIG.to_string(), "{size} {}", String::from_utf8_lossy(&fetched.stderr));
    assert!(used[0] != used[1] && used[0] == used[2], "{used:?}");

    // And when a card is pulled out and another one plugged in, that ends in the bridge.
    let master = || -> Option<String> {
        let shown = ssh::said(login, &key, "thimble-node network --json");
        let shown: Value = serde_json::from_str(&shown).expect("JSON");
        let links = shown["network"]["links"].as_array().expect("a list");
        let link = links.iter().find(|link| link["name"] == "eth2")?;
        Some(link["master"].as_str().unwrap_or_default().to_owned())
    };
    let until = |wanted: Option<&str>| {
        let began = Instant::now();
        while master().as_deref() != wanted {
            assert!(began.elapsed() < LIMIT, "{:?} is not {wanted:?}", master());
        }
    };
    until(Some("br1"));
    machine.unplug("card2");
    until(None);
    machine.qmp("netdev_add", json!({ "type": "hubport", "id": "port4", "hubid": 2 }));
    let card = json!({ "driver": "virtio-net-pci", "netdev": "port4", "id": "card4", "bus": "hot" });
    machine.qmp("device_add", card);
    until(Some("br1"));
}

#[test]
fn a_trunk_leads_to_guests_of_the_same_vlan_on_another_host() {
    // Given two hosts whose cards are joined, with guests in two VLANs,
    let guest = |name: &str, address: u8, vlan: u16| {
        format!(
            "[[guest]]\nname = \"{name}\"\nimage = \"behind\"\nmemory = \"64MiB\"\n\
             network = {{ bridge = \"br0\", address = \"10.9.0.{address}/24\", vlan = {vlan} }}\n"
        )
    };
    let places = [(); 2].map(|()| TempDir::new().expect("a temporary directory"));
    let [right, left] = [guest("right", 2, 10) + &guest("other", 3, 20), guest("left", 1, 10)];
    let right = definition("trunk").and(&right).build(places[0].path(), ["--format", "netboot"]);
    let left = definition("trunk").and(&left).build(places[1].path(), ["--format", "netboot"]);
    let socket = places[0].path().join("wire");
    let boot = |artefacts: &Path, server: &str, mac: &str| {
        let wire = format!("stream,id=wire,server={server},addr.type=unix,addr.path={}", socket.display());
        let card = format!("virtio-net-pci,netdev=wire,romfile=,mac={mac}");
        Machine::of_qemu(artefacts, "thimble.guest-consoles", &["-netdev", &wire, "-device", &card])
    };
    let mut right = boot(&right, "on", "52:54:00:00:00:01");
    right.wait_all(&["^thimble: guest right ready", "^thimble: guest other ready"], BOOT_LIMIT);
    let mut left = boot(&left, "off", "52:54:00:00:00:02");
    // then those of one VLAN reach each other, and no others.
    left.wait(r"^\[left\] same vlan: passed", BOOT_LIMIT);
    let other = left.wait(r"^\[left\] other vlan: ", BOOT_LIMIT);
    assert!(!other.contains("passed"), "{other}");
}
