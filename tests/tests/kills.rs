//! The node daemon killed with -9 in the middle of whatever it is asked for, again and again: eight times, or as often as
//! `make soak KILLS=100` says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use thimble_tests::{BOOT_LIMIT, Boot, Definition, Machine, free_port, ssh};

const LIMIT: Duration = Duration::from_secs(120);
/// Kills where nothing is said.
const KILLS: u64 = 8;
/// The longest that the daemon has, in milliseconds, from the moment in which it is asked.
const LIFE_MS: u64 = 300;
/// Kills the daemon, and not `thimblectl`, which is the same program.
const KILL: &str =
    "for p in /proc/[0-9]*; do read name < $p/comm; [ $name = thimble-node ] && kill -9 ${p#/proc/}; done 2>/dev/null";
/// Lists the guests' cgroups.
const GROUPS: &str = "cd /sys/fs/cgroup/thimble && ls -d */";

/// One guest of the image with a disk, on a host with a data partition.
fn build(directory: &Path, public: &str) -> PathBuf {
    let changes = [
        ("\"virtio\", \"raid\", \"nic-server\", \"usb\"", "\"virtio\""),
        ("address = \"dhcp\"", "address = \"10.1.1.2/24\"\ngateway = \"10.1.1.1\""),
        ("memory = \"96MiB\"", "memory = \"64MiB\""),
    ];
    let definition = Definition::read("configs/demo.toml").up_to("[[guest]]\nname = \"web2\"").with(&changes);
    let more = format!("[access.ssh]\nkeys = [\"{public}\"]\n");
    definition.and(&more).named("kills").build(directory, ["--format", "flash,netboot"])
}

/// Numbers that look like chance, and are the same in each run of one seed (Knuth, The Art of Computer Programming, 3.3.4: MMIX).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// What a guest is to be.
#[derive(Clone, Debug, PartialEq)]
struct Guest {
    runs: bool,
    memory_mib: u64,
    autostart: bool,
}

struct Host {
    port: u16,
    key: PathBuf,
}

impl Host {
    /// What a command prints, and whether it succeeded.
    fn says(&self, commands: &str) -> (bool, String) {
        let output = ssh::run(self.port, Some(&self.key), commands);
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    fn said(&self, commands: &str) -> String {
        ssh::said(self.port, &self.key, commands)
    }

    /// All guests, once none is on its way from one state to another.
    fn settled(&self) -> BTreeMap<String, Guest> {
        let began = Instant::now();
        loop {
            let list: Value = serde_json::from_str(&self.said("thimblectl list --all --json")).expect("JSON");
            let guests = list["guests"].as_array().expect("a list");
            let is_settled = |guest: &Value| match guest["state"].as_str() {
                Some("running") => !guest["ready_s"].is_null(),
                state => state == Some("off"),
            };
            if guests.iter().all(is_settled) {
                let mut named = BTreeMap::new();
                for it in guests {
                    let guest = Guest {
                        runs: it["state"] == "running",
                        memory_mib: self.memory_mib(it["name"].as_str().expect("a name")),
                        autostart: it["autostart"] == true,
                    };
                    let before = named.insert(it["name"].as_str().expect("a name").to_owned(), guest);
                    assert!(before.is_none(), "there are two of {it}");
                }
                return named;
            }
            assert!(began.elapsed() < LIMIT, "guests do not settle: {list}");
            sleep(Duration::from_millis(500));
        }
    }

    /// What its next start goes by.
    fn memory_mib(&self, guest: &str) -> u64 {
        let text = self.said(&format!("thimblectl dumpconfig {guest} --inactive"));
        let definition: Value = serde_json::from_str(&text).expect("JSON");
        let memory = definition["memory"].as_str().expect("a size");
        memory.trim_end_matches("MiB").parse().expect("it is in MiB")
    }

    /// Waits until each guest that runs has one VMM with its minder, no other has any, and nothing else is left.
    fn has_nothing_else(&self, guests: &BTreeMap<String, Guest>) {
        let running: Vec<&str> = guests.iter().filter(|(_, it)| it.runs).map(|(name, _)| name.as_str()).collect();
        let began = Instant::now();
        loop {
            let found = [self.minders(), self.names("cd /sys/class/net && ls -d tap-*"), self.names(GROUPS)];
            let half = self.said("ls /data/guests/*/*.part /data/definitions/*.damaged 2>/dev/null; true");
            if found.iter().all(|found| *found == running) && half.is_empty() {
                return;
            }
            assert!(began.elapsed() < LIMIT, "{running:?} run; VMMs, taps and cgroups: {found:?}; {half}");
            sleep(Duration::from_millis(500));
        }
    }

    /// The guests of all minders: what has a minder for its parent is a VMM.
    fn minders(&self) -> Vec<String> {
        let text = self.said("busybox ps -o pid,ppid,args | busybox grep '[t]himble-vmm --config'; true");
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        let is_minder = |row: &&Vec<&str>| !rows.iter().any(|other| other[0] == row[1]);
        let guest = |row: &Vec<&str>| {
            let path = row.iter().find(|word| word.ends_with("/config.json")).expect("it has a description");
            path.rsplit('/').nth(1).expect("in its guest's directory").to_owned()
        };
        let mut names: Vec<String> = rows.iter().filter(is_minder).map(guest).collect();
        names.sort();
        names
    }

    /// What a command lists, less what is not a guest's name.
    fn names(&self, command: &str) -> Vec<String> {
        let text = self.said(&format!("{command} 2>/dev/null; true"));
        let name = |word: &str| word.trim_start_matches("tap-").trim_end_matches('/').to_owned();
        let mut names: Vec<String> = text.split_whitespace().map(name).collect();
        names.sort();
        names
    }
}

/// Something that is asked: the command, and what the guests are to be when it is done.
fn ask(dice: &mut Dice, guests: &BTreeMap<String, Guest>) -> (String, BTreeMap<String, Guest>) {
    let name = if dice.below(2) == 0 { "web1" } else { "web3" };
    let guest = guests[name].clone();
    let mut after = guests.clone();
    let mut change = |words: String, guest: Guest| {
        after.insert(name.to_owned(), guest);
        words
    };
    let command = match dice.below(10) {
        0 if guest.runs => change(format!("destroy {name}"), Guest { runs: false, ..guest }),
        1 if guest.runs => change(format!("shutdown {name}"), Guest { runs: false, ..guest }),
        2 if guest.runs => change(format!("reboot {name}"), guest),
        0..=2 => change(format!("start {name}"), Guest { runs: true, ..guest }),
        3 => {
            let memory_mib = 64 + 8 * dice.below(3);
            change(format!("setmem {name} {memory_mib}MiB --config"), Guest { memory_mib, ..guest })
        }
        4 => {
            let words = if guest.autostart { "--disable" } else { "" };
            change(format!("autostart {name} {words}"), Guest { autostart: !guest.autostart, ..guest })
        }
        // What becomes of it is seen by what is left.
        5 | 7 => format!("snapshot-create {name}"),
        6 if !guest.runs => format!("snapshot-create {name} off; thimblectl snapshot-revert {name} off"),
        _ if guests.contains_key("copy") => {
            after.remove("copy");
            "undefine copy".to_owned()
        }
        _ if guest.runs => change(format!("destroy {name}"), Guest { runs: false, ..guest }),
        _ => {
            after.insert("copy".to_owned(), Guest { runs: false, ..guest });
            format!("clone {name} copy --address 10.1.1.14/24")
        }
    };
    (format!("thimblectl {command}"), after)
}

#[test]
fn a_daemon_that_is_killed_at_any_time_loses_nothing_and_doubles_nothing() {
    let kills = std::env::var("THIMBLE_KILLS").map_or(KILLS, |text| text.parse().expect("THIMBLE_KILLS is a number"));
    let seed = std::env::var("THIMBLE_SEED").map_or(2, |text| text.parse().expect("THIMBLE_SEED is a number"));
    let mut dice = Dice(seed);
    // Given a host with a guest of the image's and one that is defined on it,
    let directory = TempDir::new().expect("a temporary directory");
    let (key, public) = ssh::key(directory.path(), "root");
    let out = build(directory.path(), &public);
    let port = free_port();
    let disk = directory.path().join("disk.img");
    let more = ["--cpus", "2", "--disk", disk.to_str().expect("a path of text")];
    let mut machine = Machine::boot(&Boot { forward: &[(port, "host:22")], more: &more, ..Boot::new(&out, "direct") });
    machine.wait("^thimble: guest web1 ready", BOOT_LIMIT);
    ssh::wait(port);
    let host = Host { port, key };
    host.said("thimblectl shutdown web1 --wait && thimblectl clone web1 web3 --address 10.1.1.13/24");
    host.said("thimblectl start web1 web3 --wait");
    let mut guests = host.settled();

    let (mut done, mut undone) = (0, 0);
    for kill in 1..=kills {
        // when something is asked, and the daemon killed in the middle of it,
        let (command, after) = ask(&mut dice, &guests);
        let life = dice.below(LIFE_MS) * 1000;
        let (is_done, told) = host.says(&format!("{command} & busybox usleep {life}; {KILL}; wait $!"));
        println!("kill {kill} of {kills}, after {life} us: {command}: {is_done}: {}", told.trim());
        // then what was said to be done is, and what was not is done or not, and nothing else has changed;
        let now = host.settled();
        if is_done {
            assert_eq!(now, after, "{command}: {told}");
            done += 1;
        } else {
            assert!(now == after || now == guests, "{command}: {told}: {now:?}: neither {after:?} nor {guests:?}");
            undone += 1;
        }
        // each guest that runs runs once.
        host.has_nothing_else(&now);
        if guests.contains_key("copy") && !now.contains_key("copy") {
            host.said("thimblectl vol-delete copy");
        }
        guests = now;
    }
    println!("{done} were done, {undone} were not told to be");
    assert!(done > 0, "some were asked and answered before the daemon died");
    // And the guests answer as ever.
    for name in ["web1", "web3"] {
        if !guests[name].runs {
            host.said(&format!("thimblectl start {name} --wait"));
        }
    }
    guests = host.settled();
    assert!(guests["web1"].runs && guests["web3"].runs);
    for (name, address) in [("web1", "10.1.1.11"), ("web3", "10.1.1.13")] {
        let page = host.said(&format!("wget -q -O - http://{address}/"));
        assert!(page.contains(&format!("<h1>{name}</h1>")), "{page}");
    }
    host.says("thimble-node power off");
    assert!(machine.end(LIMIT).success());
}
