//! A machine in which the VMM runs with real kernels: Debian on Debian's kernel, in QEMU, with a shell on its console.
//!
//! The machine's root disk (`scripts/debian-tree` makes it) is also the root of the Debian guests that it runs, and has
//! their kernels. What is tested comes on a second disk, at `/payload`. Nothing that happens in it stays: both disks are
//! snapshots.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{lines, qemu, repository};

/// How long the machine may take to its shell: about ten times of what it takes.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// How many lines of the console a failure shows.
const SHOWN_LINES: usize = 60;
/// Begins the line that ends a command's output; behind it is the command's exit status.
const END: &str = "@@end";

/// PID 1 of the machine. Control groups are as our host has them (`init/src/early.rs`).
const INIT: &str = r#"#!/bin/bash
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
for fs in proc:proc sysfs:sys devtmpfs:dev; do mount -t ${fs%:*} none /${fs#*:} 2>/dev/null; done
mkdir -p /dev/pts; mount -t devpts pts /dev/pts
mount -t tmpfs tmp /tmp; mount -t tmpfs run /run
mount -t cgroup2 -o nsdelegate,favordynmods cgroup /sys/fs/cgroup
echo 1 > /proc/sys/kernel/printk
modprobe -a kvm-amd tun vhost_net bridge loop 2>/dev/null
ip link set lo up
cd /tmp
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty -echo -onlcr cols 4000
echo "@@up"
PS1= PS2= exec setsid -c bash --norc --noediting -s
"#;

/// What QEMU is told besides disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// One processor, as fast as it goes.
    Wall,
    /// One processor, one instruction a nanosecond: times in it are the same at every run.
    Instructions,
}

/// What a command did.
#[derive(Clone, Debug)]
pub struct Output {
    /// What it printed.
    pub text: String,
    /// Its exit status.
    pub status: i32,
}

/// The machine; it ends with the value.
pub struct Rig {
    qemu: Child,
    input: ChildStdin,
    console: Receiver<String>,
    seen: Vec<String>,
    _directory: TempDir,
}

/// The directory that `scripts/debian-tree` makes.
pub fn debian() -> &'static Path {
    static DEBIAN: OnceLock<PathBuf> = OnceLock::new();
    DEBIAN.get_or_init(|| {
        let output = Command::new(repository().join("scripts/debian-tree")).stderr(Stdio::inherit()).output();
        let output = output.expect("scripts/debian-tree starts");
        assert!(output.status.success(), "scripts/debian-tree makes a Debian");
        PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
    })
}

/// A file of Debian's `/boot` by its beginning: `vmlinuz-6.12`.
pub fn boot_file(beginning: &str) -> PathBuf {
    let entries = fs::read_dir(debian().join("boot")).expect("a Debian has kernels");
    let mut found = entries.filter_map(|entry| Some(entry.ok()?.path()));
    found
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(beginning)))
        .unwrap_or_else(|| panic!("there is no {beginning} in Debian's /boot"))
}

/// A program of the profile that an appliance is packed from.
pub fn program(name: &str) -> PathBuf {
    let path = repository().join("target/x86_64-unknown-linux-gnu/appliance").join(name);
    assert!(path.exists(), "{} is missing: run `make programs`", path.display());
    path
}

impl Rig {
    /// Boots the machine with `payload` at `/payload`.
    ///
    /// # Panics
    /// It does not come to its shell.
    pub fn boot(payload: &Path, clock: Clock) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let disk = directory.path().join("payload.ext4");
        let tree = directory.path().join("tree");
        let copied = Command::new("cp").arg("-r").arg(payload).arg(&tree).status().expect("cp starts");
        assert!(copied.success());
        fs::write(tree.join("init"), INIT).expect("the payload is writable");
        fs::copy(program("thimble-vmm"), tree.join("thimble-vmm")).expect("the VMM is there");
        make_disk(&tree, &disk);

        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-M", "q35", "-m", "3072", "-display", "none", "-no-reboot", "-nodefaults"]);
        let wall = ["-cpu", qemu::cpu(), "-accel", "tcg,thread=multi,tb-size=1024", "-smp", "1"];
        command.args(match clock {
            Clock::Wall => &wall[..],
            Clock::Instructions => &[
                "-cpu",
                "max",
                "-accel",
                "tcg,tb-size=1024",
                "-icount",
                "shift=0,sleep=off",
                "-rtc",
                "clock=vm",
                "-smp",
                "1",
            ],
        });
        for image in [&debian().join("image.ext4"), &disk] {
            command.arg("-drive").arg(format!("if=virtio,format=raw,snapshot=on,file={}", image.display()));
        }
        command.args(["-serial", "stdio", "-nic", "none"]);
        command.arg("-kernel").arg(boot_file("vmlinuz-6.1.")).arg("-initrd").arg(boot_file("initrd.img-6.1."));
        // The payload is where the root has a directory for it; its init goes on from there.
        let init = "init=/bin/bash -- -c \"mount -o ro /dev/vdb /payload; exec bash /payload/init\"";
        command.arg("-append").arg(format!("console=ttyS0 quiet panic=-1 root=/dev/vda rw {init}"));
        let mut qemu = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("QEMU starts");
        let (sender, console) = channel();
        lines::send(qemu.stdout.take().expect("it is piped"), sender);
        let input = qemu.stdin.take().expect("it is piped");
        let mut rig = Self { qemu, input, console, seen: Vec::new(), _directory: directory };
        rig.wait("@@up", BOOT_LIMIT);
        // No word of jobs that end.
        rig.run("set +m");
        rig
    }

    /// Runs a command of the shell, on one line or several; what it starts in the background goes on.
    ///
    /// # Panics
    /// It takes longer than `limit`.
    pub fn run_within(&mut self, command: &str, limit: Duration) -> Output {
        let begin = self.seen.len();
        writeln!(self.input, "{command}\n__=$?; echo; echo {END} $__")
            .and_then(|()| self.input.flush())
            .expect("QEMU runs");
        let last = self.wait(END, limit);
        let status = last[END.len()..].trim().parse().unwrap_or(-1);
        // The line before the end is empty, or ends what had no end.
        let text = self.seen[begin..self.seen.len() - 1].join("\n").trim_end().to_owned();
        Output { text, status }
    }

    /// [`Self::run_within`] two minutes; gives what was printed.
    ///
    /// # Panics
    /// It takes longer, or fails.
    pub fn run(&mut self, command: &str) -> String {
        let output = self.run_within(command, Duration::from_secs(120));
        assert_eq!(output.status, 0, "{command}\n{}", output.text);
        output.text
    }

    fn wait(&mut self, beginning: &str, limit: Duration) -> String {
        let deadline = Instant::now() + limit;
        loop {
            match self.console.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.starts_with(beginning) {
                        return line;
                    }
                }
                Err(error) => {
                    let tail = self.seen[self.seen.len().saturating_sub(SHOWN_LINES)..].join("\n");
                    panic!("no line begins with {beginning} ({error}); the machine's last lines:\n{tail}");
                }
            }
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// A file system with what is in `tree`, and some room.
pub fn make_disk(tree: &Path, disk: &Path) {
    let size = Command::new("du").arg("-sm").arg(tree).output().expect("du starts").stdout;
    let size: u64 = String::from_utf8_lossy(&size).split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(64);
    fs::File::create(disk).and_then(|file| file.set_len((size * 5 / 4 + 16) << 20)).expect("a disk can be made");
    let made = Command::new("mke2fs").args(["-q", "-t", "ext4", "-m", "0", "-d"]).arg(tree).arg(disk).status();
    assert!(made.expect("mke2fs starts").success());
}
