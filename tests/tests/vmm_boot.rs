//! The VMM with real kernels: ours and Debian's own, each as `vmlinux` and as `bzImage`, to its userspace and to each
//! end that a guest can come to. All of it in the jail.

use std::time::Duration;

use thimble_tests::guests::{RUN_SCRIPT, add_script, add_small_guest, extract_vmlinux};
use thimble_tests::rig::{Clock, Rig, boot_file};

/// How long a pair of Debian guests may take, nested in a machine that is emulated itself.
const DEBIAN_LIMIT: Duration = Duration::from_secs(400);

/// PID 1 of a Debian guest: says where it is, and does what its command line says.
const DEBIAN_INIT: &str = r#"#!/bin/bash
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc 2>/dev/null; mount -t sysfs sys /sys 2>/dev/null
read -r line < /proc/cmdline
echo "GUEST: up $(uname -r) cpus $(nproc) root $(findmnt -no SOURCE /)"
case "$line" in
*act=reboot*) echo b > /proc/sysrq-trigger;;
*act=button*)
    modprobe button
    echo "GUEST: waits"
    until grep -q "[1-9]" <(awk '{print $1}' /sys/firmware/acpi/interrupts/ff_pwr_btn); do sleep 0.2; done
    echo "GUEST: button"
    echo o > /proc/sysrq-trigger;;
*) echo o > /proc/sysrq-trigger;;
esac
sleep 100
"#;

#[test]
fn stock_kernels_and_ours_boot_and_end_as_they_say() {
    let payload = tempfile::tempdir().unwrap();
    add_small_guest(payload.path());
    add_script(payload.path(), DEBIAN_INIT);
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

    // Debian's, with their own initrds, from the disk that is this machine's root too. Two at a time.
    let pairs = [
        [("6.1.", "$(ls /boot/vmlinuz-6.1.*)", "off", 0), ("6.12.", "$(ls /boot/vmlinuz-6.12.*)", "reboot", 10)],
        [("6.1.", "/payload/vmlinux-6.1.debian", "button", 0), ("6.12.", "/payload/vmlinux-6.12.debian", "off", 0)],
    ];
    for pair in pairs {
        let mut script = String::new();
        for (index, (version, kernel, act, _)) in pair.iter().enumerate() {
            let words = format!("console=ttyS0 quiet panic=-1 root=/dev/vda ro act={act} {RUN_SCRIPT}");
            script.push_str(&format!(
                "(/payload/thimble-vmm --name d{index} --acpi --kernel {kernel} --initrd $(ls /boot/initrd.img-{version}*) \
                 --cmdline '{words}' --memory 512MiB --vcpus 2 --disk /dev/vda:ro --disk /payload/script.ext4:ro \
                 --control /tmp/d{index}.sock < /dev/null > /tmp/d{index}.log 2>&1; echo d{index} exit $? >> /tmp/d{index}.log) &\n"
            ));
            if *act == "button" {
                script.push_str(&format!(
                    "(until grep -aq 'GUEST: waits' /tmp/d{index}.log; do sleep 0.5; done; \
                     /payload/thimble-vmm ask /tmp/d{index}.sock power-button) &\n"
                ));
            }
        }
        let output = rig.run_within(&format!("{script} wait; cat /tmp/d0.log /tmp/d1.log"), DEBIAN_LIMIT);
        for (index, (version, kernel, act, code)) in pair.iter().enumerate() {
            let up = output.text.lines().any(|line| {
                line.contains("GUEST: up ")
                    && line.contains(&format!("up {version}"))
                    && line.contains("cpus 2 root /dev/vda")
            });
            assert!(up, "{kernel}\n{}", output.text);
            assert!(output.text.contains(&format!("d{index} exit {code}")), "{kernel} {act}\n{}", output.text);
            assert!(*act != "button" || output.text.contains("GUEST: button"), "{}", output.text);
        }
    }
}
