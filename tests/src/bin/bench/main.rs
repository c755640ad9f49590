//! `make bench`: what the demonstration weighs, and how long it takes in virtual time.
//!
//! Virtual time: QEMU counts instructions (`-icount shift=0,sleep=off`: one instruction is one nanosecond), the machine
//! has one processor, and the clock that the host and its guests see is that count. It says nothing about a real
//! machine's seconds and everything about whether a change made the boot longer.

mod build;
mod serve;
mod vmm;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use thimble_tests::{demo, repository};

/// The lines that end a phase.
const PHASES: [&str; 4] = [
    "thimble: host demo up ",
    "thimble: guest web1 ready ",
    "thimble: guest web2 ready ",
    "[web1] thimble-guest: web1 ready ",
];

fn main() -> Result<()> {
    let parts = [sizes as fn() -> Result<()>, build::builds, boot, serve::compare, vmm::start, vmm::memory];
    let names = ["sizes", "build", "boot", "serve", "start", "memory"];
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    for word in &wanted {
        ensure!(names.contains(&word.as_str()), "there is no part `{word}`: it is one of {}", names.join(", "));
    }
    for (part, name) in parts.into_iter().zip(names) {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            part()?;
        }
    }
    Ok(())
}

fn manifest() -> Result<Value> {
    Ok(serde_json::from_slice(&fs::read(demo().join("manifest.json"))?)?)
}

fn sizes() -> Result<()> {
    let demo = demo();
    let manifest = manifest()?;
    println!("sizes, in bytes (manifest.json, and the files themselves)");
    for (name, path) in [
        ("init, host", "init"),
        ("init, guest", "init-guest"),
        ("thimble-vmm", "thimble-vmm"),
        ("thimble-node", "thimble-node"),
    ] {
        let file = repository().join("target/x86_64-unknown-linux-gnu/appliance").join(path);
        println!("  {name:<24}{:>12}", fs::metadata(&file).with_context(|| file.display().to_string())?.len());
    }
    for file in ["netboot/vmlinuz", "netboot/initrd", "flash.img"] {
        println!("  {file:<24}{:>12}", fs::metadata(demo.join(file))?.len());
    }
    let mut rooms = std::collections::BTreeMap::<&str, u64>::new();
    for object in manifest["objects"].as_array().context("the manifest lists objects")? {
        *rooms.entry(object["room"].as_str().unwrap_or("?")).or_default() += object["packed"].as_u64().unwrap_or(0);
    }
    for (room, bytes) in rooms {
        println!("  on flash: {room:<14}{bytes:>12}");
    }
    Ok(())
}

fn boot() -> Result<()> {
    let demo = demo();
    let manifest = manifest()?;
    let cmdline = manifest["cmdline"].as_str().unwrap_or_default();
    println!("boot, in seconds of virtual time (QEMU TCG, -icount shift=0,sleep=off, 1 processor, direct kernel)");
    let began = Instant::now();
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-M", "q35", "-accel", "tcg,tb-size=1024", "-cpu", "max", "-smp", "1", "-m", "768"]);
    qemu.args(["-icount", "shift=0,sleep=off", "-rtc", "clock=vm", "-nodefaults", "-display", "none", "-no-reboot"]);
    qemu.args(["-serial", "stdio", "-netdev", "user,id=n,restrict=on,net=10.1.1.0/24,host=10.1.1.1"]);
    qemu.args(["-device", "virtio-net-pci,netdev=n,romfile="]);
    qemu.arg("-drive").arg(format!("if=virtio,format=raw,snapshot=on,file={}", demo.join("flash.img").display()));
    qemu.arg("-kernel").arg(demo.join("netboot/vmlinuz")).arg("-initrd").arg(demo.join("netboot/initrd"));
    qemu.arg("-append").arg(format!("{cmdline} thimble.guest-consoles"));
    let mut qemu = qemu.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("starting QEMU")?;
    let console = BufReader::new(qemu.stdout.take().context("it is piped")?);
    let mut missing = PHASES.to_vec();
    for line in console.split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim().to_owned();
        if let Some(index) = missing.iter().position(|phase| line.starts_with(phase)) {
            let phase = missing.swap_remove(index);
            println!("  {:<44}{:>8}", phase.trim_end(), &line[phase.len()..]);
        }
        if missing.is_empty() {
            break;
        }
    }
    qemu.kill()?;
    qemu.wait()?;
    ensure!(missing.is_empty(), "QEMU ended before: {missing:?}");
    println!("  (the run took {:.0} s of real time)", began.elapsed().as_secs_f64());
    Ok(())
}
