//! What a start costs, beside QEMU's microvm, in virtual time; and what a guest costs the host in memory.

use anyhow::{Context, Result, ensure};
use thimble_spec::vmm::Exit;
use thimble_tests::guests::{add_instant_guest, add_small_guest};
use thimble_tests::rig::{Clock, Rig};

/// Starts of each, of which the fastest counts: the host's own ticks fall into some.
const STARTS: usize = 5;
/// The longest that ours may take in its jail, in milliseconds.
const START_MAX: f64 = 110.0;

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
    let mut jailed = None;
    for (name, command) in [
        ("thimble-vmm, in its jail", format!("/payload/thimble-vmm --exit-file /tmp/exit.json {ours}")),
        ("thimble-vmm --jail none", format!("/payload/thimble-vmm --exit-file /tmp/exit.json --jail none {ours}")),
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
        let mut phases = String::new();
        for _ in 0..STARTS {
            let text = rig.run(&timed);
            let mut stamps = text.split_whitespace().filter_map(|word| word.parse::<f64>().ok());
            let (begin, end) = stamps.next().zip(stamps.next()).context("two times")?;
            let took = (end - begin) * 1000.0;
            if took < best {
                best = took;
                phases = rig.run("cat /tmp/exit.json 2>/dev/null; rm -f /tmp/exit.json");
            }
        }
        println!("  {name:<28}{best:>8.1}");
        print_phases(&phases, best)?;
        jailed.get_or_insert(best);
    }
    ensure!(jailed.is_some_and(|took| took <= START_MAX), "a start in the jail is to take {START_MAX} ms at most");
    Ok(())
}

/// Where the time went, if the VMM left word of it: each phase from the one before.
fn print_phases(exit: &str, whole: f64) -> Result<()> {
    if exit.trim().is_empty() {
        return Ok(());
    }
    let exit: Exit = serde_json::from_str(exit)?;
    let at = exit.phases;
    let mut before = 0.0;
    for (what, moment) in [
        ("process: to the VMM's own", at.begin_us),
        ("memory mapped", at.memory_us),
        ("kernel, initrd, tables", at.load_us),
        ("virtual machine", at.machine_us),
        ("devices", at.devices_us),
        ("vCPU", at.vcpus_us),
        ("jail and its filters", at.jail_us),
        ("threads, to the first entry", at.enter_us),
        ("guest, to its first exit", at.leave_us),
        ("guest, to its console", at.console_us),
        ("guest, to its end", at.end_us),
        ("taking it all down", at.gone_us),
    ] {
        if let Some(moment) = moment {
            let moment = moment as f64 / 1000.0;
            println!("    {what:<28}{:>6.1}", moment - before);
            before = moment;
        }
    }
    println!("    {:<28}{:>6.1}", "program's start and end", whole - before);
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
