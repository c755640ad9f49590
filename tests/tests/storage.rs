//! What a definition says of disks, on a host with many: made, kept over reboots, power cuts and disks that fail.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use thimble_tests::disks::{Disks, Plug, array, build, build_other, made, status, until, whole};
use thimble_tests::{BOOT_LIMIT, Boot, Ganesha, Machine, free_port, ssh};

const LIMIT: Duration = Duration::from_secs(300);

fn disks(directory: &Path) -> Disks {
    let all = [
        ("A", 96, Plug::Slot),
        ("B", 96, Plug::Slot),
        ("C", 256, Plug::Virtio),
        ("D", 256, Plug::Virtio),
        ("E", 256, Plug::Virtio),
        ("F", 256, Plug::Sata),
        ("G", 400, Plug::Virtio),
        ("H", 64, Plug::Virtio),
        ("I", 64, Plug::Virtio),
        ("J", 64, Plug::Virtio),
    ];
    let disks = Disks::new(directory, &all);
    for serial in ["G", "H"] {
        // Somebody else's, of a kind that is not declared for either.
        let mut tool = Command::new(if serial == "G" { "mke2fs" } else { "mkswap" });
        let made = tool.arg("-q").arg(disks.file(serial)).status();
        assert!(made.expect("the tool starts").success());
    }
    disks
}

fn errors(machine: &Machine) -> Vec<&String> {
    machine.seen().iter().filter(|line| line.starts_with("thimble: error")).collect()
}

#[test]
fn blank_disks_become_what_is_declared_and_stay_so() {
    // Given a definition that uses every kind of storage, blank disks for it, and two that somebody else has written to,
    let directory = TempDir::new().expect("a temporary directory");
    let (key, public) = ssh::key(directory.path(), "key");
    let out = build(directory.path(), "storage", &[("KEY", public.as_str())]);
    let disks = disks(directory.path());
    let foreign = disks.hash("G");
    let port = free_port();
    let forward = [(port, "host:22")];

    // when the host boots,
    let mut machine = disks.boot(&out, &forward);
    machine.wait_all(
        &[
            "^storage: make the RAID 1 array /dev/md/mirror",
            "^storage: make the RAID 5 array /dev/md/wide",
            "^storage: make the volume vg/thin",
            "^storage: make the volume vg/first",
            "^storage: wipe /dev/thimble/h ",
            "^thimble: host disks up",
            "^\\[array\\] writer: 4$",
            "^\\[thin\\] writer: 4$",
            "^\\[file\\] writer: 4$",
            "^thimble: error guest held waits for /data/foreign",
        ],
        BOOT_LIMIT,
    );
    // then all of it is there, but for the foreign disk, which is told in one line,
    ssh::wait(port);
    let now = until(port, &key, "whole", |status| whole(status, "mirror") && whole(status, "wide"));
    assert_eq!(now["steps"], serde_json::json!([]), "{now:#}");
    let problems = now["problems"].as_array().expect("a list");
    assert!(problems.len() == 1 && problems[0].as_str().is_some_and(|text| text.contains("/dev/thimble/g")), "{now:#}");
    let other = |line: &&String| !line.contains("guest held");
    let told: Vec<&String> = errors(&machine).into_iter().filter(other).collect();
    assert!(told.len() == 1 && told[0].contains("wipe = true"), "{told:#?}");
    let mounts = ssh::said(port, &key, "cat /proc/mounts");
    for (point, kind) in [("/data/files", "xfs"), ("/data/guests", "ext4"), ("/data/wiped", "ext4")] {
        assert!(mounts.contains(&format!(" {point} {kind} ")), "{mounts}");
    }
    let swaps = ssh::said(port, &key, "cat /proc/swaps");
    assert!(swaps.contains("zram0") && swaps.lines().count() == 3, "{swaps}");
    ssh::said(port, &key, "echo kept > /data/files/x; echo kept > /data/wiped/x");
    // and an apply by hand does nothing.
    let again = ssh::run(port, Some(&key), "thimble-node storage apply");
    let text = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(!text.contains("storage: make") && !again.status.success(), "{text}");

    // When the pool is full, the guest that writes to it is paused, and goes on when there is room again.
    ssh::run(port, Some(&key), "dd if=/dev/zero of=/dev/vg/filler bs=64k conv=fsync");
    machine.wait("^thimble: error guest thin is paused: there is no room for what it writes to /dev/vg/thin", LIMIT);
    ssh::said(port, &key, "blkdiscard /dev/vg/filler");
    machine.wait("^node: guest thin goes on", LIMIT);
    machine.wait("^\\[thin\\] writer: [0-9]+$", LIMIT);

    // When a disk of the mirror is pulled while a guest writes to it,
    Disks::pull(&machine, "A");
    machine.wait("^thimble: error storage: array mirror goes on without 1 of its 2 members", LIMIT);
    // then the guest goes on;
    let at = machine.wait("^\\[array\\] writer: [0-9]+$", LIMIT);
    machine.wait("^\\[array\\] writer: [0-9]+$", LIMIT);
    machine.wait("^\\[array\\] writer: [0-9]+$", LIMIT);
    assert_eq!(array(&status(port, &key), "mirror")["degraded"], 1, "{at}");
    // when it is plugged in again, it is filled with what changed meanwhile.
    Disks::plug(&machine, "A");
    machine.wait("^storage: give /dev/thimble/a .*back to /dev/md/mirror", LIMIT);
    machine.wait("^storage: array mirror is whole again", LIMIT);
    until(port, &key, "whole", |status| whole(status, "mirror"));
    // A scrub finds both sides alike, as far as the writer lets it.
    ssh::said(port, &key, "thimble-node storage scrub wide");
    let now = until(port, &key, "scrubbed", |status| array(status, "wide")["action"] == "idle");
    assert_eq!(array(&now, "wide")["mismatches"], 0);

    // When the host ends and boots again,
    ssh::said(port, &key, "thimble-node power off");
    assert!(machine.end(LIMIT).success());
    assert!(!machine.seen().iter().any(|line| line.contains("is damaged")), "{:#?}", machine.seen());
    let ended: Vec<&String> = errors(&machine).into_iter().filter(|line| line.contains("not stopped")).collect();
    assert!(ended.is_empty(), "{ended:?}");
    let mut machine = disks.boot(&out, &forward);
    let begins = machine.wait("^\\[array\\] writer: begins after [0-9]+$", BOOT_LIMIT);
    machine.wait_all(&["^\\[thin\\] writer: [0-9]+$", "^\\[file\\] writer: [0-9]+$"], BOOT_LIMIT);
    // then nothing is made anew, nothing has to be synchronized, and what was there is there,
    assert_eq!(made(&machine), Vec::<&String>::new());
    assert!(!begins.ends_with(" 0"), "{begins}");
    ssh::wait(port);
    let kernel = ssh::said(port, &key, "thimble-node logs --source=kernel");
    assert!(!kernel.contains("not clean") && !kernel.contains("resync of"), "{kernel}");
    assert_eq!(ssh::said(port, &key, "cat /data/files/x /data/wiped/x"), "kept\nkept\n");
    ssh::said(port, &key, "thimble-node power off");
    assert!(machine.end(LIMIT).success());
    assert!(!machine.seen().iter().any(|line| line.contains("is damaged")), "{:#?}", machine.seen());
    // and of the foreign disk no byte has changed.
    assert_eq!(disks.hash("G"), foreign);
}

/// Cuts the power in the middle of the step that comes after so many others; says whether there was one.
fn cut_at(machine: &mut Machine, steps: usize, millis: u64) -> bool {
    for _ in 0..steps {
        let line = machine.wait("^storage: (make|wipe|write|clear|add) |^thimble: error guest held waits", BOOT_LIMIT);
        if line.starts_with("thimble") {
            return false;
        }
    }
    sleep(Duration::from_millis(millis));
    machine.cut_power();
    true
}

#[test]
fn power_cuts_at_any_time_and_arrays_from_elsewhere() {
    // Given the same,
    let directory = TempDir::new().expect("a temporary directory");
    let (key, public) = ssh::key(directory.path(), "key");
    let out = build(directory.path(), "storage", &[("KEY", public.as_str())]);
    let disks = disks(directory.path());
    let foreign = disks.hash("G");
    let port = free_port();
    let forward = [(port, "host:22")];

    // when the power is cut in the middle of one step after the other,
    let mut cuts = 0;
    let mut machine = loop {
        let mut machine = disks.boot(&out, &forward);
        // Another step and another moment in it each time.
        if cuts == 4 || !cut_at(&mut machine, 1 + cuts % 3, [0, 150, 15, 400][cuts]) {
            break machine;
        }
        cuts += 1;
    };
    assert!(cuts >= 3, "{cuts} cuts");
    // then the boot that is not cut off completes all of it,
    ssh::wait(port);
    let complete = |status: &Value| {
        let problems = status["problems"].as_array().is_some_and(|problems| problems.len() == 1);
        whole(status, "mirror") && whole(status, "wide") && status["steps"] == serde_json::json!([]) && problems
    };
    until(port, &key, "complete", complete);
    machine.wait_all(&["^\\[array\\] writer: [0-9]+$", "^\\[thin\\] writer: [0-9]+$"], BOOT_LIMIT);

    // When a member is filled anew, and the power is cut in the middle of that, while guests write,
    let fill = "echo 4000 > /proc/sys/dev/raid/speed_limit_max; D=$(readlink /dev/thimble/d.wide); \
        mdadm /dev/md/wide --fail $D --remove $D; mdadm --zero-superblock $D; \
        for at in 0 246; do dd if=/dev/zero of=$D bs=1M count=2 seek=$at 2>/dev/null; done; thimble-node storage apply";
    ssh::run(port, Some(&key), fill);
    until(port, &key, "in the middle", |status| array(status, "wide")["done_per_mille"].as_u64() > Some(50));
    machine.cut_power();
    // then the next boot goes on with it, and no guest has lost what it had written.
    let mut machine = disks.boot(&out, &forward);
    let begun = ["array", "thin", "file"].map(|name| format!("^\\[{name}\\] writer: begins after [0-9]+$"));
    for line in machine.wait_all(&begun.each_ref().map(String::as_str), BOOT_LIMIT) {
        assert!(!line.ends_with(" 0"), "{line}");
    }
    machine.wait_all(&["^\\[array\\] writer: [0-9]+$", "^\\[thin\\] writer: [0-9]+$"], BOOT_LIMIT);
    assert_eq!(made(&machine), Vec::<&String>::new());
    ssh::wait(port);
    until(port, &key, "complete", complete);

    // When Debian's mdadm makes an array on disks that nobody declares, as a machine of another name,
    let make = "disk() { echo /dev/$(grep -l ^$1 /sys/block/vd*/serial | cut -d / -f 4); }; I=$(disk I); J=$(disk J); \
        mdadm --create /dev/md/kept --homehost=elsewhere --level=1 --raid-devices=2 --run $I $J && \
        mke2fs -q -t ext4 /dev/md/kept && mkdir /tmp/k && mount -t ext4 /dev/md/kept /tmp/k && echo kept > /tmp/k/x && \
        umount /tmp/k && mdadm --stop /dev/md/kept";
    ssh::said(port, &key, make);
    ssh::said(port, &key, "thimble-node power off");
    assert!(machine.end(LIMIT).success());
    assert!(!machine.seen().iter().any(|line| line.contains("is damaged")), "{:#?}", machine.seen());
    // then a host that declares it assembles it as it is.
    let held = "[[guest]]\nname = \"held\"";
    let more = format!(
        "[storage.disks.i]\nmatch = {{ serial = \"I\" }}\n[storage.disks.j]\nmatch = {{ serial = \"J\" }}\n\
         [[storage.raid]]\nname = \"kept\"\nlevel = 1\nmembers = [\"i\", \"j\"]\n\
         [[storage.filesystem]]\ndevice = \"/dev/md/kept\"\nkind = \"ext4\"\nmount = \"/data/kept\"\n{held}"
    );
    let out = build(directory.path(), "storage", &[("KEY", public.as_str()), (held, more.as_str())]);
    let mut machine = disks.boot(&out, &forward);
    machine.wait_all(&["^storage: mount /dev/md/kept", "^thimble: error guest held waits"], BOOT_LIMIT);
    assert_eq!(made(&machine), Vec::<&String>::new());
    ssh::wait(port);
    assert_eq!(ssh::said(port, &key, "cat /data/kept/x"), "kept\n");
    assert_eq!(disks.hash("G"), foreign);
}

#[test]
fn a_guest_outlives_the_server_that_its_disk_is_on() {
    // Given guests whose disks are files on NFS servers that are not there yet, one of them an old one,
    let directory = TempDir::new().expect("a temporary directory");
    let (_, public) = ssh::key(directory.path(), "key");
    let export = directory.path().join("export");
    fs::create_dir(&export).and_then(|()| File::create(export.join("guest.raw"))?.set_len(48 << 20)).expect("a file");
    let mut server = Ganesha::export_writable(&export);
    server.stop();
    let old_export = directory.path().join("old");
    fs::create_dir(&old_export)
        .and_then(|()| File::create(old_export.join("guest.raw"))?.set_len(48 << 20))
        .expect("a file");
    let mut old = Ganesha::export_v3(&old_export);
    old.stop();
    let of = |name: &str, version: &str, options: &str| {
        format!(
            "[[storage.nfs]]\nname = \"{name}\"\nserver = \"10.1.1.1\"\nexport = \"/thimble\"\nmount = \"/data/{name}\"\n\
             version = \"{version}\"\noptions = [{options}, \"noresvport\"]\n[[guest]]\nname = \"on-{name}\"\nimage = \"writer\"\n\
             memory = \"64MiB\"\ndisk = {{ file = \"nfs:{name}/guest.raw\" }}\n"
        )
    };
    let filer = of("filer", "4.1", &format!("\"port={}\"", server.port()));
    let mount_port = old.mount_port().expect("of NFSv3");
    let more = filer + &of("old", "3", &format!("\"port={}\", \"mountport={mount_port}\"", old.port()));
    let out = build_other(directory.path(), &public, &more);
    let append = "thimble.guest-consoles thimble.console-commands";
    let mut machine = Machine::boot(&Boot { append, more: &["--internet"], ..Boot::new(&out, "direct") });
    let waits = ["filer", "old"].map(|name| format!("^thimble: error guest on-{name} waits for /data/{name}"));
    machine.wait_all(&waits.each_ref().map(String::as_str), BOOT_LIMIT);
    // when it comes, the guest starts;
    server.start();
    old.start();
    machine.wait_all(&["^\\[on-filer\\] writer: [0-9]+$", "^\\[on-old\\] writer: [0-9]+$"], BOOT_LIMIT);
    // when it goes, the guest waits, and goes on when it is back.
    server.stop();
    old.stop();
    sleep(Duration::from_secs(15));
    // What they wrote before was told before this.
    machine.type_line("guests");
    machine.wait("^guest on-old: ", LIMIT);
    server.start();
    old.start();
    machine.wait_all(&["^\\[on-filer\\] writer: [0-9]+$", "^\\[on-old\\] writer: [0-9]+$"], LIMIT);
    // The host ends in bounded time although it is away.
    server.stop();
    old.stop();
    machine.type_line("poweroff");
    assert!(machine.end(LIMIT).success());
    assert!(!machine.seen().iter().any(|line| line.contains("is damaged")), "{:#?}", machine.seen());
}
