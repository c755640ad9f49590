//! How long a build takes after a small change, and what a machine loads from the network.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use thimble_tests::{demo, repository, thimble};

/// Rebuilds with all caches warm, in real time, and the bytes that a node loads by PXE.
pub fn builds() -> Result<()> {
    let netboot = demo().join("netboot");
    let size = |name: &str| Ok::<_, anyhow::Error>(fs::metadata(netboot.join(name))?.len());
    println!("PXE payload, in bytes");
    println!("  {:<44}{:>12}", "kernel and initramfs", size("vmlinuz")? + size("initrd")?);

    println!("builds with warm caches, in seconds");
    let place = tempfile::tempdir()?;
    let (config, out) = (place.path().join("demo.toml"), place.path().join("out"));
    let text = fs::read_to_string(repository().join("configs/demo.toml"))?;
    fs::write(&config, &text)?;
    build(&config, &out)?;
    timed("the same again", || build(&config, &out))?;
    let changed = text.replace("10.1.1.12/24", "10.1.1.99/24");
    ensure!(changed != text, "configs/demo.toml has no guest at 10.1.1.12");
    fs::write(&config, changed)?;
    timed("another address for one guest", || build(&config, &out))?;
    // What the compiler sees is a changed file; what it makes of it is the same, so nothing is left behind.
    let main = File::open(repository().join("init/src/main.rs"))?;
    timed("a changed line of init, compiled and packed", || {
        main.set_modified(SystemTime::now())?;
        let script = Command::new(repository().join("scripts/programs")).stderr(Stdio::null()).status()?;
        ensure!(script.success(), "scripts/programs failed");
        build(&config, &out)
    })
}

fn build(config: &Path, out: &Path) -> Result<()> {
    let mut command = thimble();
    command.arg("build").arg(config).args(["--quiet", "--library", "."]).arg("--out").arg(out).stdout(Stdio::null());
    ensure!(command.status().context("starting thimble")?.success(), "the build failed");
    Ok(())
}

fn timed(what: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let began = Instant::now();
    work()?;
    println!("  {what:<44}{:>8.1}", began.elapsed().as_secs_f64());
    Ok(())
}
