//! What guests are told by their definition: keys, a role, variables, by the command line and by a configuration device;
//! what they say of themselves; and a guest that is started from another's disk.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use thimble_tests::{BOOT_LIMIT, Boot, Definition, Machine, free_port, ssh};

const LIMIT: Duration = Duration::from_secs(180);
/// Keys of the first guest.
const KEYS: usize = 20;
/// Bytes of its longest variable: twice what a command line holds.
const LONG: usize = 4096;

/// The variables that the guest's server for ssh was started with, the command line, and the number of keys.
const TOLD: &str = "tr '\\0' '\\n' </proc/$(ps | awk '/[d]ropbear -F/ { print $1; exit }')/environ; cat /proc/cmdline; \
                    wc -l </root/.ssh/authorized_keys";

/// Machine id and host keys of the guest behind a port.
fn identity(port: u16, key: &Path) -> [String; 2] {
    ["cat /etc/machine-id", "cd /var/lib/dropbear && sha256sum *ed25519*"].map(|command| {
        let text = ssh::said(port, key, command);
        assert!(text.len() > 32, "{text}");
        text
    })
}

/// What comes of commands in a guest, asked for on the host behind a port.
fn commands_run(host: u16, key: &Path) {
    let run = |command: &str| {
        let output = ssh::run(host, Some(key), command);
        let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        (output.status.code(), out, err)
    };
    // A command reads and writes what is read and written here, has its own exit code,
    let script = "read x; echo $x $A $HOSTNAME $(id -u); echo oops >&2; exit 7";
    let (code, out, err) = run(&format!("echo in | thimblectl exec -e A=b one -- sh -c '{script}'"));
    assert_eq!((code, out.as_str(), err.as_str()), (Some(7), "in b one 0\n", "oops\n"));
    // and bytes are what they were, both ways, more of them than anything between holds.
    let (_, sums, err) =
        run("f=/proc/self/exe; cat $f $f >/run/bytes; thimblectl exec one cat </run/bytes | sha256sum; \
         thimblectl exec one sha256sum </run/bytes; sha256sum </run/bytes; wc -c </run/bytes");
    let sums: Vec<&str> = sums.lines().collect();
    assert!(sums.len() == 4 && sums[0] == sums[1] && sums[1] == sums[2], "{sums:?} {err}");
    assert!(sums[3].trim().parse::<u64>().expect("a number") > 500_000, "{sums:?}");
    // With a terminal it has one,
    let (code, out, err) = run("thimblectl exec -t one -- sh -c '[ -t 1 ] && readlink /proc/self/fd/0' </dev/null");
    assert_eq!((code, out.as_str()), (Some(0), "/dev/pts/0\r\n"), "{err}");
    // and when nobody is there for it any more it ends.
    let (code, _, err) = run("thimblectl exec --timeout 3 one sleep 1234");
    assert_eq!(code, Some(125), "{err}");
    let left = || run("thimblectl exec one sh -c 'ps | grep \"[s]leep 1234\"'").0 == Some(0);
    assert!((0..10).any(|_| !left()), "it goes on");
    // What does not run says why;
    for (command, wanted, why) in [
        ("one no-such-program", 127, "cannot start no-such-program: No such file or directory"),
        ("one /proc/cmdline", 126, "cannot start /proc/cmdline: Permission denied"),
        ("stays id", 125, "no commands run in guest stays: `commands = true` in its definition lets them in"),
        ("nobody id", 125, "there is no guest of that name on this node"),
    ] {
        let (code, _, err) = run(&format!("thimblectl exec {command}"));
        assert!(code == Some(wanted) && err.contains(why), "{command}: {code:?} {err}");
    }
    // and what was asked for is remembered.
    let (_, log, _) = run("thimblectl audit");
    assert!(
        log.contains("run in guest one: \"sh\" \"-c\" \"read x;") && log.contains("/v1/guests/stays/exec"),
        "{log}"
    );
}

#[test]
fn guests_know_what_they_are_told_and_a_copy_becomes_a_guest_of_its_own() {
    // Given a guest with twenty keys and more variables than a command line holds,
    let directory = TempDir::new().expect("a temporary directory");
    let keys: Vec<_> = (0..KEYS).map(|number| ssh::key(directory.path(), &format!("key{number}"))).collect();
    let (stranger, _) = ssh::key(directory.path(), "stranger");
    let all: Vec<String> = keys.iter().map(|(_, public)| format!("{public:?}")).collect();
    let (key, public) = &keys[0];
    let changes = [("ALL-KEYS", all.join(", ")), ("THE-KEY", public.clone()), ("LONG VALUE", "x ".repeat(LONG / 2))];
    let changes: Vec<(&str, &str)> = changes.iter().map(|(from, to)| (*from, to.as_str())).collect();
    let out = Definition::read("tests/library/parameters.toml")
        .with(&changes)
        .build(directory.path(), ["--format", "netboot"]);
    let (host, one, two) = (free_port(), free_port(), free_port());
    let forward = [(host, "host:22"), (one, "one:22"), (two, "two:22")];
    let mut machine = Machine::boot(&Boot { forward: &forward, ..Boot::new(&out, "direct") });
    machine.wait_all(&["^thimble: guest one ready", "^thimble: guest stays ready"], BOOT_LIMIT);

    // then the first and the last of the keys log in, and no other,
    ssh::wait(one);
    let told = ssh::said(one, key, TOLD);
    assert_eq!(ssh::said(one, &keys[KEYS - 1].0, "hostname"), "one\n");
    let refused = ssh::run(one, Some(&stranger), "id");
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("Permission denied"));
    // and its services have the variables, which are on a configuration device.
    let long = format!("LONG={}", "x ".repeat(LONG / 2));
    for wanted in [long.as_str(), "QUOTED=say \"hi\"", "THIMBLE_ROLE=db-primary", "HOSTNAME=one", "20"] {
        assert!(told.lines().any(|line| line == wanted), "{wanted}: {told}");
    }
    assert!(told.contains("thimble.config=thimble-config") && !told.contains("thimble.ssh-key"), "{told}");

    // It says what it is like, and is told the time when it goes on.
    ssh::wait(host);
    ssh::said(one, key, "date -s '2020-01-01 00:00:00'");
    let asked = "thimblectl guestinfo one --json";
    let text = ssh::said(host, key, &format!("{asked}; thimblectl suspend one; {asked} 2>&1; thimblectl resume one"));
    let mut lines = text.lines();
    let before: Value = serde_json::from_str(lines.next().expect("a line")).expect("JSON");
    assert_eq!((&before["name"], &before["addresses"]), (&"one".into(), &json!(["10.1.1.11/24"])), "{before}");
    let (memory, available) = (before["memory_kib"].as_u64(), before["available_kib"].as_u64());
    assert!(memory > available && available > Some(0) && memory < Some(128 << 10), "{before}");
    assert!(before["ahead_s"].as_f64() < Some(-1e6), "{before}");
    assert!(lines.any(|line| line.contains("guest one is paused: one that runs can be asked")), "{text}");
    // The word comes before it goes on; it may be heard after the next one is asked.
    let right = (0..10).any(|_| {
        let after: Value = serde_json::from_str(&ssh::said(host, key, asked)).expect("JSON");
        println!("{after}");
        after["ahead_s"].as_f64().is_some_and(|seconds| seconds.abs() < 10.0)
    });
    assert!(right, "its clock is as it was");

    commands_run(host, key);

    // When another one is started from a copy of its disk,
    let first = identity(one, key);
    let disks = "/data/guests/one/disk.raw /data/guests/two/disk.raw";
    let copy = format!("thimblectl shutdown one --wait && mkdir -p /data/guests/two && cp {disks}");
    ssh::said(host, key, &copy);
    ssh::said(host, key, "thimblectl start one --wait && thimblectl start two --wait");
    machine.wait_all(&["^thimble: guest one ready", "^thimble: guest two ready"], LIMIT);
    // then that is a guest of its own, and the first one is what it was;
    ssh::wait(one);
    ssh::wait(two);
    assert_eq!(identity(one, key), first);
    let second = identity(two, key);
    assert!(first.iter().zip(&second).all(|(first, second)| first != second), "{first:?} {second:?}");
    // what it is told fits on its command line.
    let told = ssh::said(two, key, TOLD);
    assert!(told.lines().any(|line| line == "SHORT=one two") && told.contains("thimble.identity=two"), "{told}");
    assert!(!told.contains("thimble.config"), "{told}");

    // And after a reboot both still are who they were.
    ssh::said(host, key, "thimblectl reboot one --wait && thimblectl reboot two --wait");
    machine.wait_all(&["^thimble: guest one ready", "^thimble: guest two ready"], LIMIT);
    ssh::wait(one);
    ssh::wait(two);
    assert_eq!([identity(one, key), identity(two, key)], [first, second]);
    machine.press_power_button();
    assert!(machine.end(LIMIT).success());
    let errors: Vec<&String> = machine.seen().iter().filter(|line| line.contains("thimble: error")).collect();
    assert!(errors.is_empty(), "{errors:?}");
}
