//! A node that updates itself: by a new release that works, by one that does not, by what is no update of its own, and by
//! the guests' kernel alone; and what is left of the disk when the power is cut in the middle of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use thimble_spec::api::identity::PORT;
use thimble_spec::slot::Slot;
use thimble_tests::update::{Workshop, check_disk, manifest_of};
use thimble_tests::{BOOT_LIMIT, Boot, Machine, free_port, get, thimble};

const LIMIT: Duration = Duration::from_secs(120);
const READY: &str = "^thimble: guest web1 ready";
/// Cuts, if nobody says how many.
const CUTS: u32 = 2;
/// Each cut of this number is followed by a boot.
const BOOTED: u32 = 2;

/// How often the guest was started, as its page says.
fn starts(port: u16) -> u32 {
    let page = get(port, "/", LIMIT).expect("the guest answers");
    let count = page.split("started <strong>").nth(1).and_then(|rest| rest.split('<').next());
    count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{page}"))
}

/// The line of `guests` that tells of web1.
fn web1(machine: &mut Machine) -> String {
    machine.type_line("guests");
    machine.wait("^guest web1: ", LIMIT)
}

fn boot(out: &Path, disk: &Path, forward: &[(u16, &str)], attached: &[&Path]) -> Machine {
    let mut more = vec!["--disk", disk.to_str().expect("a path of text")];
    for file in attached {
        more.extend(["--attach", file.to_str().expect("a path of text")]);
    }
    Machine::boot(&Boot { forward, more: &more, ..Boot::new(out, "flash-bios") })
}

/// A file of the workshop with this content.
fn file(workshop: &Workshop, name: &str, content: &[u8]) -> PathBuf {
    let path = workshop.path(name);
    fs::write(&path, content).expect("it can be written");
    path
}

#[test]
fn a_release_that_works_stays_and_one_that_does_not_goes_and_nothing_else_is_taken() {
    let workshop = Workshop::open();
    let build =
        |name: &str, changes: &[(&str, &str)], key: &str, more: &[&str]| workshop.build(name, changes, key, more);
    // Given a node, a release with more modules for it,
    let api = ("[[guest]]", "[api]\nnames = [\"127.0.0.1\"]\n\n[[guest]]");
    let one = build("one", &[api], "node.key", &[]);
    let more_modules = ("hardware = [\"virtio\"]", "hardware = [\"virtio\", \"usb\"]");
    let two = build("two", &[more_modules], "node.key", &[]);
    // one of those with another initramfs for guests and nothing else new,
    let programs = workshop.programs_with_another_guest();
    let programs = programs.to_str().expect("a path of text");
    let guests = build("guests", &[more_modules], "node.key", &["--programs", programs]);
    // one with a guest that will never be ready,
    let late_guest =
        "[[guest]]\nname = \"late\"\nimage = \"page\"\nmemory = \"64MiB\"\ndisk = { file = \"/none\" }\n\n[[guest]]";
    let limits = ("ready-within-s = 280", "ready-within-s = 50");
    let late = build("late", &[("[[guest]]", late_guest), limits], "node.key", &[]);
    // and what no node should take: somebody else's, another appliance's, half of one, one without a signature.
    let foreign_key = build("foreign-key", &[("node.pub", "other.pub")], "other.key", &[]);
    let foreign = build("foreign", &[("name = \"node\"", "name = \"rack\"")], "node.key", &[]);
    let update = fs::read(two.join("thimble.update")).expect("there is an update");
    let half = file(&workshop, "half", &update[..update.len() / 2]);
    let text = u32::from_le_bytes(update[16..20].try_into().expect("four bytes")) as usize;
    let unsigned = [&update[..20 + text], &[0; 64], &update[84 + text..]].concat();
    let unsigned = file(&workshop, "unsigned", &unsigned);

    let disk = workshop.path("disk.img");
    let (port, asked) = (free_port(), free_port());
    let attached = [
        &two.join("thimble.update"),
        &guests.join("thimble.update"),
        &late.join("thimble.update"),
        &foreign_key.join("thimble.update"),
        &foreign.join("thimble.update"),
        &half,
        &unsigned,
    ];
    let mut machine =
        boot(&one, &disk, &[(port, "web1:80"), (asked, &format!("host:{PORT}"))], &attached.map(PathBuf::as_path));
    machine.wait(READY, BOOT_LIMIT);
    assert_eq!(starts(port), 1);

    // When it is told to take the latter, it says why not,
    for (device, why) in [
        ("vde", "it was altered, or not signed with this appliance's key"),
        ("vdf", "it is for the appliance rack, and this is node"),
        ("vdg", "it is truncated"),
        ("vdh", "it is not signed"),
        ("vda", "it is no Thimble update: the device must hold thimble.update from its first byte on"),
    ] {
        machine.type_line(&format!("update /dev/{device}"));
        machine.wait(&format!("^thimble: error the update is refused: {why}"), LIMIT);
    }
    // and nothing has changed.
    machine.type_line("slots");
    let hash = manifest_of(&one);
    machine.wait_all(&[&format!("^slot a: good, running, starts next, .*manifest {hash}$"), "^slot b: empty"], LIMIT);

    // When a workstation sends it half of a release, or somebody else's, it is told why not;
    let send = |path: &Path, words: &[&str]| {
        let mut command = thimble();
        command.args(["update", "--host", &format!("127.0.0.1:{asked}"), "--keys"]);
        command.arg(workshop.path("one.tls/clients/admin")).arg(path).args(words);
        let output = command.output().expect("thimble starts");
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        (output.status.code(), text.concat())
    };
    for (path, why) in [(&half, "it is truncated"), (&foreign, "it is for the appliance rack")] {
        let (code, told) = send(path, &[]);
        assert!(code == Some(1) && told.contains(why), "{code:?}: {told}");
    }
    // when it sends the release with more modules, that is taken.
    let (code, told) = send(&two, &["--reboot"]);
    println!("{told}");
    assert_eq!(code, Some(0), "{told}");
    for wanted in ["update: wrote ", "modules.cpio.zst", "update: shared ", "vmlinuz", "update: rebooting into slot b"]
    {
        assert!(told.contains(wanted), "{wanted}: {told}");
    }
    machine.wait("^thimble: guest web1 exited power-off$", LIMIT);
    // then that is what comes up, it is confirmed, and the guest's data are there.
    let hash = manifest_of(&two);
    machine.wait_all(
        &[&format!("^node: manifest {hash}$"), READY, "^node: slot b works and is the good one now"],
        BOOT_LIMIT,
    );
    assert_eq!(starts(port), 2);
    machine.type_line("update /dev/vdb");
    machine.wait("^update: nothing to do: slot b is manifest", LIMIT);

    // When only the guests' initramfs is new and it is taken while the node runs,
    let before = web1(&mut machine);
    machine.type_line("update /dev/vdd --live");
    machine.wait("^thimble: error --live is for an update that changes nothing but .*: it changes", LIMIT);
    machine.type_line("update /dev/vdc --live");
    let now = machine.wait("^update: guests start with kernel", LIMIT);
    let versions = now.trim_start_matches("update: guests start with ").trim_end_matches(" from now on");
    // then the guest that runs keeps its own,
    assert_eq!(web1(&mut machine), format!("{before}, next start takes {versions}"));
    machine.type_line("kill-node");
    machine.wait("^node: guest web1 adopted", LIMIT);
    assert_eq!(web1(&mut machine), format!("{before}, next start takes {versions}"));
    // and has the new one when it starts again.
    machine.type_line("ask web1 reset");
    machine.wait(READY, BOOT_LIMIT);
    assert_eq!(web1(&mut machine), format!("guest web1: ready, runs {versions}"));
    assert_eq!(starts(port), 3);

    // When it takes the release whose guest is never ready,
    machine.type_line("update /dev/vdd --reboot");
    machine.wait("^update: rebooting into slot a", LIMIT);
    machine.wait(&format!("^node: manifest {}$", manifest_of(&late)), BOOT_LIMIT);
    // then it gives that up by itself, comes back, and says why.
    machine.wait("^thimble: error slot a is given up: .*late.* not ready within 50 s of the start", BOOT_LIMIT);
    machine.wait(&format!("^node: manifest {hash}$"), BOOT_LIMIT);
    machine.wait(
        r"^thimble: error slot a was started and not confirmed, and this is slot b again \(slot a is given up: .*late.*",
        BOOT_LIMIT,
    );
    machine.wait(READY, BOOT_LIMIT);
    assert!(starts(port) >= 4);
    machine.type_line("slots");
    machine.wait_all(&["^slot a: failed its trial", "^slot b: good, running, starts next"], LIMIT);
    machine.type_line("poweroff");
    assert!(machine.end(LIMIT).success());
    assert_eq!(check_disk(&disk), (Slot::B, Slot::B));
}

#[test]
fn a_power_cut_in_the_middle_of_an_update_leaves_a_disk_that_boots() {
    let cuts = std::env::var("THIMBLE_CUTS").ok().and_then(|cuts| cuts.parse().ok()).unwrap_or(CUTS);
    let workshop = Workshop::open();
    let one = workshop.build("one", &[], "node.key", &[]);
    let programs = workshop.programs_with_another_guest();
    let programs = programs.to_str().expect("a path of text");
    let more_modules = ("hardware = [\"virtio\"]", "hardware = [\"virtio\", \"usb\"]");
    let two = workshop.build("two", &[more_modules], "node.key", &["--programs", programs]);
    let update = two.join("thimble.update");

    // Given how long an update takes, from the word to the end,
    let disk = workshop.path("measured.img");
    let mut machine = boot(&one, &disk, &[], &[&update]);
    machine.wait("^thimble: host node up", BOOT_LIMIT);
    let began = Instant::now();
    machine.type_line("update /dev/vdb");
    machine.wait("^update: slot b starts at the next boot", LIMIT);
    let whole = began.elapsed();
    machine.cut_power();
    assert_eq!(check_disk(&disk), (Slot::A, Slot::B));

    // when the power is cut at times spread over it, by a low-discrepancy sequence: as even as random and the same always,
    let (mut at, mut installed) = (0.5_f64, 0);
    for cut in 1..=cuts {
        at = (at + 0.618_033_988_749_895).fract();
        let disk = workshop.path("cut.img");
        let _ = fs::remove_file(&disk);
        let mut machine = boot(&one, &disk, &[], &[&update]);
        machine.wait("^thimble: host node up", BOOT_LIMIT);
        machine.type_line("update /dev/vdb");
        sleep(whole.mul_f64(at));
        machine.cut_power();
        // then both file systems and the slot that starts next are whole,
        let (good, next) = check_disk(&disk);
        assert_eq!(good, Slot::A);
        installed += u32::from(next == Slot::B);
        println!(
            "power cut {cut} of {cuts}: after {:.1} of {:.1} s, slot {next} is next",
            whole.as_secs_f64() * at,
            whole.as_secs_f64()
        );
        // and it boots.
        if cut % BOOTED == 0 {
            let expected = manifest_of(if next == Slot::A { &one } else { &two });
            let mut machine = boot(&one, &disk, &[], &[]);
            machine.wait(&format!("^node: manifest {expected}$"), BOOT_LIMIT);
            machine.wait(READY, BOOT_LIMIT);
            machine.cut_power();
            check_disk(&disk);
        }
    }
    println!(
        "{cuts} power cuts: {installed} after the switch, {} before it; no disk that does not boot",
        cuts - installed
    );
}
