//! RAID 0, 6 and 10: a spare takes over, a member is replaced, a scrub finds what differs.

use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use thimble_tests::disks::{Disks, Plug, array, build, made, status, until, whole};
use thimble_tests::{BOOT_LIMIT, free_port, ssh};

const LIMIT: Duration = Duration::from_secs(300);
/// The one that tests/library/levels.toml names.
const WWN: u64 = 0x5000_c500_1234_5678;

#[test]
fn every_level_outlives_its_disks() {
    // Given blank disks for an array of each level, and one that has a world wide name,
    let directory = TempDir::new().expect("a temporary directory");
    let (key, public) = ssh::key(directory.path(), "key");
    let out = build(directory.path(), "levels", &[("KEY", public.as_str())]);
    let all = [
        ("S0", 48, Plug::Virtio),
        ("S1", 48, Plug::Virtio),
        ("P0", 64, Plug::Slot),
        ("P1", 64, Plug::Slot),
        ("P2", 64, Plug::Virtio),
        ("P3", 64, Plug::Virtio),
        ("P4", 64, Plug::Virtio),
        ("T0", 64, Plug::Slot),
        ("T1", 64, Plug::Virtio),
        ("T2", 64, Plug::Virtio),
        ("T3", 64, Plug::Virtio),
        ("X", 64, Plug::Virtio),
        ("W", 48, Plug::Wwn(WWN)),
    ];
    let disks = Disks::new(directory.path(), &all);
    let port = free_port();
    let forward = [(port, "host:22")];

    // when the host boots,
    let mut machine = disks.boot(&out, &forward);
    machine.wait_all(
        &[
            "^storage: make the RAID 0 array /dev/md/fast",
            "^storage: make the RAID 6 array /dev/md/safe",
            "^storage: make the RAID 10 array /dev/md/tens",
            "^\\[safe\\] writer: 4$",
            "^\\[tens\\] writer: 4$",
        ],
        BOOT_LIMIT,
    );
    // then all of it is there.
    ssh::wait(port);
    let names = ["fast", "safe", "tens"];
    let now = until(port, &key, "whole", |status| names.iter().all(|name| whole(status, name)));
    let none = serde_json::json!([]);
    assert!(now["steps"] == none && now["problems"] == none && now["waiting"] == none, "{now:#}");
    ssh::said(port, &key, "echo kept > /data/fast/x; echo kept > /data/known/x");
    let members = |name: &str| array(&status(port, &key), name)["members"].as_array().expect("a list").clone();
    let block =
        |disk: &str| ssh::said(port, &key, &format!("basename $(readlink -f /dev/thimble/{disk})")).trim().to_owned();

    // When a disk of RAID 6 is pulled, the spare takes its place, as slowly as if it were large;
    ssh::said(port, &key, "echo 8000 > /proc/sys/dev/raid/speed_limit_max");
    Disks::pull(&machine, "P0");
    machine.wait("^thimble: error storage: array safe goes on without 1 of its 4 members", LIMIT);
    machine.wait("^storage: array safe is whole again", LIMIT);
    assert!(members("safe").contains(&block("p4").into()));
    // the disk is the spare when it is back.
    Disks::plug(&machine, "P0");
    machine.wait("^storage: give /dev/thimble/p0 .*back to /dev/md/safe", LIMIT);
    until(port, &key, "a spare", |status| {
        whole(status, "safe") && array(status, "safe")["members"].as_array().is_some_and(|all| all.len() == 5)
    });
    // RAID 10 gets back what was away.
    Disks::pull(&machine, "T0");
    machine.wait("^thimble: error storage: array tens goes on without 1 of its 4 members", LIMIT);
    machine.wait("^\\[tens\\] writer: [0-9]+$", LIMIT);
    Disks::plug(&machine, "T0");
    machine.wait("^storage: give /dev/thimble/t0 .*back to /dev/md/tens", LIMIT);
    machine.wait("^storage: array tens is whole again", LIMIT);

    // When a member is replaced while a guest writes, the other disk has its place.
    ssh::said(port, &key, "thimble-node storage replace tens t1 x");
    let (old, new) = (block("t1"), block("x"));
    until(port, &key, "replaced", |status| {
        let list = |key: &str| array(status, "tens")[key].as_array().expect("a list").clone();
        whole(status, "tens")
            && list("members").contains(&new.clone().into())
            && list("failed") == [Value::from(old.clone())]
    });

    // When a member has other bytes than its mirror, a scrub tells.
    let harm = format!("dd if=/dev/urandom of=/dev/{} bs=64k count=1 seek=800 oflag=direct conv=notrunc", block("t2"));
    ssh::said(port, &key, &harm);
    ssh::said(port, &key, "thimble-node storage scrub tens");
    machine.wait("^thimble: error storage: array tens has members that differ in [0-9]+ sectors", LIMIT);

    // When the host boots again, nothing is made anew, and what was there is there.
    ssh::said(port, &key, "thimble-node power off");
    assert!(machine.end(LIMIT).success());
    let mut machine = disks.boot(&out, &forward);
    let begun = ["safe", "tens"].map(|name| format!("^\\[{name}\\] writer: begins after [0-9]+$"));
    for line in machine.wait_all(&begun.each_ref().map(String::as_str), BOOT_LIMIT) {
        assert!(!line.ends_with(" 0"), "{line}");
    }
    assert_eq!(made(&machine), Vec::<&String>::new());
    ssh::wait(port);
    assert_eq!(ssh::said(port, &key, "cat /data/fast/x /data/known/x"), "kept\nkept\n");

    // When RAID 6 lacks a member and no spare is there, and the power fails while a guest writes: the array counts as being
    // written to from the first write on,
    ssh::said(port, &key, "echo 3600 > /sys/block/$(basename $(readlink -f /dev/md/safe))/md/safe_mode_delay");
    for disk in ["P0", "P1"] {
        Disks::pull(&machine, disk);
    }
    machine.wait("^thimble: error storage: array safe goes on without 1 of its 4 members", LIMIT);
    let last = machine.wait("^\\[safe\\] writer: [0-9]+$", LIMIT);
    machine.wait("^\\[safe\\] writer: [0-9]+$", LIMIT);
    machine.cut_power();
    let disks = disks.without(&["P0", "P1"]);
    let mut machine = disks.boot(&out, &forward);
    // then nothing takes it for whole,
    machine.wait("^thimble: error storage: .*thimble-node storage force safe", BOOT_LIMIT);
    ssh::wait(port);
    // and who wants what is there has it.
    let said = ssh::said(port, &key, "thimble-node storage force safe");
    assert!(said.contains("storage: start the array safe by force of "), "{said}");
    let begins = machine.wait("^\\[safe\\] writer: begins after [0-9]+$", LIMIT);
    let number = |line: &str| line.rsplit(' ').next().and_then(|word| word.parse::<u64>().ok()).expect("a number");
    assert!(number(&begins) >= number(&last), "{last}, then {begins}");
}
