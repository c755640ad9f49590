//! `[storage]`: what is declared is there once, used once, and stands on nothing that stands on it.

use super::*;
use crate::appliance::{Consistency, DiskMatch, FilesystemKind, LuksKey, Metadata, NfsVersion, VolumeKind, VolumeSize};

const STORAGE: &str = r#"[storage.disks.a]
match = { serial = "A1" }
wipe = true
partitions = [{ name = "data", size = "64MiB", type = "raid" }, { name = "rest" }]
[storage.disks.b]
match = { wwn = "eui.01" }
[storage.disks.c]
match = { path = "/dev/vdx" }
[[storage.raid]]
name = "m"
level = 1
members = ["a.data", "b"]
spares = ["c"]
metadata = "1.0"
[[storage.volume-group]]
name = "vg"
members = ["/dev/md/m"]
volumes = [
    { name = "files", percent = 20 },
    { name = "pool", size = "64MiB", thin-pool = true },
    { name = "thin", size = "1GiB", pool = "pool" },
    { name = "before", snapshot-of = "thin" },
]
[[storage.filesystem]]
device = "/dev/vg/files"
kind = "xfs"
mount = "/data/files"
options = ["noatime"]
label = "files"
[[storage.swap]]
device = "a.rest"
[[storage.nfs]]
name = "filer"
server = "10.1.1.9"
export = "/guests"
mount = "/data/filer"
version = "3"
[[storage.iscsi]]
name = "store"
portal = "10.1.1.8"
target = "iqn.2026-01.org.example:store"
chap = { user = "node1", password = "twelve-bytes" }
[storage.disks.far]
match = { iscsi = "store", lun = 1 }
[[guest]]
name = "db"
image = "web"
memory = "64MiB"
disk = { device = "/dev/vg/thin" }
[[guest]]
name = "far"
image = "web"
memory = "64MiB"
disk = { file = "nfs:filer/far.raw" }
"#;

fn parsed(from: &str, to: &str) -> Result<Definition, Mistakes> {
    assert!(STORAGE.contains(from), "{from}");
    let disk = "disk = { device = \"/dev/md/data\" }";
    parse("a.toml", &(GOOD.replace(disk, "") + &STORAGE.replacen(from, to, 1)))
}

fn told(from: &str, to: &str) -> String {
    let text = parsed(from, to).expect_err(to).to_string();
    text.split_once(": ").map_or(text.clone(), |(_, rest)| rest.to_owned())
}

#[test]
fn names_become_paths() {
    let appliance = parsed("wipe", "wipe").unwrap().appliance;
    let storage = &appliance.storage;
    assert_eq!(storage.disks["b"].identity, DiskMatch::Wwn("eui.01".to_owned()));
    assert!(storage.disks["a"].wipe && !storage.disks["b"].wipe);
    let raid = &storage.raids[1];
    assert_eq!(raid.members, ["/dev/thimble/a.data", "/dev/thimble/b"]);
    assert_eq!(
        (raid.metadata, raid.consistency, &raid.spares[..]),
        (Metadata::End, Some(Consistency::Bitmap), &["/dev/thimble/c".to_owned()][..])
    );
    let group = &storage.groups[0];
    assert_eq!(group.members, ["/dev/md/m"]);
    assert_eq!(group.volumes[1].kind, VolumeKind::ThinPool(VolumeSize::Bytes(ByteSize::mib(64))));
    assert_eq!(group.volumes[3].kind, VolumeKind::Snapshot { of: "thin".to_owned() });
    assert_eq!(storage.filesystems[0].kind, FilesystemKind::Xfs);
    assert_eq!(storage.swaps, ["/dev/thimble/a.rest"]);
    assert_eq!(storage.nfs[0].version, NfsVersion::V3);
    let (target, password) = (&storage.iscsi[0], "twelve-bytes");
    assert_eq!(target.portal.to_string(), "10.1.1.8:3260");
    assert!(target.chap.as_ref().is_some_and(|chap| chap.password == password));
    assert!(!format!("{storage:?}").contains(password), "it is nobody's news");
    assert_eq!(storage.initiator("node1"), "iqn.1993-08.org.debian:01:node1");
    assert_eq!(storage.disks["far"].identity, DiskMatch::Iscsi { target: "store".to_owned(), lun: 1 });
    let source = |guest: usize| appliance.guests[guest].disk.as_ref().unwrap().source.clone();
    assert_eq!(source(2), DiskSource::Device("/dev/vg/thin".to_owned()));
    assert_eq!(source(3), DiskSource::File("/data/filer/far.raw".to_owned()));
}

#[test]
fn what_does_not_exist() {
    for (from, to, message) in [
        ("\"a.data\", \"b\"", "\"a.dat\", \"b\"", "storage.raid[1].members[0]: `a.dat` is not a block device"),
        (
            "\"a.data\", \"b\"",
            "\"a\", \"b\"",
            "storage.raid[1].members[0]: disk a has partitions: name one of them, such as `a.data`",
        ),
        ("/dev/md/m", "/dev/md/n", "storage.volume-group[0].members[0]: `/dev/md/n` is declared nowhere"),
        ("/dev/vg/files", "/dev/vg/pool", "storage.filesystem[0].device: `/dev/vg/pool` is declared nowhere"),
        ("pool = \"pool\"", "pool = \"files\"", "storage.volume-group[0].volumes[2].pool: there is no thin pool files"),
        (
            "snapshot-of = \"thin\"",
            "snapshot-of = \"files\"",
            "storage.volume-group[0].volumes[3].snapshot-of: there is no thin",
        ),
        ("nfs:filer", "nfs:other", "guest[3].disk.file: there is no NFS export `other`"),
    ] {
        let text = told(from, to);
        assert!(text.starts_with(message), "{text}");
    }
}

#[test]
fn what_is_used_twice() {
    for (from, to, message) in [
        (
            "spares = [\"c\"]",
            "spares = [\"b\"]",
            "storage.raid[1].spares[0]: block device /dev/thimble/b is used twice: storage.raid[1].members[1]",
        ),
        (
            "device = \"a.rest\"",
            "device = \"/dev/vg/files\"",
            "storage.swap[0].device: block device /dev/vg/files is used twice",
        ),
        ("/dev/vdx", "/dev/sda", "storage.raid[0].members[0]: block device /dev/sda is used twice"),
        ("\"/data/filer\"", "\"/data/files\"", "storage.nfs[0].mount: mount point /data/files is used twice"),
        ("wwn = \"eui.01\"", "serial = \"A1\"", "storage.disks.b.match.serial: disk with serial A1 is used twice"),
    ] {
        let text = told(from, to);
        assert!(text.starts_with(message), "{text}");
    }
}

#[test]
fn what_makes_an_array_consistent_again() {
    let consistency = |level: &str, more: &str| {
        let to = format!("level = {level}\n{more}\n");
        parsed("level = 1\n", &to).map(|definition| definition.appliance.storage.raids[1].consistency)
    };
    assert_eq!(consistency("1", "").unwrap(), Some(Consistency::Bitmap));
    assert_eq!(consistency("1", "consistency = \"resync\"").unwrap(), Some(Consistency::Resync));
    let wrong = consistency("1", "consistency = \"ppl\"").expect_err("of RAID 5").to_string();
    assert!(wrong.contains("storage.raid[1].consistency: a partial parity log is for RAID 5"), "{wrong}");
    let wrong = consistency("0", "consistency = \"bitmap\"").expect_err("of RAID 0").to_string();
    assert!(wrong.contains("storage.raid[1].consistency: RAID 0 has no copies"), "{wrong}");
}

#[test]
fn what_stands_on_itself() {
    let text = told("members = [\"a.data\", \"b\"]", "members = [\"a.data\", \"/dev/vg/before\"]");
    assert!(
        text.starts_with("storage.raid[1].members: /dev/md/m stands on /dev/thimble/a.data, /dev/vg/before,"),
        "{text}"
    );
}

#[test]
fn what_cannot_be() {
    for (from, to, key) in [
        ("serial = \"A1\"", "serial = \"A1\", path = \"/dev/sda\"", "storage.disks.a.match"),
        ("serial = \"A1\"", "serial = \"\"", "storage.disks.a.match.serial"),
        ("/dev/vdx", "/dev/disk/x", "storage.disks.c.match.path"),
        ("size = \"64MiB\", type", "type", "storage.disks.a.partitions[0].size"),
        ("size = \"64MiB\", type", "size = \"65KiB\", type", "storage.disks.a.partitions[0].size"),
        ("metadata = \"1.0\"", "level-x = 1", "storage.raid[1].level-x"),
        ("metadata = \"1.0\"", "chunk = \"64KiB\"", "storage.raid[1].chunk"),
        ("name = \"vg\"", "name = \"mapper\"", "storage.volume-group[0].name"),
        ("percent = 20", "percent = 101", "storage.volume-group[0].volumes[0].percent"),
        ("percent = 20", "percent = 20, size = \"4MiB\"", "storage.volume-group[0].volumes[0]"),
        ("percent = 20", "size = \"5MiB\"", "storage.volume-group[0].volumes[0].size"),
        ("\"/data/files\"", "\"/data/../etc\"", "storage.filesystem[0].mount"),
        ("\"/data/files\"", "\"/etc\"", "storage.filesystem[0].mount"),
        ("\"noatime\"", "\"a,b\"", "storage.filesystem[0].options[0]"),
        ("label = \"files\"", "label = \"-L very long\"", "storage.filesystem[0].label"),
        ("10.1.1.8", "filer", "storage.iscsi[0].portal"),
        ("org.example:store", "org.example:a/../b", "storage.iscsi[0].target"),
        ("\"iqn.2026-01.org.example:store\"", "\"store\"", "storage.iscsi[0].target"),
        ("twelve-bytes", "eleven-byte", "storage.iscsi[0].chap.password"),
        ("twelve-bytes", "twelve bytes", "storage.iscsi[0].chap.password"),
        ("node1", "", "storage.iscsi[0].chap.user"),
        ("chap = {", "give-up-s = 0\nchap = {", "storage.iscsi[0].give-up-s"),
        ("iscsi = \"store\", lun = 1", "iscsi = \"store\"", "storage.disks.far.match.iscsi"),
        ("iscsi = \"store\", lun = 1", "iscsi = \"other\", lun = 1", "storage.disks.far.match.iscsi"),
        ("iscsi = \"store\", lun = 1", "iscsi = \"store\", lun = 16384", "storage.disks.far.match.lun"),
        ("serial = \"A1\"", "serial = \"A1\", lun = 1", "storage.disks.a.match.lun"),
    ] {
        let text = told(from, to);
        assert!(text.starts_with(&format!("{key}: ")), "{to}: {text}");
    }
}

#[test]
fn containers_have_a_device_and_a_key() {
    let luks = "[[storage.luks]]\nname = \"vault\"\ndevice = \"b\"\nkey = { device = \"a\" }\n";
    let text = |more: &str| {
        let disks = "[storage.disks.a]\nmatch = { serial = \"A\" }\n[storage.disks.b]\nmatch = { serial = \"B\" }\n";
        format!("{}{disks}{more}", GOOD.replace("disk = { device = \"/dev/md/data\" }", ""))
    };
    let storage = parse("a.toml", &text(luks)).unwrap().appliance.storage;
    let key = LuksKey { device: "/dev/thimble/a".to_owned(), offset: ByteSize(0), size: 64 };
    assert_eq!((storage.luks[0].path().as_str(), &storage.luks[0].key), ("/dev/luks/vault", &key));
    assert!(storage.is_free("/dev/luks/vault") && !storage.is_free("/dev/thimble/a"));
    for (from, to, told) in [
        ("\"a\" }", "\"a\", size = 16 }", "storage.luks[0].key.size: use 32 to 4096 bytes"),
        ("\"a\" }", "\"c\" }", "storage.luks[0].key.device: `c` is not a block device"),
        ("\"a\" }", "\"b\" }", "storage.luks[0].key.device: block device"),
        ("\"a\" }", "\"/dev/luks/vault\" }", "storage.luks[0].device: /dev/luks/vault stands on"),
        ("\"vault\"", "\"Vault\"", "storage.luks[0].name: "),
        ("\"b\"\n", "\"/dev/luks/other\"\n", "storage.luks[0].device: `/dev/luks/other` is declared nowhere"),
    ] {
        let mistakes = parse("a.toml", &text(&luks.replace(from, to))).unwrap_err().to_string();
        assert!(mistakes.contains(told), "{to}: {mistakes}");
    }
    let two = luks.replace("\"b\"", "\"/dev/luks/vault\"").replace("name = \"vault", "name = \"inner");
    assert!(parse("a.toml", &text(&format!("{luks}{two}"))).is_ok(), "one in another, and one key for both");
}
