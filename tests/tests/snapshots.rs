//! Disks of guests that write without end, kept as they were and given back: while the guest runs, while it is off, while the
//! node daemon is killed, and when the power is cut.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use thimble_tests::disks::{Disks, Plug, build};
use thimble_tests::{BOOT_LIMIT, Machine, free_port, ssh};

const LIMIT: Duration = Duration::from_secs(300);
/// Kills the daemon, and the storage service, and not `thimblectl`, which is the same program; then waits for who asked.
const KILL: &str = "for p in /proc/[0-9]*; do read name < $p/comm; [ $name = thimble-node ] && kill -9 ${p#/proc/}; done \
    2>/dev/null; wait $asker";
/// LVM as the host itself calls it.
const LVM: &str = "LVM_SYSTEM_DIR=/run/thimble/lvm lvm";
const LVM_SETTINGS: &str = "--config 'devices{use_devicesfile=0 obtain_device_list_from_udev=0 external_device_info_source=none \
    dir=/dev scan=/dev} activation{udev_sync=0 udev_rules=0 monitoring=0 verify_udev_operations=0} \
    global{use_lvmpolld=0 locking_dir=/run/thimble/lvm event_activation=0} backup{backup=0 archive=0}'";
/// Where ext4's superblock says what a file system needs that reads it (Documentation/filesystems/ext4/super.rst).
const INCOMPAT: u64 = 1024 + 0x60;
/// Its bit for "the journal is to be read first".
const RECOVER: u8 = 4;

struct Host {
    out: PathBuf,
    disks: Disks,
    machine: Machine,
    port: u16,
    key: PathBuf,
}

/// An empty qcow2 image of 48 MiB over `base.raw` beside it (docs/interop/qcow2.rst): what is where in it.
fn qcow2() -> Vec<(u64, Vec<u8>)> {
    const CLUSTER: u64 = 64 << 10;
    let backing = b"base.raw";
    let mut header = b"QFI\xfb\0\0\0\x03".to_vec();
    header.extend(128_u64.to_be_bytes());
    header.extend((backing.len() as u32).to_be_bytes());
    header.extend(16_u32.to_be_bytes());
    header.extend((48_u64 << 20).to_be_bytes());
    // No encryption; the first table of one entry, in the fourth cluster; that of reference counts in the second.
    header.extend([0_u32, 1].map(u32::to_be_bytes).concat());
    header.extend([3 * CLUSTER, CLUSTER].map(u64::to_be_bytes).concat());
    header.extend([1_u32, 0].map(u32::to_be_bytes).concat());
    header.extend([0_u64; 4].map(u64::to_be_bytes).concat());
    // Counts of 16 bits; the header's length; an extension that says what the file below is, and the end of them.
    header.extend([4_u32, 104, 0xe279_2aca, 3].map(u32::to_be_bytes).concat());
    header.extend(b"raw\0\0\0\0\0\0\0\0\0\0\0\0\0");
    header.extend(backing);
    vec![
        (0, header),
        (CLUSTER, (2 * CLUSTER).to_be_bytes().to_vec()),
        (2 * CLUSTER, [0, 1].repeat(4)),
        (4 * CLUSTER, vec![]),
    ]
}

impl Host {
    fn boot(directory: &Path) -> Self {
        let (key, public) = ssh::key(directory, "key");
        let out = build(directory, "snapshots", &[("KEY", public.as_str())]);
        let all = [("A", 512, Plug::Virtio), ("B", 256, Plug::Virtio), ("C", 256, Plug::Virtio)];
        let (disks, port) = (Disks::new(directory, &all), free_port());
        let mut machine = disks.boot(&out, &[(port, "host:22")]);
        machine.wait("^\\[file\\] writer: 4$", BOOT_LIMIT);
        ssh::wait(port);
        Self { out, disks, machine, port, key }
    }

    /// Cuts the power, and boots again.
    fn cut_power(&mut self) {
        self.machine.cut_power();
        self.machine = self.disks.boot(&self.out, &[(self.port, "host:22")]);
    }

    /// Makes the disk of the guest `cow`, with nothing on it.
    fn make_qcow2(&self) {
        let mut commands = "cd /data/images && busybox truncate -s 48M base.raw".to_owned();
        for (at, bytes) in qcow2() {
            let text: String = bytes.iter().map(|byte| format!("\\{byte:03o}")).collect();
            commands += &format!(" && busybox truncate -s {at} cow.qcow2 && busybox printf '{text}' >> cow.qcow2");
        }
        ssh::said(self.port, &self.key, &commands);
    }

    /// Kills the daemon in the middle of what is asked of it: as soon as `begun`, or when that is over.
    fn killed(&self, words: &str, begun: &str) -> String {
        let wait = format!("while ! {begun} && kill -0 $asker 2>/dev/null; do :; done");
        let output = ssh::run(self.port, Some(&self.key), &format!("thimblectl {words} & asker=$!; {wait}; {KILL}"));
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned()
    }

    fn lvm(&self, verb: &str, words: &str) -> String {
        ssh::said(self.port, &self.key, &format!("{LVM} {verb} {LVM_SETTINGS} {words}"))
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
        while last < first + 8 {
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
        assert!((first..first + 8).contains(&began), "{first} {last} {began}");
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

    /// When the daemon is killed in the middle of it, a snapshot is made or there is none, and the guest goes on.
    fn is_killed(&mut self, guest: &str, files: &str) {
        let still = format!("[ -e /run/thimble/guests/{guest}/still ]");
        let told = self.killed(&format!("snapshot-create {guest} killed"), &still);
        self.machine.wait(&format!("^node: guest {guest} adopted"), LIMIT);
        self.writes(guest);
        let whole = self.snapshots(guest).len();
        let files = ssh::said(self.port, &self.key, &format!("ls {files}"));
        println!("killed: {told}\n{files}");
        assert_eq!(files.lines().count(), 1 + whole, "{files}");
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
    // On XFS a copy takes no room.
    host.says("shutdown file --wait");
    let (disk, before) = (host.says("vol-list"), host.used_kib());
    host.says("snapshot-create file shared");
    let after = host.used_kib();
    println!("{before} KiB, {after} KiB with a copy of:\n{disk}");
    assert!(after < before + 512, "{before} {after}");
    host.says("snapshot-delete file shared");

    host.make_qcow2();
    host.begins("cow");
    host.keeps("cow");
    // The file of an image is whole with what its VMM has in memory only when the guest has let it write that.
    host.says("suspend cow");
    let why = host.is_refused("snapshot-create cow cut");
    assert!(why.contains("its disk is a qcow2 image, of which its VMM has a part in memory"), "{why}");
    host.says("resume cow");
    host.writes("cow");
    host.is_killed("cow", "/data/images/cow*");
    host.says("destroy cow --wait");
    host.begins("file");

    // What is kept of a guest that runs is a file system that lacks nothing.
    host.says("snapshot-create file whole");
    assert!(!host.needs_recovery("/data/guests/file/whole.frozen.snapshot"));
    assert!(host.needs_recovery("/data/guests/file/disk.raw"), "it goes on");
    host.says("snapshot-delete file whole");
    // One that is suspended hears nothing: it is kept as after a power cut, and stays suspended.
    host.says("suspend file");
    let told = host.says("snapshot-create file cut");
    assert!(told.contains("made, as after a power cut") && told.contains("this guest is paused"), "{told}");
    assert_eq!(host.says("domstate file"), "paused\n");
    assert!(host.needs_recovery("/data/guests/file/cut.crash.snapshot"));
    host.says("destroy file --wait && thimblectl snapshot-revert file cut");
    host.begins("file");
    host.writes("file");

    host.is_killed("file", "/data/guests/file/*");
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

/// Wherever it is cut off that a volume becomes what it was, it is that or what it is, and is never made anew.
#[test]
fn a_volume_is_there_whatever_ends_its_revert() {
    let directory = TempDir::new().expect("a temporary directory");
    let mut host = Host::boot(directory.path());
    host.says("destroy file --wait");
    host.begins("thin");
    let first = host.writes("thin");
    let told = host.says("snapshot-create thin before");
    assert!(told.contains("made, its file system frozen"), "{told}");
    let mut last = host.writes("thin");
    while last < first + 8 {
        last = host.writes("thin");
    }
    host.says("shutdown thin --wait");
    host.says("snapshot-create thin after");

    // The daemon is killed when the volume has lost its name.
    let told = host.killed("snapshot-revert thin before", "[ ! -e /dev/vg/thin ]");
    println!("killed: {told}");
    let began = host.begins("thin");
    assert!((first..first + 8).contains(&began), "{began}, kept before {first}");
    let names = host.lvm("lvs", "--noheadings -o lv_name vg");
    let mut names: Vec<&str> = names.split_whitespace().collect();
    names.sort_unstable();
    assert_eq!(names, ["pool", "thin", "thin+after.off", "thin+before.frozen"]);
    host.says("destroy thin --wait");

    // The power is cut there.
    host.lvm("lvcreate", "-y --type=thin --setactivationskip=n --name=thin+new vg/thin+after.off");
    host.lvm("lvrename", "vg thin thin+old");
    host.cut_power();
    let renamed = host.machine.wait("^storage: rename the volume vg/thin", BOOT_LIMIT);
    assert_eq!(renamed, "storage: rename the volume vg/thin+new to thin");
    host.machine.wait("^storage: remove the volume vg/thin\\+old$", BOOT_LIMIT);
    host.machine.wait("^\\[file\\] writer: begins after [0-9]+$", BOOT_LIMIT);
    ssh::wait(host.port);
    let began = host.begins("thin");
    println!("kept after {first}, written to {last}, begins after {began}");
    assert!(began >= last);
    assert!(!host.machine.seen().iter().any(|line| line.starts_with("storage: make the volume")));
    assert_eq!(host.snapshots("thin").len(), 2);

    // Before that, it is what it is; and nobody has a use for what it was to be.
    host.says("shutdown thin --wait");
    host.lvm("lvcreate", "-y --type=thin --setactivationskip=n --name=thin+new vg/thin+before.frozen");
    assert!(host.says("snapshot-create thin third").contains("made, of a guest that is off"));
    assert!(host.begins("thin") >= last);
    // One is gone when it is deleted.
    host.says("snapshot-delete thin before");
    let kept: Vec<String> = host.snapshots("thin").into_iter().map(|(name, _)| name).collect();
    assert_eq!(kept, ["after", "third"]);
    host.ends();
}
