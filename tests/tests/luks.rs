//! LUKS containers on a host: made on blank disks, opened by a key on a stick, and kept.

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use thimble_tests::disks::{Disks, Plug, build_other, made, until};
use thimble_tests::{BOOT_LIMIT, Machine, free_port, ssh};

const LIMIT: Duration = Duration::from_secs(180);
/// Where the second key is on the stick.
const SECOND: u64 = 4096;
/// What is written into a container, and nowhere else.
const MARK: &str = "nobody reads this without the key, whatever disk it is on";

const STORAGE: &str = r#"[storage.disks.stick]
match = { serial = "K" }
[storage.disks.b]
match = { serial = "B" }
[storage.disks.g]
match = { serial = "G" }
[storage.disks.f]
match = { serial = "F" }
[[storage.luks]]
name = "vault"
device = "b"
key = { device = "stick" }
[[storage.luks]]
name = "own"
device = "g"
key = { device = "stick", offset = "4KiB", size = 32 }
[[storage.luks]]
name = "theirs"
device = "f"
key = { device = "stick" }
[[storage.filesystem]]
device = "/dev/luks/vault"
kind = "ext4"
mount = "/data/vault"
[[guest]]
name = "own"
image = "writer"
memory = "64MiB"
disk = { device = "/dev/luks/own" }
"#;

/// Random bytes, as somebody would make a key.
fn random(bytes: usize) -> Vec<u8> {
    let mut key = vec![0; bytes];
    let source = fs::File::open("/dev/urandom").expect("there are random bytes");
    std::io::Read::read_exact(&mut &source, &mut key).expect("there are random bytes");
    key
}

/// Runs Debian's own, here.
fn cryptsetup(disks: &Disks, words: &[&str], disk: &str) -> bool {
    let key = format!("--key-file={}", disks.file("K").display());
    let mut command = Command::new("cryptsetup");
    command.args(words).args([&key, "--keyfile-size=64"]).arg(disks.file(disk));
    command.status().expect("cryptsetup starts").success()
}

fn errors(machine: &Machine) -> Vec<&String> {
    machine.seen().iter().filter(|line| line.starts_with("thimble: error")).collect()
}

#[test]
fn containers_keep_what_is_in_them_to_those_who_have_the_key() {
    // Given two blank disks for containers, one that Debian's cryptsetup has made elsewhere, and a stick with two keys,
    let directory = TempDir::new().expect("a temporary directory");
    let (key, public) = ssh::key(directory.path(), "key");
    let out = build_other(directory.path(), &public, STORAGE);
    let all = [("K", 1, Plug::Virtio), ("B", 64, Plug::Virtio), ("G", 64, Plug::Virtio), ("F", 32, Plug::Virtio)];
    let disks = Disks::new(directory.path(), &all);
    let stick = fs::File::options().write(true).open(disks.file("K")).expect("the stick");
    stick.write_all_at(&random(64), 0).and_then(|()| stick.write_all_at(&random(32), SECOND)).expect("two keys");
    let format = ["luksFormat", "-q", "--type=luks2", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000"];
    assert!(cryptsetup(&disks, &format, "F"));
    let theirs = disks.hash("F");
    let port = free_port();
    let forward = [(port, "host:22")];

    // when the host boots, the two are made, and all three opened,
    let mut machine = disks.boot(&out, &forward);
    let steps = ["make the LUKS container vault", "make the LUKS container own", "open the LUKS container theirs"];
    let steps = steps.map(|step| format!("^storage: {step}"));
    let mut wanted: Vec<&str> = steps.iter().map(String::as_str).collect();
    wanted.extend(["^thimble: host disks up", "^\\[own\\] writer: 4$"]);
    machine.wait_all(&wanted, BOOT_LIMIT);
    ssh::wait(port);
    let open = |status: &Value| {
        let containers = status["containers"].as_array().expect("a list");
        containers.len() == 3 && containers.iter().all(|it| it["device"].is_string())
    };
    let now = until(port, &key, "open", open);
    assert_eq!((&now["steps"], &now["problems"]), (&json!([]), &json!([])), "{now:#}");
    ssh::said(port, &key, &format!("echo {MARK} >/data/vault/x; sync; grep -q aes /proc/crypto"));
    machine.press_power_button();
    assert!(machine.end(LIMIT).success());
    assert_eq!(errors(&machine), Vec::<&String>::new());
    // what is in one is nowhere else, others' tools know it, and of the foreign one no byte has changed.
    let content = fs::read(disks.file("B")).expect("the disk can be read");
    assert!(!content.windows(MARK.len()).any(|bytes| bytes == MARK.as_bytes()));
    assert!(cryptsetup(&disks, &["open", "--test-passphrase"], "B"));
    assert_eq!(disks.hash("F"), theirs);

    // The next boot makes nothing, and all of it is there, the guest's too.
    let mut machine = disks.boot(&out, &forward);
    machine.wait_all(&["^\\[own\\] writer: begins after [1-9]", "^storage: mount /dev/luks/vault"], BOOT_LIMIT);
    ssh::wait(port);
    assert_eq!(ssh::said(port, &key, "cat /data/vault/x").trim(), MARK);
    assert_eq!((made(&machine), errors(&machine)), (vec![], vec![]));
    // Cut off, it is no worse for that.
    machine.cut_power();

    // With another key on the stick each is left alone, and said so once; what needs none is up.
    stick.write_all_at(&random(64), 0).expect("another key");
    let before = disks.hash("B");
    let mut machine = disks.boot(&out, &forward);
    let told = |name: &str| format!("^thimble: error storage: open the LUKS container {name} .*No key available");
    let (vault, theirs) = (told("vault"), told("theirs"));
    machine
        .wait_all(&["^thimble: host disks up", "^\\[own\\] writer: begins after [1-9]", &vault, &theirs], BOOT_LIMIT);
    assert_eq!(errors(&machine).len(), 2, "{:#?}", errors(&machine));
    assert_eq!(made(&machine), Vec::<&String>::new());
    machine.press_power_button();
    assert!(machine.end(LIMIT).success());
    assert_eq!(disks.hash("B"), before);
    assert!(!machine.seen().iter().any(|line| line.contains("is damaged")), "{:#?}", machine.seen());
}
