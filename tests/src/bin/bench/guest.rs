//! How long the guests' kernel takes to its PID 1, in virtual time, and its slowest steps.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use thimble_tests::guests::{add_instant_guest, our_kernel};

use super::boot::{event, slowest};

/// The longest that it may take, in seconds.
const TO_INIT_MAX: f64 = 0.04;
/// What the kernel says last.
const INIT: &str = "Run /init";

/// From the kernel's entry to the first instruction of its init, under QEMU's instruction count and without a host between. There
/// a guest's kernel would measure the timer of its APIC for a fifth of a second; under KVM that has the time of the processor.
pub fn kernel() -> Result<()> {
    println!("guests' kernel, in seconds of virtual time (QEMU TCG, -icount shift=0,sleep=off, 1 processor, 64 MiB)");
    let payload = tempfile::tempdir()?;
    add_instant_guest(payload.path());
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args([
        "-M",
        "q35",
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
    ]);
    qemu.args(["-icount", "shift=0,sleep=off", "-rtc", "clock=vm", "-no-reboot", "-serial", "stdio"]);
    qemu.arg("-kernel").arg(our_kernel()).arg("-initrd").arg(payload.path().join("instant.cpio"));
    qemu.args(["-append", "console=ttyS0 panic=-1 nolapic"]);
    let output = qemu.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("starting QEMU")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut log: Vec<(f64, String)> = text.lines().filter_map(|line| event(line.trim())).collect();
    let end = log.iter().position(|(_, text)| text.starts_with(INIT)).with_context(|| format!("no init: {text}"))?;
    log.truncate(end + 1);
    let took = log[end].0;
    println!("  {:<44}{took:>8.3}", "entry to the first instruction of init");
    println!("  the slowest steps to there, by the kernel's log (what it said last before each)");
    for (seconds, text) in slowest(&log) {
        println!("    {seconds:>9.4}  {text}");
    }
    ensure!(took <= TO_INIT_MAX, "the guests' kernel is to take {TO_INIT_MAX} s at most");
    Ok(())
}
