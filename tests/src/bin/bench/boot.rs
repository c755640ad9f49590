//! How long a boot takes in virtual time, and its slowest steps.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use thimble_tests::{compiled, demo, small};

/// How many steps are printed.
const SLOWEST: usize = 10;

/// The demonstration with all its hardware sets, and an appliance with the virtio set alone, with either kind of kernel.
pub fn boots() -> Result<()> {
    println!("boot, in seconds of virtual time (QEMU TCG, -icount shift=0,sleep=off, 1 processor, direct kernel)");
    boot("the demonstration: four hardware sets, two guests", demo(), 768, &["web1", "web2"])?;
    boot("the virtio set, one guest of 64 MiB, 256 MiB of memory", small(), 256, &["web1"])?;
    boot("the same with a kernel compiled for it", compiled(), 256, &["web1"])
}

fn boot(title: &str, artefacts: &Path, memory: u32, guests: &[&str]) -> Result<()> {
    println!(" {title}");
    let began = Instant::now();
    let (mut qemu, mut input, output) = start(artefacts, memory)?;
    let mut console = BufReader::new(output).split(b'\n');
    let mut next = || -> Result<String> {
        let line = console.next().context("QEMU ended before the guests were ready")??;
        Ok(String::from_utf8_lossy(&line).trim().to_owned())
    };
    let mut missing: Vec<String> = vec!["thimble: host demo up ".to_owned()];
    missing.extend(guests.iter().map(|guest| format!("thimble: guest {guest} ready ")));
    missing.push("[web1] thimble-guest: web1 ready ".to_owned());
    while !missing.is_empty() {
        let line = next()?;
        if let Some(index) = missing.iter().position(|phase| line.starts_with(phase)) {
            let phase = missing.swap_remove(index);
            println!("  {:<44}{:>8}", phase.trim_end(), &line[phase.len()..]);
        }
    }
    // The host answers in order: what comes before the answer to the second question is the answer to the first.
    input.write_all(b"log 5000\nnothing\n").context("asking for the kernel's log")?;
    let mut log = Vec::new();
    loop {
        let line = next()?;
        match line.strip_prefix("console: ") {
            Some(text) if text.contains("`nothing`") => break,
            Some(text) => log.extend(event(text)),
            None => {}
        }
    }
    qemu.kill()?;
    qemu.wait()?;
    ensure!(log.len() > 100, "the kernel's log is not whole: {} lines", log.len());
    println!("  the slowest steps to there, by the kernel's log (what it said last before each)");
    // Up to the start of the guests.
    let end = log.iter().position(|(_, text)| text.contains("boot: node took")).unwrap_or(log.len() - 1);
    for (seconds, text) in slowest(&log[..=end]) {
        println!("    {seconds:>9.3}  {text}");
    }
    println!("  (the run took {:.0} s of real time)", began.elapsed().as_secs_f64());
    Ok(())
}

fn start(artefacts: &Path, memory: u32) -> Result<(Child, ChildStdin, ChildStdout)> {
    let manifest: Value = serde_json::from_slice(&std::fs::read(artefacts.join("manifest.json"))?)?;
    let cmdline = manifest["cmdline"].as_str().unwrap_or_default();
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-M", "q35", "-accel", "tcg,tb-size=1024", "-cpu", "max", "-smp", "1", "-m", &memory.to_string()]);
    qemu.args(["-icount", "shift=0,sleep=off", "-rtc", "clock=vm", "-nodefaults", "-display", "none", "-no-reboot"]);
    qemu.args(["-serial", "stdio", "-netdev", "user,id=n,restrict=on,net=10.1.1.0/24,host=10.1.1.1"]);
    qemu.args(["-device", "virtio-net-pci,netdev=n,romfile="]);
    qemu.arg("-drive").arg(format!("if=virtio,format=raw,snapshot=on,file={}", artefacts.join("flash.img").display()));
    qemu.arg("-kernel").arg(artefacts.join("netboot/vmlinuz"));
    qemu.arg("-initrd").arg(artefacts.join("netboot/initrd"));
    qemu.arg("-append").arg(format!("{cmdline} thimble.guest-consoles thimble.console-commands log_buf_len=1M"));
    let mut qemu = qemu.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("starting QEMU")?;
    let input = qemu.stdin.take().context("it is piped")?;
    let output = qemu.stdout.take().context("it is piped")?;
    Ok((qemu, input, output))
}

/// Time and text of a line of the kernel's log: `[    5.140900] NET: Registered`.
pub fn event(line: &str) -> Option<(f64, String)> {
    let (time, text) = line.strip_prefix('[')?.split_once("] ")?;
    Some((time.trim().parse().ok()?, text.to_owned()))
}

/// The longest pauses in the log, and what stands before each.
pub fn slowest(log: &[(f64, String)]) -> Vec<(f64, &str)> {
    let mut steps: Vec<(f64, &str)> = log.windows(2).map(|pair| (pair[1].0 - pair[0].0, pair[0].1.as_str())).collect();
    steps.sort_by(|a, b| b.0.total_cmp(&a.0));
    steps.truncate(SLOWEST);
    steps
}
