//! What a start costs, beside QEMU's microvm, in virtual time; and what a guest costs the host in memory.

use anyhow::{Context, Result};
use thimble_tests::guests::{add_instant_guest, add_small_guest};
use thimble_tests::rig::{Clock, Rig};

/// Starts of each, of which the fastest counts: the host's own ticks fall into some.
const STARTS: usize = 5;

/// From starting the process to its end, in one machine under QEMU's instruction count.
pub fn start() -> Result<()> {
    println!(
        "start, in milliseconds of virtual time: from starting the process to its end, in one host under -icount \
         shift=0,sleep=off; same vmlinux and initrd, 1 vCPU, 128 MiB, serial console, quiet; the guest's PID 1 asks for \
         a reset at once; the fastest of {STARTS}"
    );
    let payload = tempfile::tempdir()?;
    add_small_guest(payload.path());
    add_instant_guest(payload.path());
    let mut rig = Rig::boot(payload.path(), Clock::Instructions);
    let words = "console=ttyS0 quiet panic=-1 reboot=t";
    let guest = format!("-kernel /payload/vmlinux -initrd /payload/instant.cpio -append '{words}'");
    let ours = format!("--memory 128MiB --kernel /payload/vmlinux --initrd /payload/instant.cpio --cmdline '{words}'");
    for (name, command) in [
        ("thimble-vmm, in its jail", format!("/payload/thimble-vmm {ours}")),
        ("thimble-vmm --jail none", format!("/payload/thimble-vmm --jail none {ours}")),
        (
            "QEMU microvm",
            format!(
                "qemu-system-x86_64 -M microvm,pit=off,pic=off,rtc=off -enable-kvm -cpu host -m 128 -nodefaults \
                 -no-user-config -display none -serial stdio -no-reboot {guest}"
            ),
        ),
    ] {
        let timed = format!("a=$EPOCHREALTIME; {command} < /dev/null > /tmp/out 2>&1; b=$EPOCHREALTIME; echo $a $b");
        let mut best = f64::MAX;
        for _ in 0..STARTS {
            let text = rig.run(&timed);
            let mut stamps = text.split_whitespace().filter_map(|word| word.parse::<f64>().ok());
            let (begin, end) = stamps.next().zip(stamps.next()).context("two times")?;
            best = best.min((end - begin) * 1000.0);
        }
        println!("  {name:<28}{best:>8.1}");
    }
    Ok(())
}

/// What the first, the second and the tenth idle guest costs.
pub fn memory() -> Result<()> {
    println!("memory: idle guests of 64 MiB with our kernel and busybox, each with its minder, in MiB");
    let payload = tempfile::tempdir()?;
    add_small_guest(payload.path());
    let mut rig = Rig::boot(payload.path(), Clock::Wall);
    rig.run("free() { awk '/^MemAvailable/ {print int($2 / 1024)}' /proc/meminfo; }; free");
    let before: i64 = rig.run("sleep 2; free").trim().parse()?;
    let mut last = before;
    for count in 1..=10 {
        rig.run(&format!(
            "(/payload/thimble-vmm --name g{count} --kernel /payload/vmlinux --initrd /payload/small.cpio \
             --memory 64MiB --cmdline 'console=ttyS0 quiet act=wait' < /dev/null > /tmp/g{count} 2>&1) & \
             for i in $(seq 200); do grep -aq 'SMALL: waits' /tmp/g{count} && break; sleep 0.1; done; sleep 1"
        ));
        if matches!(count, 1 | 2 | 10) {
            let now: i64 = rig.run("free").trim().parse()?;
            let pss: f64 = rig
                .run("cat /proc/$(pgrep -fn 'thimble-vmm --name g')/smaps_rollup | awk '/^Pss:/ {print $2 / 1024}'")
                .trim()
                .parse()?;
            println!("  guest {count:>2}: {:>4} less available than before it, {pss:>6.1} proportional", last - now);
        }
        last = rig.run("free").trim().parse()?;
    }
    println!("  all ten: {} less available", before - last);
    Ok(())
}
