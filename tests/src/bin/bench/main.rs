//! `make bench`: what the demonstration weighs, and how long it takes in virtual time.
//!
//! Virtual time: QEMU counts instructions (`-icount shift=0,sleep=off`: one instruction is one nanosecond), the machine
//! has one processor, and the clock that the host and its guests see is that count. It says nothing about a real
//! machine's seconds and everything about whether a change made the boot longer.

mod boot;
mod build;
mod crowd;
mod guest;
mod serve;
mod vmm;

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use thimble_tests::{demo, repository};

fn main() -> Result<()> {
    let parts = [
        ("sizes", sizes as fn() -> Result<()>),
        ("build", build::builds),
        ("boot", boot::boots),
        ("kernel", guest::kernel),
        ("serve", serve::compare),
        ("start", vmm::start),
        ("memory", vmm::memory),
        ("idle", crowd::idle),
        ("crowd", crowd::marginal),
        ("hundred", crowd::hundred),
    ];
    let names = parts.map(|(name, _)| name);
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    for word in &wanted {
        ensure!(names.contains(&word.as_str()), "there is no part `{word}`: it is one of {}", names.join(", "));
    }
    for (name, part) in parts {
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
