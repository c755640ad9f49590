//! Plans, tried on a world of disks in memory: it does what the steps say, and can be cut off in the middle of each.

mod world;

use proptest::prelude::*;
use thimble_spec::api::snapshot::{Moment, Snapshot};
use thimble_spec::definition;

use super::*;
use crate::signature::{Found, Md, Signature};
use crate::snapshots;
use world::World;

const HEAD: &str = "[appliance]\nname = \"a\"\n[kernel.host]\npackage = \"linux\"\nhardware = []\n\
                    [kernel.guest]\nsource = \"linux\"\nfragments = []\n";

pub(crate) fn storage(text: &str) -> Storage {
    match definition::parse("a.toml", &format!("{HEAD}{text}")) {
        Ok(definition) => definition.appliance.storage,
        Err(mistakes) => panic!("{mistakes}"),
    }
}

/// Everything at once: partitions, RAID 1 and 5, LVM with thin volumes, file systems, swap. `{a}` to `{f}` stand for what
/// is said of the disks.
fn everything(wipe: [bool; 6]) -> Storage {
    let mut text = String::new();
    for (disk, wipe) in ["a", "b", "c", "d", "e", "f"].iter().zip(wipe) {
        text += &format!("[storage.disks.{disk}]\nmatch = {{ serial = \"{disk}\" }}\nwipe = {wipe}\n");
        if *disk == "a" || *disk == "b" {
            text += "partitions = [{ name = \"one\", size = \"16MiB\" }, { name = \"two\" }]\n";
        }
    }
    text += r#"
[[storage.raid]]
name = "mirror"
level = 1
members = ["a.one", "b.one"]
[[storage.raid]]
name = "wide"
level = 5
members = ["c", "d", "e"]
spares = ["f"]
metadata = "1.0"
[[storage.volume-group]]
name = "vg"
members = ["/dev/md/wide", "a.two"]
volumes = [
    { name = "files", size = "16MiB" },
    { name = "pool", percent = 50, thin-pool = true },
    { name = "thin", size = "1GiB", pool = "pool" },
    { name = "before", snapshot-of = "thin" },
]
[[storage.filesystem]]
device = "/dev/md/mirror"
kind = "ext4"
mount = "/data/mirror"
[[storage.filesystem]]
device = "/dev/vg/files"
kind = "xfs"
mount = "/data/files"
[[storage.swap]]
device = "b.two"
"#;
    storage(&text)
}

/// The plan when nothing is left to do: all may be used.
fn complete(storage: &Storage) -> Plan {
    let mounts = storage.filesystems.iter().map(|filesystem| filesystem.mount.clone());
    Plan { ready: storage.devices().chain(mounts).collect(), ..Plan::default() }
}

const SERIALS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

fn foreign(kind: u8, disk: &str) -> Found {
    let md = |name: &str, uuid: u8| {
        Signature::Md(Md { uuid: [uuid; 16], name: name.to_owned(), level: 5, disks: 3, role: Some(0), events: 9 })
    };
    let signatures = match kind {
        0 => return Found::nothing(),
        1 => Vec::new(),
        2 => vec![Signature::Filesystem(thimble_spec::appliance::FilesystemKind::Ext4)],
        3 => vec![Signature::Gpt],
        4 => vec![Signature::Lvm],
        5 => vec![md("other", 50)],
        // Somebody else's array of the same name, each disk of another one.
        6 => vec![md("wide", disk.as_bytes()[0])],
        _ => vec![Signature::Other("an NTFS file system")],
    };
    Found { blank: false, signatures }
}

/// Plans and does until nothing is left, and gives the steps that were done.
fn settle(storage: &Storage, world: &mut World) -> Vec<Step> {
    let mut done = Vec::new();
    for _ in 0..60 {
        let plan = plan(storage, &world.observe(), Patience::Over);
        if plan.steps.is_empty() {
            return done;
        }
        for step in plan.steps {
            world.check(storage, &step);
            world.run(storage, &step);
            done.push(step);
        }
    }
    panic!("no end: {:#?}", plan(storage, &world.observe(), Patience::Over).steps);
}

#[test]
fn blank_disks_become_what_is_declared_and_stay_so() {
    let storage = everything([false; 6]);
    let mut world = World::new(&SERIALS);
    let steps = settle(&storage, &mut world);
    let text: Vec<String> = steps.iter().map(ToString::to_string).collect();
    for wanted in [
        "write a partition table onto /dev/thimble/a (vda)",
        "make the RAID 1 array /dev/md/mirror of /dev/thimble/a.one (vda1), /dev/thimble/b.one (vdb1)",
        "make the RAID 5 array /dev/md/wide of /dev/thimble/c (vdc), /dev/thimble/d (vdd), /dev/thimble/e (vde), with /dev/thimble/f (vdf) to spare",
        "make the volume vg/before",
        "make an xfs file system on /dev/vg/files (dm-0)",
        "mount /dev/vg/files (dm-0) at /data/files",
        "swap to /dev/thimble/b.two (vdb2)",
    ] {
        assert!(text.iter().any(|step| step == wanted), "{wanted}: {text:#?}");
    }
    let end = plan(&storage, &world.observe(), Patience::Over);
    assert_eq!(end, complete(&storage));
    // The next boot starts and mounts, and makes nothing.
    world.reboot();
    let again = settle(&storage, &mut world);
    assert!(again.iter().all(|step| step.destroys().is_empty()), "{again:#?}");
    assert!(again.iter().any(|step| matches!(step, Step::Assemble { missing: 0, .. })));
}

#[test]
fn a_disk_that_is_missing_starts_a_degraded_array_after_patience_and_returns() {
    let storage = everything([false; 6]);
    let mut world = World::new(&SERIALS);
    settle(&storage, &mut world);
    world.reboot();
    let away = world.pull("vdd");
    let waiting = plan(&storage, &world.observe(), Patience::Wait);
    assert!(!waiting.steps.iter().any(|step| matches!(step, Step::Assemble { name, .. } if name == "wide")));
    assert!(
        waiting.waiting.iter().any(|text| text.contains("array wide waits for 1 of its 3 members (/dev/thimble/d)"))
    );
    let steps = settle(&storage, &mut world);
    assert!(steps.iter().any(|step| matches!(step, Step::Assemble { name, missing: 1, .. } if name == "wide")));
    world.plug("vdg", away);
    let steps = settle(&storage, &mut world);
    let back = |step: &Step| matches!(step, Step::AddMember { target, returns: true, .. } if target.block == "vdg");
    assert!(steps.iter().any(back), "{steps:#?}");
    assert_eq!(plan(&storage, &world.observe(), Patience::Over).steps, []);
}

#[test]
fn two_disks_too_few_are_waited_for() {
    let storage = everything([true; 6]);
    let mut world = World::new(&SERIALS);
    settle(&storage, &mut world);
    world.reboot();
    let away = [world.pull("vdd"), world.pull("vde")];
    let steps = settle(&storage, &mut world);
    assert!(!steps.iter().any(|step| matches!(step, Step::Assemble { name, .. } if name == "wide")));
    // The disks that are there keep what they have, wipe or not.
    assert!(steps.iter().all(|step| step.destroys().is_empty()), "{steps:#?}");
    for (name, disk) in ["vdd", "vde"].into_iter().zip(away) {
        world.plug(name, disk);
    }
    settle(&storage, &mut world);
    let end = plan(&storage, &world.observe(), Patience::Over);
    assert_eq!(end, complete(&storage));
}

#[test]
fn a_new_disk_in_place_of_a_dead_one_is_taken_if_nothing_is_on_it() {
    let storage = everything([false; 6]);
    let mut world = World::new(&SERIALS);
    settle(&storage, &mut world);
    world.pull("vdd");
    world.plug_new("vdh", "d", foreign(2, "d"));
    let told = plan(&storage, &world.observe(), Patience::Over);
    assert_eq!(told.problems.len(), 1, "{told:#?}");
    assert!(
        told.problems[0].starts_with("/dev/thimble/d (vdh) has an ext2, ext3 or ext4 file system, which is not what")
    );
    assert!(settle(&storage, &mut world).iter().all(|step| step.destroys().is_empty()));
    world.pull("vdh");
    world.plug_new("vdi", "d", Found::nothing());
    let steps = settle(&storage, &mut world);
    assert!(steps.iter().any(|step| matches!(step, Step::AddMember { returns: false, .. })), "{steps:#?}");
}

#[test]
fn arrays_of_another_system_are_started() {
    let storage = storage(
        "[[storage.raid]]\nname = \"data\"\nlevel = 1\nmembers = [\"/dev/vda\", \"/dev/vdb\"]\nmetadata = \"1.0\"\n",
    );
    let mut world = World::new(&["a", "b"]);
    for (role, block) in [(0, "vda"), (1, "vdb")] {
        let md = Md { uuid: [3; 16], name: "data".to_owned(), level: 1, disks: 2, role: Some(role), events: 77 };
        world.put(block, Found { blank: false, signatures: vec![Signature::Md(md), Signature::Gpt] });
    }
    let steps = settle(&storage, &mut world);
    assert!(
        matches!(&steps[..], [Step::Assemble { name, missing: 0, .. }, Step::Name { .. }] if name == "data"),
        "{steps:#?}"
    );
}

#[test]
fn two_disks_that_answer_to_one_name_are_left_alone() {
    let storage = everything([true; 6]);
    let mut world = World::new(&["a", "a", "b", "c", "d", "e", "f"]);
    let steps = settle(&storage, &mut world);
    assert!(steps.iter().flat_map(Step::destroys).all(|target| !["vda", "vdb"].contains(&target.block.as_str())));
    assert!(
        plan(&storage, &world.observe(), Patience::Over).problems[0].contains("storage.disks.a is both vda and vdb")
    );
}

/// A volume on which something is, of which a snapshot is made on which something else was.
fn kept() -> (Storage, World, snapshots::Thin) {
    let storage = everything([false; 6]);
    let mut world = World::new(&SERIALS);
    settle(&storage, &mut world);
    let thin = snapshots::Thin::at(&storage, "/dev/vg/thin").unwrap();
    *world.volume_content("vg", "thin") = foreign(3, "");
    world.run(&storage, &thin.keep());
    world.run(&storage, &thin.kept("a", Moment::Off));
    *world.volume_content("vg", "thin") = foreign(2, "");
    (storage, world, thin)
}

#[test]
fn a_volume_is_what_it_was_wherever_that_is_cut_off() {
    let (storage, world, thin) = kept();
    let snapshot = Snapshot { name: "a".to_owned(), made_ms: 0, moment: Moment::Off, size: 1 << 30, allocated: None };
    let begun = thin.revert(&snapshot);
    // What the plan does after that, and nothing else.
    let mut whole = world.clone();
    begun.iter().for_each(|step| whole.run(&storage, step));
    let rest = settle(&storage, &mut whole);
    let text: Vec<String> = rest.iter().map(ToString::to_string).collect();
    assert_eq!(text[..2], ["rename the volume vg/thin+new to thin", "remove the volume vg/thin+old"], "{text:#?}");
    assert!(matches!(&rest[2..], [Step::Name { target }] if target.path == "/dev/vg/thin"), "{rest:#?}");
    let steps: Vec<Step> = begun.into_iter().chain(rest).collect();
    for (cut, reboots) in (0..=steps.len()).flat_map(|cut| [(cut, true), (cut, false)]) {
        let mut world = world.clone();
        steps[..cut].iter().for_each(|step| world.run(&storage, step));
        if reboots {
            world.reboot();
        }
        let after = settle(&storage, &mut world);
        assert!(
            after.iter().all(|step| !matches!(step, Step::CreateVolume { .. }) && step.destroys().is_empty()),
            "{after:#?}"
        );
        // From the moment on in which it lost its name it is the other one.
        let wanted = if cut < 2 { foreign(2, "") } else { foreign(3, "") };
        assert_eq!(*world.volume_content("vg", "thin"), wanted, "{cut}");
        assert_eq!(*world.volume_content("vg", "thin+a.off"), foreign(3, ""), "the snapshot stays");
        let observed = world.observe();
        assert!(observed.groups[0].volumes.iter().all(|it| !["thin+new", "thin+old"].contains(&it.name.as_str())));
        assert_eq!(plan(&storage, &observed, Patience::Over), complete(&storage));
    }
}

#[test]
fn a_volume_that_has_lost_its_name_is_not_made_anew() {
    let (storage, mut world, thin) = kept();
    // Somebody has taken away what it was about to be.
    world.run(&storage, &Step::RenameVolume { group: "vg".into(), from: "thin".into(), to: "thin+old".into() });
    let text: Vec<String> = settle(&storage, &mut world).iter().map(ToString::to_string).collect();
    assert_eq!(text[0], "rename the volume vg/thin+old to thin");
    assert_eq!(*world.volume_content("vg", "thin"), foreign(2, ""));
    // Nor as long as it cannot have it back.
    world.run(&storage, &thin.keep());
    world.run(&storage, &Step::RenameVolume { group: "vg".into(), from: "thin".into(), to: "other".into() });
    let steps = plan(&storage, &world.observe(), Patience::Over).steps;
    let text: Vec<String> = steps.iter().map(ToString::to_string).collect();
    assert_eq!(text, ["rename the volume vg/thin+new to thin"]);
}

#[test]
fn no_device_is_made_of_a_snapshot() {
    let (storage, mut world, _) = kept();
    world.reboot();
    let steps = settle(&storage, &mut world);
    let activated = steps.iter().find_map(|step| match step {
        Step::ActivateGroup { volumes, .. } => Some(volumes),
        _ => None,
    });
    assert_eq!(activated.unwrap(), &["files", "pool", "thin", "before"]);
}

/// Two containers that one key opens: a file system in one, a guest's device in the other.
fn secret(wipe: bool) -> Storage {
    let mut text = String::new();
    for (disk, wipe) in [("a", false), ("b", wipe), ("c", wipe)] {
        text += &format!("[storage.disks.{disk}]\nmatch = {{ serial = \"{disk}\" }}\nwipe = {wipe}\n");
    }
    text += r#"
[[storage.luks]]
name = "vault"
device = "b"
key = { device = "a" }
[[storage.luks]]
name = "bare"
device = "c"
key = { device = "a", offset = "4KiB", size = 32 }
[[storage.filesystem]]
device = "/dev/luks/vault"
kind = "ext4"
mount = "/data/vault"
"#;
    storage(&text)
}

#[test]
fn containers_are_made_where_nothing_is_and_opened_after_that() {
    let storage = secret(false);
    let mut world = World::new(&["a", "b", "c"]);
    let text: Vec<String> = settle(&storage, &mut world).iter().map(ToString::to_string).collect();
    for wanted in [
        "make the LUKS container vault on /dev/thimble/b (vdb), with the key on /dev/thimble/a (vda)",
        "make an ext4 file system on /dev/luks/vault (lkvdb)",
        "mount /dev/luks/vault (lkvdb) at /data/vault",
    ] {
        assert!(text.iter().any(|step| step == wanted), "{wanted}: {text:#?}");
    }
    assert_eq!(plan(&storage, &world.observe(), Patience::Over), complete(&storage));
    world.reboot();
    // Without the key nothing is opened, and nothing made;
    let key = world.pull("vda");
    let steps = settle(&storage, &mut world);
    assert!(steps.iter().all(|step| matches!(step, Step::Name { .. })), "{steps:#?}");
    let told = plan(&storage, &world.observe(), Patience::Over);
    assert_eq!(told.held[0], "LUKS container vault waits for /dev/thimble/a", "{told:#?}");
    // when it comes, all of it is there.
    world.plug("vdx", key);
    let again = settle(&storage, &mut world);
    assert!(again.iter().all(|step| step.destroys().is_empty()), "{again:#?}");
    assert_eq!(plan(&storage, &world.observe(), Patience::Over), complete(&storage));
}

/// Takes so many steps, and cuts the next one off in this part of it; an earlier end is one.
fn cut_after(storage: &Storage, world: &mut World, mut left: usize, part: u8) {
    loop {
        let steps = plan(storage, &world.observe(), Patience::Over).steps;
        if steps.is_empty() {
            return;
        }
        for step in steps {
            world.check(storage, &step);
            if left == 0 {
                return world.cut_in(storage, &step, part);
            }
            world.run(storage, &step);
            left -= 1;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is on the disks, whichever are there: only what is blank, ours, or given up is written to (`check` in
    /// [`settle`] looks at each step), there is an end, and at the end nothing more is to be done.
    #[test]
    fn nothing_foreign_is_touched(
        kinds in proptest::array::uniform6(0_u8..8),
        wipe in proptest::array::uniform6(any::<bool>()),
        there in proptest::array::uniform6(prop::bool::weighted(0.9)),
    ) {
        let storage = everything(wipe);
        let mut world = World::new(&SERIALS);
        for (index, serial) in SERIALS.iter().enumerate() {
            let block = format!("vd{serial}");
            world.put(&block, foreign(kinds[index], serial));
            if !there[index] {
                world.pull(&block);
            }
        }
        settle(&storage, &mut world);
        let end = plan(&storage, &world.observe(), Patience::Over);
        prop_assert!(end.steps.is_empty());
    }

    /// The same of containers, which may be there already, of others too.
    #[test]
    fn nothing_foreign_becomes_a_container(kinds in proptest::array::uniform2(0_u8..9), wipe in any::<bool>(), key in any::<bool>()) {
        let storage = secret(wipe);
        let mut world = World::new(&["a", "b", "c"]);
        for (block, kind) in ["vdb", "vdc"].into_iter().zip(kinds) {
            if kind == 8 {
                world.foreign_container(block, foreign(2, ""));
            } else {
                world.put(block, foreign(kind, block));
            }
        }
        if !key {
            world.pull("vda");
        }
        let steps = settle(&storage, &mut world);
        prop_assert!(key || steps.iter().all(|step| step.destroys().is_empty()));
        prop_assert!(plan(&storage, &world.observe(), Patience::Over).steps.is_empty());
    }

    /// A container whose making is cut off is made anew; one that is whole never is. The daemon may have ended, and not the
    /// machine.
    #[test]
    fn a_container_is_whole_in_the_end(cuts in proptest::collection::vec((0_usize..9, 0_u8..4, any::<bool>()), 1..5)) {
        let storage = secret(false);
        let mut world = World::new(&["a", "b", "c"]);
        for (after, part, reboots) in cuts {
            cut_after(&storage, &mut world, after, part);
            if reboots {
                world.reboot();
            }
        }
        settle(&storage, &mut world);
        prop_assert_eq!(plan(&storage, &world.observe(), Patience::Over), complete(&storage));
    }

    /// A power cut at any moment, in the middle of a step as well, ends in the same state as no power cut.
    #[test]
    fn a_cut_anywhere_is_resumed(cuts in proptest::collection::vec((0_usize..40, 0_u8..4), 1..6), wipe in any::<bool>()) {
        let storage = everything([wipe; 6]);
        let mut whole = World::new(&SERIALS);
        settle(&storage, &mut whole);
        let mut world = World::new(&SERIALS);
        for (after, part) in cuts {
            cut_after(&storage, &mut world, after, part);
            world.reboot();
        }
        settle(&storage, &mut world);
        prop_assert_eq!(plan(&storage, &world.observe(), Patience::Over), complete(&storage));
        whole.reboot();
        settle(&storage, &mut whole);
        prop_assert_eq!(world.shape(), whole.shape());
    }
}
