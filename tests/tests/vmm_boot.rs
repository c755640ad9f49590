//! The VMM with real kernels: ours and Debian's own, each as `vmlinux` and as `bzImage`, to its userspace and to each
//! end that a guest can come to. All of it in the jail.

use std::time::Duration;

use thimble_tests::guests::{DEBIAN_CPU, PATIENT, RUN_SCRIPT, add_script, add_small_guest, extract_vmlinux};
use thimble_tests::rig::{Clock, Rig, boot_file, program};

/// How long a pair of Debian guests may take, nested in a machine that is emulated itself.
const DEBIAN_LIMIT: Duration = Duration::from_secs(560);

/// What the guest does that may have guests of its own, and has one.
const NESTS: &str = "reboot";

/// PID 1 of a Debian guest: says where it is, and does what its command line says.
const DEBIAN_INIT: &str = r#"#!/bin/bash
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc 2>/dev/null; mount -t sysfs sys /sys 2>/dev/null
read -r line < /proc/cmdline
echo "GUEST: up $(uname -r) cpus $(nproc) root $(findmnt -no SOURCE /)"
sleep 1
mount -t tmpfs tmp /tmp
if modprobe kvm-amd 2>/dev/null; then
    timeout 100 /mnt/thimble-vmm --name inner --memory 64MiB --kernel /mnt/vmlinux --initrd /mnt/small.cpio \
        --cmdline 'console=ttyS0 quiet panic=-1 reboot=k act=off' < /dev/null > /tmp/inner 2>&1
    echo "GUEST: its own guest ended with $?: $(tr -d '\r' < /tmp/inner | tail -n 1)"
else
    echo "GUEST: cannot have guests"
fi
# It sets what is set, once all that was written has left: the end below waits for nothing.
stty -F /dev/ttyS0 onlcr
case "$line" in
*act=reboot*) echo b > /proc/sysrq-trigger;;
*act=button*)
    modprobe button
    echo "GUEST: waits"
    until grep -q "[1-9]" <(awk '{print $1}' /sys/firmware/acpi/interrupts/ff_pwr_btn); do sleep 0.2; done
    echo "GUEST: button"
    stty -F /dev/ttyS0 onlcr
    echo o > /proc/sysrq-trigger;;
*) echo o > /proc/sysrq-trigger;;
esac
# Not by a program: its disk may be shut down already, and a PID 1 that ends is a panic.
while :; do :; done
"#;

#[test]
fn stock_kernels_and_ours_boot_and_end_as_they_say() {
    let payload = tempfile::tempdir().unwrap();
    add_small_guest(payload.path());
    let files = [program("thimble-vmm"), payload.path().join("vmlinux"), payload.path().join("small.cpio")];
    add_script(payload.path(), DEBIAN_INIT, &files);
    for version in ["6.1.", "6.12."] {
        let kernel = boot_file(&format!("vmlinuz-{version}"));
        extract_vmlinux(&kernel, &payload.path().join(format!("vmlinux-{version}debian")));
    }
    let mut rig = Rig::boot(payload.path(), Clock::Wall);

    // Ours, in all the ways in which it can end.
    let small = "/payload/thimble-vmm --console stdio --initrd /payload/small.cpio --vcpus 2";
    for (act, code) in [("off", 0), ("reboot", 10), ("panic", 10)] {
        let words = format!("console=ttyS0 quiet panic=-1 reboot=k act={act}");
        let command = format!("{small} --kernel /payload/vmlinux --cmdline '{words}' < /dev/null");
        let output = rig.run_within(&command, Duration::from_secs(60));
        assert_eq!(output.status, code, "{command}\n{}", output.text);
        assert!(output.text.contains("SMALL: up cpus 2"), "{command}\n{}", output.text);
    }

    a_virtio_console_is_one(&mut rig);
    a_balloon_gives_way(&mut rig);
    the_monitor_itself_is_small(&mut rig);

    // Debian's, with their own initrds, from the disk that is this machine's root too. Two at a time.
    rig.run(PATIENT);
    let pairs = [
        [("6.1.", "$(ls /boot/vmlinuz-6.1.*)", "off", 0), ("6.12.", "$(ls /boot/vmlinuz-6.12.*)", "reboot", 10)],
        [("6.1.", "/payload/vmlinux-6.1.debian", "button", 0), ("6.12.", "/payload/vmlinux-6.12.debian", "off", 0)],
    ];
    for pair in pairs {
        let mut script = String::new();
        for (index, (version, kernel, act, _)) in pair.iter().enumerate() {
            let words = format!("console=ttyS0 quiet panic=-1 root=/dev/vda ro act={act} {RUN_SCRIPT}");
            let nested = if *act == NESTS { ",nested" } else { "" };
            script.push_str(&format!(
                "rm -f /tmp/d{index}.log; patient /tmp/d{index}.log /payload/thimble-vmm --name d{index} --acpi \
                 {DEBIAN_CPU}{nested} --kernel {kernel} --initrd $(ls /boot/initrd.img-{version}*) --cmdline '{words}' \
                 --memory 512MiB --disk /dev/vda:ro --disk /payload/script.ext4:ro --control /tmp/d{index}.sock &\n"
            ));
            if *act == "button" {
                script.push_str(&format!(
                    "(until grep -aq 'GUEST: waits' /tmp/d{index}.log; do sleep 0.5; done 2>/dev/null; \
                     /payload/thimble-vmm ask /tmp/d{index}.sock power-button) & button=$!\n"
                ));
            }
        }
        let ended = "until grep -aq ^exit /tmp/d0.log && grep -aq ^exit /tmp/d1.log; do sleep 0.5; done";
        let logs = "tail -n 40 /tmp/d0.log | sed 's/^/d0 /'; tail -n 40 /tmp/d1.log | sed 's/^/d1 /'";
        let command = format!("{script} {ended} 2>/dev/null; kill $button 2>/dev/null; {logs}");
        let output = rig.run_within(&command, DEBIAN_LIMIT);
        output.text.lines().filter(|line| line.starts_with("@@again")).for_each(|line| println!("{line}"));
        for (index, (version, kernel, act, code)) in pair.iter().enumerate() {
            let up = output.text.lines().any(|line| {
                line.contains("GUEST: up ")
                    && line.contains(&format!("up {version}"))
                    && line.contains("cpus 1 root /dev/vda")
            });
            assert!(up, "{kernel}\n{}", output.text);
            assert!(output.text.contains(&format!("d{index} exit {code}")), "{kernel} {act}\n{}", output.text);
            let inner = match *act {
                NESTS => "GUEST: its own guest ended with 0: SMALL: up cpus 1",
                _ => "GUEST: cannot have guests",
            };
            assert!(output.text.contains(&format!("d{index} {inner}")), "{kernel} {act}\n{}", output.text);
            assert!(*act != "button" || output.text.contains("GUEST: button"), "{}", output.text);
        }
    }
}

/// What the guest writes to it is shown, and what is typed is read there.
fn a_virtio_console_is_one(rig: &mut Rig) {
    let text = rig.run(
        "(sleep 8; echo over to you) | timeout 60 /payload/thimble-vmm --virtio-console --kernel /payload/vmlinux \
         --initrd /payload/small.cpio --cmdline 'console=hvc0 quiet panic=-1 act=read'",
    );
    assert!(text.contains("SMALL: reads") && text.contains("SMALL: read over to you"), "{text}");
}

/// A guest that runs out of memory gets back what the balloon took, if that was agreed; else its kernel kills for it.
fn a_balloon_gives_way(rig: &mut Rig) {
    for (balloon, ate) in [("100MiB,deflate-on-oom", true), ("100MiB", false)] {
        let text = rig.run(&format!(
            "(timeout 100 /payload/thimble-vmm --name b --memory 160MiB --balloon {balloon} --kernel /payload/vmlinux \
             --initrd /payload/small.cpio --cmdline 'console=ttyS0 quiet panic=-1 reboot=k act=eat' \
             --control /tmp/b.sock < /dev/null > /tmp/b.log 2>&1); tail -n 30 /tmp/b.log"
        ));
        assert!(text.contains("SMALL: eats"), "{balloon}\n{text}");
        assert_eq!(text.contains("SMALL: ate 100663296"), ate, "{balloon}\n{text}");
    }
}

/// Proportional set size of minder and VMM without the guest's memory: 4 MiB at most. And the program: 3 MB at most.
fn the_monitor_itself_is_small(rig: &mut Rig) {
    rig.run(
        "(/payload/thimble-vmm --name m --kernel /payload/vmlinux --initrd /payload/small.cpio --memory 128MiB \
         --cmdline 'console=ttyS0 quiet act=wait' < /dev/null > /tmp/m.log 2>&1) & \
         for i in $(seq 100); do grep -aq 'SMALL: waits' /tmp/m.log && break; sleep 0.2; done; sleep 1",
    );
    let minder = "$(pgrep -fo 'thimble-vmm --name m')";
    let keep = "grep -E '^[0-9a-f]+-|^Pss:'";
    let both = rig.run(&format!("cat /proc/{minder}/smaps /proc/$(pgrep -P {minder})/smaps | {keep}"));
    let kib = without_guest_memory(&both);
    println!("the monitor itself holds {kib} KiB (proportional, minder and VMM, without guest memory)");
    assert!(kib <= 4096, "{kib} KiB\n{both}");
    rig.run("pkill -INT -f 'thimble-vmm --name m'; sleep 0.5");
    let bytes = std::fs::metadata(program("thimble-vmm")).expect("the VMM is there").len();
    assert!(bytes <= 3_000_000, "thimble-vmm has {bytes} bytes");
}

/// Sum of the proportional set sizes in `smaps`, in KiB, without guest memory: large mappings, those of the kernel and
/// the initrd, and what lies between them without a gap.
fn without_guest_memory(smaps: &str) -> u64 {
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    // Begin, end, whether it is surely guest memory, KiB.
    let mut mappings: Vec<(u64, u64, bool, u64)> = Vec::new();
    for line in smaps.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if let Some((begin, end)) = first.split_once('-').and_then(|(begin, end)| hex(begin).zip(hex(end))) {
            let file = line.ends_with("vmlinux") || line.ends_with(".cpio");
            mappings.push((begin, end, file || end - begin >= 8 << 20, 0));
        } else if let (Some(pss), Some(last)) = (line.strip_prefix("Pss:"), mappings.last_mut()) {
            last.3 = pss.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
        }
    }
    let mut sum = 0;
    for run in mappings.chunk_by(|one, next| one.1 == next.0) {
        let guest = |mapping: &(u64, u64, bool, u64)| mapping.2;
        let (first, last) = (run.iter().position(guest), run.iter().rposition(guest));
        let is_guest = |index| first.is_some_and(|first| index >= first) && last.is_some_and(|last| index <= last);
        sum += run.iter().enumerate().filter(|(index, _)| !is_guest(*index)).map(|(_, mapping)| mapping.3).sum::<u64>();
    }
    sum
}
