//! A/B updates, as far as the workstation and the boot loader do them: `thimble update` on a disk, and what GRUB starts of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use thimble_tests::{BOOT_LIMIT, Boot, Disk, Machine, demo, repository, thimble};

const LIMIT: Duration = Duration::from_secs(60);

/// A directory with a definition, a key, and what is built of them.
struct Site {
    dir: TempDir,
}

impl Site {
    fn new() -> Self {
        // What the demonstration needs is in the cache.
        demo();
        let site = Self { dir: TempDir::new().expect("a temporary directory") };
        let (code, _, error) = ended(thimble().arg("key").arg(site.path("demo.key")));
        assert_eq!(code, Some(0), "{error}");
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Builds the demonstration with a key and two tries; `memory` is what its second guest has.
    fn build(&self, out: &str, memory: &str) -> PathBuf {
        let demo = fs::read_to_string(repository().join("configs/demo.toml")).expect("the definition");
        let (first, second) = demo.split_once("name = \"web2\"").expect("it has a second guest");
        let second = second.replacen("memory = \"96MiB\"", &format!("memory = \"{memory}\""), 1);
        let update = "[update]\nkey = \"demo.pub\"\ntries = 2\n";
        fs::write(self.path("demo.toml"), format!("{first}name = \"web2\"{second}\n{update}")).expect("room in /tmp");
        let mut build = thimble();
        build.arg("build").arg(self.path("demo.toml")).arg("--quiet").arg("--library").arg(repository());
        let (code, _, error) = ended(build.arg("--out").arg(self.path(out)).arg("--sign").arg(self.path("demo.key")));
        assert_eq!(code, Some(0), "{error}");
        self.path(out)
    }
}

fn ended(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().expect("thimble starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn update(disk: &Path, from: &Path, options: &[&str]) -> (Option<i32>, String, String) {
    ended(thimble().arg("update").arg(disk).arg(from).arg("--quiet").args(options))
}

/// What `thimble inspect` says of a disk's slots, and whether all is well.
fn inspect(disk: &Path) -> (bool, Value) {
    let (code, told, error) = ended(thimble().arg("inspect").arg(disk).arg("--json"));
    let told: Value = serde_json::from_str(&told).unwrap_or_else(|wrong| panic!("{wrong}: {told}{error}"));
    (code == Some(0), told["slots"].clone())
}

fn manifest(build: &Path) -> String {
    let manifest = fs::read(build.join("manifest.json")).expect("it was built");
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    manifest["hash"].as_str().expect("a hash").to_owned()
}

/// First byte and length of the boot partition.
fn boot_partition(disk: &Path) -> (usize, usize) {
    let (_, told, _) = ended(thimble().arg("inspect").arg(disk).arg("--json"));
    let told: Value = serde_json::from_str(&told).expect("JSON");
    let partitions = told["partitions"].as_array().expect("partitions");
    let esp = partitions.iter().find(|part| part["name"] == "esp").expect("a boot partition");
    let number = |key: &str| usize::try_from(esp[key].as_u64().expect("a number")).expect("a small disk");
    (number("start"), number("bytes"))
}

/// Waits until a slot's system says which build it is, and not until its guests run: this start is never confirmed.
fn started(machine: &mut Machine, slot: &str, build: &Path) {
    machine.wait(&format!("demo: starting slot {slot}"), BOOT_LIMIT);
    machine.wait(&format!("^demo: manifest {}$", manifest(build)), BOOT_LIMIT);
}

#[test]
fn a_disk_takes_an_update_tries_it_and_goes_back() {
    // Given two builds of an appliance by the owner of its key, and a disk with the first,
    let site = Site::new();
    let (one, two) = (site.build("one", "96MiB"), site.build("two", "112MiB"));
    assert_ne!(manifest(&one), manifest(&two));
    let disk = site.path("disk.img");
    fs::copy(one.join("flash.img"), &disk).expect("room in /tmp");
    let before = fs::read(&disk).expect("the disk");

    // when an update is only looked at, or is not what it should be, the disk stays as it is;
    let (code, told, error) = update(&disk, &two, &["--dry-run"]);
    assert_eq!(code, Some(0), "{error}");
    assert!(told.contains("would go into slot b") && told.contains("missing  node.cpio"), "{told}");
    let whole = fs::read(two.join("thimble.update")).expect("it was signed");
    let wrong = site.path("wrong.update");
    let last = whole.len() - 100;
    let altered = |at: usize| {
        let mut altered = whole.clone();
        altered[at] ^= 1;
        altered
    };
    let cases = [
        (whole[..100].to_vec(), "it is truncated"),
        (altered(300), "refused"),
        (whole[..last].to_vec(), "it ends inside node.cpio"),
        (altered(last), "node.cpio is not what the release says"),
        ([&whole[..], b"x"].concat(), "behind its end"),
    ];
    for (bytes, why) in cases {
        fs::write(&wrong, bytes).expect("room in /tmp");
        let (code, _, error) = update(&disk, &wrong, &[]);
        assert_eq!(code, Some(1), "{error}");
        assert!(error.contains("the update is refused") && error.contains(why), "{error}");
    }
    assert!(fs::read(&disk).expect("the disk") == before, "something was written");

    // and the right one writes what the first build has not, and nothing outside the boot partition.
    let (code, told, error) = update(&disk, &two, &[]);
    assert_eq!(code, Some(0), "{error}");
    let lines = |word: &str| told.lines().filter(|line| line.split_whitespace().nth(1) == Some(word)).count();
    assert_eq!((lines("written"), lines("shared")), (1, 6), "{told}");
    let (sound, slots) = inspect(&disk);
    assert!(sound && slots["trial"] == "b" && slots["trial_left"] == 2, "{slots}");
    let after = fs::read(&disk).expect("the disk");
    let (start, bytes) = boot_partition(&disk);
    assert!(after[..start] == before[..start] && after[start + bytes..] == before[start + bytes..]);

    // Then the machine starts it as often as the definition says, and after that, unconfirmed, what it had before.
    let place = disk.to_str().expect("UTF-8").to_owned();
    let more = ["--disk", &place];
    let boot = |by: &'static str| Machine::boot(&Boot { more: &more, ..Boot::new(&one, by) });
    let mut machine = boot("flash-bios");
    started(&mut machine, "b", &two);
    machine.qmp("system_reset", json!({}));
    machine.wait("demo: the last start of slot b was not confirmed", LIMIT);
    started(&mut machine, "b", &two);
    machine.qmp("system_reset", json!({}));
    started(&mut machine, "a", &one);
    drop(machine);
    let (sound, slots) = inspect(&disk);
    assert!(sound && slots["good"] == "a" && slots["trial"] == "b" && slots["trial_left"] == 0, "{slots}");

    // When the same update is given again, nothing has to be written but that it is on trial;
    let (code, told, error) = update(&disk, &two, &[]);
    assert!(code == Some(0) && !told.contains("written"), "{told}{error}");
    let mut machine = boot("flash-bios");
    started(&mut machine, "b", &two);
    drop(machine);
    // and when an object of it goes bad,
    let mut bytes = fs::read(&disk).expect("the disk");
    let node = &whole[whole.len() - 4096..];
    let at = bytes.windows(node.len()).position(|window| window == node).expect("it is there in one piece");
    bytes[at + 100] ^= 0x10;
    fs::write(&disk, bytes).expect("room in /tmp");
    let (sound, slots) = inspect(&disk);
    assert!(!sound && slots["slots"][1]["damage"].to_string().contains("node.cpio"), "{slots}");
    // then the boot loader, by UEFI this time, names it and starts the good slot;
    let mut machine = boot("flash-uefi");
    machine.wait(r"/thimble/objects/\S+: HASH MISMATCH", BOOT_LIMIT);
    machine.wait("demo: slot b is damaged", LIMIT);
    started(&mut machine, "a", &one);
    drop(machine);
    assert_eq!(inspect(&disk).1["trial_left"], 0);
    // and the update, given once more, writes what is damaged.
    let (code, told, error) = update(&disk, &two, &[]);
    assert!(code == Some(0) && told.contains("written  node.cpio"), "{told}{error}");
    assert!(inspect(&disk).0);
}

#[test]
fn a_disk_that_was_flashed_takes_an_update_as_a_device_and_starts_it() {
    // Given a disk larger than the image, written by `thimble flash`: its backup partition table stands elsewhere,
    let site = Site::new();
    let (one, two) = (site.build("one", "96MiB"), site.build("two", "112MiB"));
    let image = fs::metadata(one.join("flash.img")).expect("it was built").len();
    let Some(disk) = Disk::new(image + (100 << 20)) else { return };
    let (code, _, error) = ended(thimble().arg("flash").arg(&one).arg(disk.device()).args(["--force", "--yes"]));
    assert_eq!(code, Some(0), "{error}");
    // when the device is given an update,
    let (code, told, error) = update(disk.device(), &two, &[]);
    assert_eq!(code, Some(0), "{error}");
    assert!(told.contains("written  node.cpio"), "{told}");
    let (sound, slots) = inspect(disk.device());
    assert!(sound && slots["trial"] == "b", "{slots}");
    // then a machine with that disk starts it, its guests are ready, and it is what the disk starts from then on.
    let place = disk.file().to_str().expect("UTF-8").to_owned();
    let mut machine = Machine::boot(&Boot { more: &["--disk", &place], ..Boot::new(&one, "flash-uefi") });
    started(&mut machine, "b", &two);
    machine.wait_all(&["^thimble: guest web1 ready", "^thimble: guest web2 ready"], BOOT_LIMIT);
    let deadline = Instant::now() + LIMIT;
    while inspect(&disk.file()).1["good"] != "b" {
        assert!(Instant::now() < deadline, "slot b is not confirmed: {}", inspect(&disk.file()).1);
        std::thread::sleep(Duration::from_secs(1));
    }
}
