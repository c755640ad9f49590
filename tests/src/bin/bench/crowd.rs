//! What one more guest costs a host that has some.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use thimble_tests::crowd::{self, GUESTS};
use thimble_tests::{BOOT_LIMIT, Boot, Machine, free_port, ssh};

const LIMIT: Duration = Duration::from_secs(300);
/// How long the host is left alone before it is asked.
const REST: Duration = Duration::from_secs(3);
/// So many guests, how long they may take to start, and how long until none is busy any more.
const HUNDRED: u32 = 100;
/// See [`HUNDRED`].
const HUNDRED_LIMIT: Duration = Duration::from_secs(3600);
/// See [`HUNDRED`].
const SETTLE: Duration = Duration::from_secs(30);
/// How long the daemon is watched.
const IDLE: Duration = Duration::from_secs(60);
/// Ticks of a second (`USER_HZ`).
const TICKS: f64 = 100.0;

/// How many guests of `minimal`, and what one more may take, in MiB: 16 MB.
const IDLE_GUESTS: u32 = 6;
/// See [`IDLE_GUESTS`].
const IDLE_MAX: f64 = 16e6 / 1024.0 / 1024.0;

/// What one more idle guest of `minimal` takes, all told, on a host with its data on a disk.
pub fn idle() -> Result<()> {
    println!("one more idle guest of `minimal`, of 64 MiB with a network and a disk: what its host has less, in MiB");
    let directory = tempfile::tempdir()?;
    let (key, public) = ssh::key(directory.path(), "key");
    let out = crowd::build_idle(directory.path(), &public, IDLE_GUESTS);
    let port = free_port();
    let mut machine = Machine::boot(&Boot { forward: &[(port, "host:22")], ..Boot::new(&out, "direct") });
    machine.wait("^thimble: guest g1 ready", BOOT_LIMIT);
    ssh::wait(port);
    let first = available(port, &key)?;
    let mut before = first;
    for number in 2..=IDLE_GUESTS {
        let name = crowd::name(number);
        ssh::said(port, &key, &format!("thimblectl start {name}"));
        machine.wait(&format!("^thimble: guest {name} ready"), LIMIT);
        let now = available(port, &key)?;
        println!("  guest {number:>2}: {:>5.1}", before - now);
        before = now;
    }
    let each = (first - before) / f64::from(IDLE_GUESTS - 1);
    println!("  guests 2 to {IDLE_GUESTS}: {each:.1} each");
    ensure!(each <= IDLE_MAX, "one more is to take {IDLE_MAX:.1} MiB at most");
    Ok(())
}

/// The memory that the host has left, before and after its second, tenth and twentieth guest.
pub fn marginal() -> Result<()> {
    println!("one more guest: what a host has less when an idle guest of 40 MiB (nginx) is there too, in MiB");
    let directory = tempfile::tempdir()?;
    let (key, public) = ssh::key(directory.path(), "key");
    let out = crowd::build(directory.path(), &public, GUESTS, 1);
    let port = free_port();
    // The definition allows guests so many processors for each of the host's.
    let mut machine =
        Machine::boot(&Boot { forward: &[(port, "host:22")], more: &["--cpus", "2"], ..Boot::new(&out, "direct") });
    machine.wait("^thimble: guest g1 ready", BOOT_LIMIT);
    ssh::wait(port);
    let first = available(port, &key)?;
    let mut before = first;
    for number in 2..=GUESTS {
        let name = crowd::name(number);
        ssh::said(port, &key, &format!("thimblectl start {name}"));
        machine.wait(&format!("^thimble: guest {name} ready"), LIMIT);
        if [2, 10, GUESTS].contains(&number) {
            let now = available(port, &key)?;
            println!("  guest {number:>2}: {:>5.1}", before - now);
        }
        // That of the one before is what counts.
        if [9, GUESTS - 1].contains(&number) {
            before = available(port, &key)?;
        }
    }
    let all = first - available(port, &key)?;
    println!("  guests 2 to {GUESTS}: {all:.1}, {:.1} each", all / f64::from(GUESTS - 1));
    beside(port, &key, GUESTS)
}

/// What the daemon takes that has a hundred idle guests to look after.
pub fn hundred() -> Result<()> {
    println!("a hundred idle guests of 40 MiB (nginx) on one host");
    let directory = tempfile::tempdir()?;
    let (key, public) = ssh::key(directory.path(), "key");
    let out = crowd::build(directory.path(), &public, HUNDRED, HUNDRED);
    let port = free_port();
    // The definition allows guests so many processors for each of the host's.
    let mut machine =
        Machine::boot(&Boot { forward: &[(port, "host:22")], more: &["--cpus", "2"], ..Boot::new(&out, "direct") });
    let ready: Vec<String> =
        (1..=HUNDRED).map(|number| format!("^thimble: guest {} ready", crowd::name(number))).collect();
    machine.wait_all(&ready.iter().map(String::as_str).collect::<Vec<_>>(), HUNDRED_LIMIT);
    ssh::wait(port);
    std::thread::sleep(SETTLE);
    beside(port, &key, HUNDRED)
}

/// Prints what the daemon takes in a time when nobody asks it for anything, beside so many guests.
fn beside(port: u16, key: &Path, guests: u32) -> Result<()> {
    let (_, ticks) = daemon(port, key)?;
    std::thread::sleep(IDLE);
    let (pss, later) = daemon(port, key)?;
    let share = (later - ticks) / TICKS / IDLE.as_secs_f64() * 100.0;
    println!(
        "  the daemon, idle beside {guests}: {pss:.1} MiB of proportional set size, {share:.2} % of an emulated processor"
    );
    let slower = slower(port, key)?;
    println!(
        "  which takes {slower:.1} times as long for small reads as this machine's: {:.2} % of such a one",
        share / slower
    );
    Ok(())
}

/// What the daemon does when nobody asks it for anything: it reads what the kernel says in a few words.
const READS: &str = "i=0; while [ $i -lt 20000 ]; do read x </proc/loadavg; i=$((i+1)); done; cat /proc/$$/stat";

/// How much more time of its processor the host takes for the same program, doing the same, than this machine.
fn slower(port: u16, key: &Path) -> Result<f64> {
    let directory = tempfile::tempdir()?;
    let program = directory.path().join("busybox");
    let copied = ssh::run(port, Some(key), "cat /usr/bin/busybox");
    ensure!(copied.status.success(), "the host has no busybox: {}", String::from_utf8_lossy(&copied.stderr));
    fs::write(&program, copied.stdout)?;
    fs::set_permissions(&program, Permissions::from_mode(0o700))?;
    let here = Command::new(&program).args(["sh", "-c", READS]).output()?;
    ensure!(here.status.success(), "the host's busybox does not run here: {}", String::from_utf8_lossy(&here.stderr));
    let there = ticks(&ssh::said(port, key, &format!("busybox sh -c '{READS}'")))?;
    Ok(there / ticks(&String::from_utf8_lossy(&here.stdout))?)
}

/// What a process has had of processors, in ticks (proc(5)): the first behind its name is the third of all, 14 and 15 are those
/// of the program and of the kernel for it.
fn ticks(stat: &str) -> Result<f64> {
    let (_, behind) = stat.rsplit_once(") ").context("it has counts")?;
    let ticks: Result<Vec<f64>, _> = behind.split(' ').skip(11).take(2).map(str::parse).collect();
    Ok(ticks?.iter().sum())
}

/// The daemon's proportional set size in MiB, and what it has had of processors, in ticks (proc(5)).
fn daemon(port: u16, key: &Path) -> Result<(f64, f64)> {
    let command = "for p in /proc/[0-9]*; do read name < $p/comm; [ $name = thimble-node ] && cat $p/smaps_rollup $p/stat; done \
                   2>/dev/null; true";
    let text = ssh::said(port, key, command);
    let pss = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("there is a daemon")?;
    let kib: f64 = pss.trim().trim_end_matches(" kB").parse()?;
    let stat = text.lines().find(|line| line.contains("(thimble-node) ")).context("it has counts")?;
    Ok((kib / 1024.0, ticks(stat)?))
}

/// What the host's kernel could give to somebody else, in MiB.
fn available(port: u16, key: &Path) -> Result<f64> {
    std::thread::sleep(REST);
    let text = ssh::said(port, key, "cat /proc/meminfo");
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).context("it says what is available")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}
