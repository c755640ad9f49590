//! How long the guests' kernel takes to its PID 1, and a guest of `minimal` from there to ready, in virtual time; and the slowest
//! steps.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use thimble_tests::guests::{add_guests_init, add_instant_guest, our_kernel};
use thimble_tests::{Definition, repository};

use super::boot::{event, slowest};

/// The longest that it may take to its PID 1, in seconds.
const TO_INIT_MAX: f64 = 0.04;
/// And from there to ready.
const TO_READY_MAX: f64 = 0.05;
/// What the kernel says last.
const INIT: &str = "Run /init";
/// What PID 1 says when its services are.
const READY: &str = "thimble-guest: bench ready";

/// From the kernel's entry to the first instruction of its init, under QEMU's instruction count and without a host between. There
/// a guest's kernel would measure the timer of its APIC for a fifth of a second; under KVM that has the time of the processor.
pub fn kernel() -> Result<()> {
    println!("guests' kernel, in seconds of virtual time (QEMU TCG, -icount shift=0,sleep=off, 1 processor, 64 MiB)");
    let payload = tempfile::tempdir()?;
    add_instant_guest(payload.path());
    let machine = ["-M", "q35", "-append", "console=ttyS0 panic=-1 nolapic"];
    let (log, _) = boot("qemu-system-x86_64", &machine, &payload.path().join("instant.cpio"))?;
    let took = to_init(&log)?;
    println!("  {:<44}{took:>8.3}", "entry to the first instruction of init");
    println!("  the slowest steps to there, by the kernel's log (what it said last before each)");
    let log: Vec<_> = log.into_iter().filter(|(at, _)| *at <= took).collect();
    for (seconds, text) in slowest(&log) {
        println!("    {seconds:>9.4}  {text}");
    }
    ensure!(took <= TO_INIT_MAX, "the guests' kernel is to take {TO_INIT_MAX} s at most");
    ready()
}

/// From there to ready, with the image of `minimal` on a disk such as the VMM gives its guests. The machine that has them is the
/// distribution's QEMU's alone. The guest's processor never sleeps: where it would, QEMU's count goes on to the next timer, however
/// short the disk takes.
fn ready() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let image = minimal(directory.path())?;
    let initrd = directory.path().join("guest.cpio");
    add_guests_init(&initrd);
    let drive = format!("driver=raw,read-only=on,node-name=image,file.driver=file,file.filename={}", image.display());
    let words =
        "console=ttyS0 no_timer_check idle=poll panic=-1 thimble.role=guest thimble.name=bench thimble.image=/dev/vda";
    let machine =
        ["-M", "microvm,acpi=off", "-append", words, "-blockdev", &drive, "-device", "virtio-blk-device,drive=image"];
    let (log, text) = boot("/usr/bin/qemu-system-x86_64", &machine, &initrd)?;
    // `thimble-guest: NAME ready SECONDS`, since the kernel's entry.
    let said = text.lines().find_map(|line| line.split_once(READY)).map(|(_, rest)| rest.trim());
    let ready: f64 = said.and_then(|said| said.parse().ok()).with_context(|| format!("it is not ready: {text}"))?;
    let took = ready - to_init(&log)?;
    println!("  {:<44}{took:>8.3}", "from there to ready, of `minimal`");
    ensure!(took <= TO_READY_MAX, "a guest of `minimal` is to be ready in {TO_READY_MAX} s at most");
    Ok(())
}

/// The image of `minimal`, as a node has it.
fn minimal(directory: &Path) -> Result<PathBuf> {
    let definition = Definition::read("tests/library/nfs.toml").with(&[("image = \"page\"", "image = \"minimal\"")]);
    let out = definition.library(repository()).build(directory, ["--format", "nfs"]);
    let mut objects = fs::read_dir(out.join("nfs/objects"))?;
    Ok(objects.next().context("there is an image")??.path())
}

/// What the kernel and its PID 1 say until it ends, or is ready: the kernel's lines with their times, and all of it.
fn boot(qemu: &str, words: &[&str], initrd: &Path) -> Result<(Vec<(f64, String)>, String)> {
    let mut command = Command::new(qemu);
    command.args([
        "-accel",
        "tcg",
        "-cpu",
        "max",
        "-smp",
        "1",
        "-m",
        "64",
        "-nodefaults",
        "-display",
        "none",
        "-no-reboot",
    ]);
    command.args(["-icount", "shift=0,sleep=off", "-rtc", "clock=vm", "-serial", "stdio"]).args(words);
    command.arg("-kernel").arg(our_kernel()).arg("-initrd").arg(initrd);
    let mut qemu = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("starting QEMU")?;
    let mut text = String::new();
    for line in std::io::BufRead::lines(std::io::BufReader::new(qemu.stdout.take().context("it is piped")?)) {
        text += &(line? + "\n");
        if text.contains(READY) {
            qemu.kill()?;
        }
    }
    qemu.wait()?;
    Ok((text.lines().filter_map(|line| event(line.trim())).collect(), text))
}

/// When the kernel started its PID 1.
fn to_init(log: &[(f64, String)]) -> Result<f64> {
    let init = log.iter().find(|(_, text)| text.starts_with(INIT));
    Ok(init.with_context(|| format!("no init: {log:#?}"))?.0)
}
