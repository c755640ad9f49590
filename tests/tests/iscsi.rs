//! Disks of iSCSI targets: logged in to, used as others are, waited for, and left in order.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;
use thimble_tests::disks::{build_other, made, until};
use thimble_tests::tgt::{Target, Tgt, unit};
use thimble_tests::{BOOT_LIMIT, Boot, Machine, free_port, ssh};

const LIMIT: Duration = Duration::from_secs(180);
/// Long enough for the initiator to find out that a target does not answer: it asks every five seconds, and waits for five.
const AWAY: Duration = Duration::from_secs(20);
/// What the host is called by its targets.
const INITIATOR: &str = "iqn.1993-08.org.debian:01:disks";

const STORAGE: &str = r#"[[storage.iscsi]]
name = "store"
portal = "10.1.1.1:PORT"
target = "iqn.2026-01.test:store"
chap = { user = "disks", password = "a-long-password" }
[[storage.iscsi]]
name = "locked"
portal = "10.1.1.1:PORT"
target = "iqn.2026-01.test:locked"
chap = { user = "disks", password = "another-password" }
[storage.disks.files]
match = { iscsi = "store", lun = 1 }
[storage.disks.guest]
match = { iscsi = "store", lun = 2 }
[storage.disks.foreign]
match = { iscsi = "store", lun = 3 }
[[storage.filesystem]]
device = "files"
kind = "ext4"
mount = "/data/files"
[[storage.filesystem]]
device = "foreign"
kind = "ext4"
mount = "/data/foreign"
[[guest]]
name = "remote"
image = "writer"
memory = "64MiB"
disk = { device = "guest" }
"#;

#[test]
fn disks_of_a_target_are_used_waited_for_and_left_in_order() {
    // Given a target with two blank units and one on which something is, another one that refuses the host, and neither there yet,
    let directory = TempDir::new().expect("a temporary directory");
    let (key, public) = ssh::key(directory.path(), "key");
    let units = ["files", "guest", "foreign"].map(|name| unit(directory.path(), name, 48));
    let foreign = [b"somebody's".repeat(400), vec![0; 47 << 20]].concat();
    fs::write(&units[2], &foreign).expect("a file");
    let account = ["disks", "a-long-password"];
    let mut server = Tgt::new(&[
        Target { name: "iqn.2026-01.test:store", account, units: units.to_vec() },
        Target { name: "iqn.2026-01.test:locked", account, units: Vec::new() },
    ]);
    let storage = STORAGE.replace("PORT", &server.port().to_string());
    let out = build_other(directory.path(), &public, &storage);
    let port = free_port();
    let forward = [(port, "host:22")];
    let append = "thimble.guest-consoles thimble.console-commands";
    let boot =
        || Machine::boot(&Boot { forward: &forward, append, more: &["--internet"], ..Boot::new(&out, "direct") });
    let mut machine = boot();
    machine.wait("^thimble: error storage: iSCSI target store: .*; it is tried again until it is there$", BOOT_LIMIT);

    // when they come, the units are disks as others are,
    server.start();
    let locked = "^thimble: error storage: iSCSI target locked: .*authorization failure; it is tried again";
    let foreign_one = "^thimble: error storage: .*foreign.*";
    machine
        .wait_all(&["^storage: mount /dev/thimble/files", locked, foreign_one, "^\\[remote\\] writer: 4$"], BOOT_LIMIT);
    ssh::wait(port);
    let status = until(port, &key, "logged in", |status| status["targets"][0]["link"] == "up");
    assert_eq!(status["targets"][1]["link"], json!(null), "{status:#}");
    assert_eq!(server.initiators(), [INITIATOR]);
    ssh::said(port, &key, "echo kept >/data/files/x; sync");

    // when the target goes, what is on it waits; the host answers meanwhile, and all goes on when it is back.
    server.stop();
    machine.wait("^thimble: error storage: iSCSI target store is away", LIMIT);
    let status = until(port, &key, "away", |status| status["targets"][0]["link"] == "away");
    assert!(status["disks"].as_array().is_some_and(|disks| disks.len() == 3), "{status:#}");
    sleep(AWAY);
    server.start();
    machine.wait_all(&["^storage: iSCSI target store is there again$", "^\\[remote\\] writer: 24$"], LIMIT);
    // The host ends in order, and leaves the target.
    machine.type_line("poweroff");
    assert!(machine.end(LIMIT).success());
    assert!(!machine.seen().iter().any(|line| line.contains("was not ended")), "{:#?}", machine.seen());
    assert_eq!(server.initiators(), Vec::<String>::new());

    // The next boot makes nothing, and all of it is there;
    let mut machine = boot();
    machine.wait_all(&["^storage: mount /dev/thimble/files", "^\\[remote\\] writer: begins after [1-9]"], BOOT_LIMIT);
    assert_eq!(made(&machine), Vec::<&String>::new());
    ssh::wait(port);
    assert_eq!(ssh::said(port, &key, "cat /data/files/x"), "kept\n");
    // and when the target goes for good, the host ends all the same, in bounded time.
    server.stop();
    machine.wait("^thimble: error storage: iSCSI target store is away", LIMIT);
    let began = Instant::now();
    machine.type_line("poweroff");
    assert!(machine.end(LIMIT).success());
    println!("without its target the host ended in {:.0} s", began.elapsed().as_secs_f64());
    assert_eq!(fs::read(&units[2]).expect("the unit"), foreign);
}
