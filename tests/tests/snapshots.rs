//! Disks of guests that write without end, kept as they were and given back: while the guest runs, while it is off, and while the
//! node daemon is killed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use thimble_tests::disks::{Disks, Plug, build};
use thimble_tests::{BOOT_LIMIT, Machine, free_port, ssh};

const LIMIT: Duration = Duration::from_secs(300);
/// Kills in the middle of a snapshot.
const KILLS: u32 = 2;
/// Waits until the guest stands still for its snapshot, or that is made, and kills the daemon and not `thimblectl`, which is the
/// same program.
const KILL: &str = "while [ ! -e /run/thimble/guests/file/still ] && kill -0 $asker 2>/dev/null; do :; done; \
    for p in /proc/[0-9]*; do read name < $p/comm; [ $name = thimble-node ] && kill -9 ${p#/proc/}; done 2>/dev/null; wait $asker";
/// Where ext4's superblock says what a file system needs that reads it (Documentation/filesystems/ext4/super.rst).
const INCOMPAT: u64 = 1024 + 0x60;
/// Its bit for "the journal is to be read first".
const RECOVER: u8 = 4;

struct Host {
    machine: Machine,
    port: u16,
    key: PathBuf,
}

impl Host {
    fn boot(directory: &Path) -> Self {
        let (key, public) = ssh::key(directory, "key");
        let out = build(directory, "snapshots", &[("KEY", public.as_str())]);
        let disks = Disks::new(directory, &[("A", 512, Plug::Virtio), ("B", 256, Plug::Virtio)]);
        let port = free_port();
        let mut machine = disks.boot(&out, &[(port, "host:22")]);
        machine.wait_all(&["^\\[file\\] writer: 10$", "^\\[thin\\] writer: 10$"], BOOT_LIMIT);
        ssh::wait(port);
        Self { machine, port, key }
    }

    fn says(&self, words: &str) -> String {
        ssh::said(self.port, &self.key, &format!("thimblectl {words}"))
    }

    /// It is not done: why.
    fn is_refused(&self, words: &str) -> String {
        let output = ssh::run(self.port, Some(&self.key), &format!("thimblectl {words}"));
        assert_eq!(output.status.code(), Some(1), "{words}: {output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn snapshots(&self, guest: &str) -> Vec<(String, String)> {
        let list: Value = serde_json::from_str(&self.says(&format!("snapshot-list {guest} --json"))).expect("JSON");
        let word = |it: &Value, key: &str| it[key].as_str().expect("a word").to_owned();
        let all = list["snapshots"].as_array().expect("a list");
        all.iter().map(|it| (word(it, "name"), word(it, "moment"))).collect()
    }

    /// The number that the writer of a guest says next, which comes only from one that goes on.
    fn writes(&mut self, guest: &str) -> u64 {
        let line = self.machine.wait(&format!("^\\[{guest}\\] writer: [0-9]+$"), LIMIT);
        line.rsplit(' ').next().and_then(|word| word.parse().ok()).expect("a number")
    }

    /// The last record that is on its disk as it starts.
    fn begins(&mut self, guest: &str) -> u64 {
        self.says(&format!("start {guest}"));
        let line = self.machine.wait(&format!("^\\[{guest}\\] writer: begins after [0-9]+$"), LIMIT);
        line.rsplit(' ').next().and_then(|word| word.parse().ok()).expect("a number")
    }

    /// What is in use of the file system with the disks that the node makes, in KiB.
    fn used_kib(&self) -> u64 {
        let told = ssh::said(self.port, &self.key, "busybox df -k /data/guests");
        told.split_whitespace().rev().nth(3).and_then(|word| word.parse().ok()).expect("a number")
    }

    /// Whether the journal of a file system, in a file of the host's, is to be read before it is used.
    fn needs_recovery(&self, file: &str) -> bool {
        let read = format!("busybox dd if={file} bs=1 skip={INCOMPAT} count=1 2>/dev/null");
        let output = ssh::run(self.port, Some(&self.key), &read);
        output.stdout.first().expect("a byte") & RECOVER != 0
    }

    /// Kept while it runs, written to, given back.
    fn keeps(&mut self, guest: &str) {
        let first = self.writes(guest);
        let told = self.says(&format!("snapshot-create {guest} before"));
        assert!(told.contains("made, its file system frozen"), "{told}");
        println!("{told}");
        assert_eq!(self.snapshots(guest), [("before".to_owned(), "frozen".to_owned())]);
        assert!(self.is_refused(&format!("snapshot-create {guest} before")).contains("has a snapshot before"));
        // It goes on, and writes more.
        let mut last = self.writes(guest);
        while last < first + 20 {
            last = self.writes(guest);
        }
        let why = self.is_refused(&format!("snapshot-revert {guest} before"));
        assert!(why.contains(&format!("thimblectl shutdown {guest} --wait first")), "{why}");
        self.says(&format!("shutdown {guest} --wait"));
        let told = self.says(&format!("snapshot-create-as {guest} after"));
        assert!(told.contains("made, of a guest that is off"), "{told}");
        // What was there is there, as often as it is wanted,
        self.says(&format!("snapshot-revert {guest} before"));
        let began = self.begins(guest);
        println!("{guest}: kept after record {first}, written to {last}, begins after {began}");
        assert!((first..first + 20).contains(&began), "{first} {last} {began}");
        self.writes(guest);
        self.says(&format!("destroy {guest} --wait"));
        self.says(&format!("snapshot-revert {guest} after"));
        assert!(self.begins(guest) >= last);
        self.writes(guest);
        // and a snapshot is gone when it is deleted.
        self.says(&format!("snapshot-delete {guest} before"));
        assert_eq!(self.snapshots(guest), [("after".to_owned(), "off".to_owned())]);
        self.says(&format!("snapshot-delete {guest} after"));
    }

    fn ends(mut self) {
        let damaged = self.machine.seen().iter().find(|line| line.contains("is damaged"));
        assert_eq!(damaged, None);
        ssh::run(self.port, Some(&self.key), "thimble-node power off");
        assert!(self.machine.end(LIMIT).success());
    }
}

#[test]
fn a_disk_is_kept_as_it_was_and_given_back() {
    let directory = TempDir::new().expect("a temporary directory");
    let mut host = Host::boot(directory.path());
    host.keeps("file");
    // The other one has shown that it is there.
    host.says("destroy thin");

    // On XFS a copy takes no room.
    host.says("shutdown file --wait");
    let (disk, before) = (host.says("vol-list"), host.used_kib());
    host.says("snapshot-create file shared");
    let after = host.used_kib();
    println!("{before} KiB, {after} KiB with a copy of:\n{disk}");
    assert!(after < before + 512, "{before} {after}");
    host.says("snapshot-delete file shared");
    host.begins("file");
    host.writes("file");

    // What is kept of a guest that runs is a file system that lacks nothing.
    host.says("snapshot-create file whole");
    assert!(!host.needs_recovery("/data/guests/file/whole.frozen.snapshot"));
    assert!(host.needs_recovery("/data/guests/file/disk.raw"), "it goes on");
    host.says("snapshot-delete file whole");
    // One that is suspended hears nothing: it is kept as after a power cut, and stays suspended.
    host.says("suspend file");
    let told = host.says("snapshot-create file cut");
    assert!(told.contains("made, as after a power cut"), "{told}");
    assert_eq!(host.says("domstate file"), "paused\n");
    assert!(host.needs_recovery("/data/guests/file/cut.crash.snapshot"));
    host.says("destroy file --wait && thimblectl snapshot-revert file cut");
    host.begins("file");
    host.writes("file");

    // When the daemon is killed in the middle of it, a snapshot is made or there is none, and the guest goes on.
    for kill in 1..=KILLS {
        let commands = format!("thimblectl snapshot-create file kill{kill} & asker=$!; {KILL}");
        let output = ssh::run(host.port, Some(&host.key), &commands);
        println!("kill {kill}: {}", String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim());
        host.machine.wait("^node: guest file adopted", LIMIT);
        host.writes("file");
        let whole = host.snapshots("file").len();
        let files = ssh::said(host.port, &host.key, "ls /data/guests/file");
        assert_eq!(files.lines().count(), 1 + whole, "{files}");
        println!("kill {kill}: {files}");
    }
    let newest = host.snapshots("file").pop().expect("that of the guest that was suspended at least").0;
    host.says(&format!("shutdown file --wait && thimblectl snapshot-revert file {newest}"));
    host.begins("file");
    host.writes("file");
    host.says("destroy file --wait");

    // A disk that nobody has yet is listed, is a guest's when that is defined, and goes with its snapshots.
    assert_eq!(host.says("vol-create later 48MiB"), "/data/guests/later/disk.raw is made\n");
    assert!(host.is_refused("vol-create later 48MiB").contains("there is a disk of a guest later already"));
    assert!(host.is_refused("vol-create file 48MiB").contains("guest file has a disk"));
    assert!(host.says("vol-list").contains("later   48.0 MiB"));
    let define = "thimblectl dumpconfig file --inactive | busybox sed 's/\"name\": \"file\"/\"name\": \"later\"/' | thimblectl define -";
    ssh::said(host.port, &host.key, define);
    assert_eq!(host.begins("later"), 0);
    host.says("snapshot-create later");
    assert!(host.is_refused("vol-delete later").contains("guest later has this disk"));
    host.says("destroy later --wait && thimblectl undefine later && thimblectl vol-delete later");
    assert!(!ssh::said(host.port, &host.key, "ls /data/guests").contains("later"));
    host.ends();
}
