//! The VMM's devices under real drivers: a Debian guest with its stock kernel 6.12 drives disks of every kind, network,
//! sockets and balloon, in the jail. The guest is driven through its socket device: a shell listens there.

use std::time::Duration;

use serde_json::Value;
use thimble_tests::guests::{DEBIAN_CPU, PATIENT, RUN_SCRIPT, add_script, add_small_guest};
use thimble_tests::rig::{Clock, Rig};

/// How long the guest may take to its shell.
const BOOT_LIMIT: Duration = Duration::from_secs(460);

/// PID 1 of the guest: a network address, and a shell at port 1000 of its socket device.
const INIT: &str = r#"#!/bin/bash
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc 2>/dev/null; mount -t sysfs sys /sys 2>/dev/null; mount -t tmpfs -o size=400M tmp /tmp
modprobe -a vmw_vsock_virtio_transport virtio_net virtio_balloon virtio_blk
ip link set lo up; ip link set eth0 up; ip addr add 10.77.0.2/24 dev eth0
echo "GUEST: up"
exec socat -t 600 VSOCK-LISTEN:1000,reuseaddr,fork EXEC:/bin/bash,stderr
"#;

/// Functions of the machine's shell: `gx COMMAND` runs a command in the guest, `ask VERB...` asks its VMM, `rss` is what
/// its VMM holds, in KiB.
const FUNCTIONS: &str = r#"
gx() { printf 'CONNECT 1000\n%s\nexit\n' "$1" | socat -t 300 - UNIX-CONNECT:/tmp/v/v | tail -n +2; }
ask() { /payload/thimble-vmm ask /tmp/d.sock "$@"; }
rss() { awk '/^VmRSS/ {print $2}' /proc/$(pgrep -P $(pgrep -fo 'thimble-vmm --name d'))/status; }
"#;

struct Guest(Rig);

impl Guest {
    fn host(&mut self, command: &str) -> String {
        self.0.run(command)
    }

    /// Runs a command in the guest, which must end with `ok`.
    fn inside(&mut self, command: &str) -> String {
        let output = self.0.run_within(&format!("gx '{command} && echo ok'"), Duration::from_secs(240));
        assert!(output.text.trim_end().ends_with("ok"), "{command}\n{}", output.text);
        output.text.trim_end().trim_end_matches("ok").trim_end().to_owned()
    }

    fn stats(&mut self) -> Value {
        serde_json::from_str(&self.host("ask stats")).expect("stats are JSON")
    }
}

#[test]
fn devices_do_what_they_promise_to_real_drivers() {
    let payload = tempfile::tempdir().expect("a temporary directory");
    add_small_guest(payload.path());
    add_script(payload.path(), INIT, &[]);
    let mut rig = Rig::boot(payload.path(), Clock::Wall);
    rig.run(FUNCTIONS);
    rig.run(
        "mkdir /tmp/v /tmp/small; chmod 777 /tmp/v; mount -t tmpfs -o size=8M small /tmp/small
         truncate -s 64M /tmp/uring.raw /tmp/sync.raw /tmp/small/full.raw
         truncate -s 96M /tmp/ext4; mkdir /tmp/direct; loop=$(losetup -b 4096 -f --show /tmp/ext4)
         mkfs.ext4 -q $loop; mount $loop /tmp/direct; truncate -s 64M /tmp/direct/direct.raw
         qemu-img create -q -f qcow2 /tmp/cow.qcow2 64M
         ip link add br0 type bridge; ip link set br0 up; ip addr add 10.77.0.1/24 dev br0
         for tap in tap0 tap1; do ip tuntap add $tap mode tap vnet_hdr multi_queue; ip link set $tap master br0 up; done",
    );
    rig.run(PATIENT);
    let start = format!(
        "patient /tmp/d.log /payload/thimble-vmm --name d --acpi {DEBIAN_CPU} --kernel $(ls /boot/vmlinuz-6.12.*) \
         --initrd $(ls /boot/initrd.img-6.12.*) \
         --cmdline 'console=ttyS0 quiet panic=-1 root=/dev/vda ro {RUN_SCRIPT}' --memory 640MiB \
         --disk /dev/vda:ro --disk /payload/script.ext4:ro --disk /tmp/uring.raw,engine=uring,queues=2 \
         --disk /tmp/sync.raw,engine=sync --disk /tmp/cow.qcow2,format=qcow2 --disk /tmp/small/full.raw --disk /tmp/direct/direct.raw,direct \
         --net tap=tap0,queue-pairs=2 --vsock cid=3,path=/tmp/v/v --balloon 0MiB,free-page-reporting \
         --control /tmp/d.sock & \
         until grep -aqE 'GUEST: up|^exit' /tmp/d.log; do sleep 0.2; done 2>/dev/null; tail -n 20 /tmp/d.log"
    );
    let log = rig.run_within(&start, BOOT_LIMIT).text;
    assert!(log.contains("GUEST: up"), "{log}");
    let mut guest = Guest(rig);
    let hello = guest.0.run_within("sleep 1; gx 'uname -r; nproc'; tail -n 3 /tmp/d.log", Duration::from_secs(60)).text;
    assert!(hello.contains("6.12.") && hello.contains("\n1"), "{hello}");

    disks_keep_what_they_are_given(&mut guest);
    a_disk_grows_under_its_driver(&mut guest);
    a_limit_holds(&mut guest);
    a_full_host_lets_the_guest_wait(&mut guest);
    the_network_carries_every_byte(&mut guest);
    sockets_reach_both_ways(&mut guest);
    memory_comes_back(&mut guest);
    a_pause_stops_and_loses_nothing(&mut guest);

    guest.host("gx 'echo o > /proc/sysrq-trigger' > /dev/null & sleep 5; pkill socat; true");
    let log = guest
        .host("for i in $(seq 100); do grep -aq '^exit' /tmp/d.log && break; sleep 0.2; done; tail -n 5 /tmp/d.log");
    assert!(log.contains("exit 0"), "{log}");
    guest.host("qemu-img check -q /tmp/cow.qcow2; ! [ -e /tmp/v/v ]");
}

fn disks_keep_what_they_are_given(guest: &mut Guest) {
    // vdc by io_uring with two queues, vdd by calls, vde a qcow2 image, vdg around the page cache of ext4.
    for disk in ["vdc", "vdd", "vde", "vdg"] {
        let fio = format!(
            "fio --name=v --filename=/dev/{disk} --rw=randwrite --bs=4k --size=6M --direct=1 --ioengine=libaio \
             --iodepth=16 --verify=crc32c --verify_fatal=1 --fsync=64 --output=/tmp/fio.log; \
             cat /tmp/fio.log; grep -q \"err= 0\" /tmp/fio.log"
        );
        guest.inside(&fio);
        guest.inside(&format!(
            "mkfs.ext4 -q /dev/{disk} && mount -o discard /dev/{disk} /media && \
             fio --name=v --directory=/media --rw=randwrite --bs=8k --size=4M --verify=crc32c --verify_fatal=1 \
             --end_fsync=1 --output=/tmp/fio.log && rm /media/v* && sync && fstrim /media && umount /media && \
             e2fsck -fn /dev/{disk} >/tmp/fsck 2>&1"
        ));
    }
    let stats = guest.stats();
    for disk in [2, 3, 4, 6] {
        let disk = &stats["disks"][disk];
        assert!(disk["written_bytes"].as_u64() > Some(10 << 20) && disk["flushes"].as_u64() > Some(0), "{stats}");
        assert!(disk["erases"].as_u64() > Some(0) && disk["errors"].as_u64() == Some(0), "{stats}");
    }
    // What was trimmed is the host's again.
    let blocks = guest.host("stat -c %b /tmp/uring.raw");
    assert!(blocks.trim().parse::<u64>().expect("a number") * 512 < 24 << 20, "{blocks}");
    // A read-only disk stays what it is.
    guest.inside("! dd if=/dev/zero of=/dev/vdb count=1 oflag=direct 2>/dev/null");
}

fn a_disk_grows_under_its_driver(guest: &mut Guest) {
    guest.host(
        "ask resize-disk 2 96MiB && ask resize-disk 4 80MiB && truncate -s 72M /tmp/sync.raw && ask resize-disk 3",
    );
    let sizes = guest.inside("sleep 1; for d in vdc vdd vde; do blockdev --getsize64 /dev/$d; done");
    assert_eq!(sizes.split_whitespace().collect::<Vec<_>>(), ["100663296", "75497472", "83886080"]);
    guest.inside(
        "dd if=/dev/urandom of=/tmp/x bs=1M count=1 2>/dev/null && \
                  dd if=/tmp/x of=/dev/vdc bs=1M seek=95 oflag=direct 2>/dev/null && \
                  dd if=/dev/vdc bs=1M skip=95 iflag=direct 2>/dev/null | cmp - /tmp/x",
    );
    let refused = guest.0.run_within("ask resize-disk 2 1MiB; ask resize-disk 9", BOOT_LIMIT);
    assert!(refused.text.contains("does not shrink") && refused.text.contains("no disk 9"), "{}", refused.text);
}

/// Milliseconds that a command in the guest took.
fn timed(guest: &mut Guest, command: &str) -> f64 {
    let text =
        guest.inside(&format!("a=$(date +%s%N); {command}; b=$(date +%s%N); echo took $(( (b - a) / 1000000 ))"));
    let took = text.lines().rev().find_map(|line| line.strip_prefix("took ")).expect("it was timed");
    took.trim().parse().expect("a number")
}

/// It took as long as the limit says, but for a tenth; and not for ever, on a machine that is busy elsewhere. That the limit is
/// reached to the token is what the unit tests of `vmm/src/virtio/limit.rs` show, by a clock of their own.
fn within(what: &str, measured: f64, expected: f64) {
    println!("{what}: {measured:.0} ms, by the limit {expected:.0} ms");
    assert!((0.9..3.0).contains(&(measured / expected)), "{what}: {measured} ms, by the limit {expected} ms");
}

fn a_limit_holds(guest: &mut Guest) {
    // Bursts that are small, so that nearly all goes by the rate, but larger than a request.
    guest.host("ask limit-disk 2 bandwidth=2MiB:256KiB");
    let took = timed(guest, "dd if=/dev/vdc of=/dev/null bs=64k count=96 iflag=direct 2>/dev/null");
    within("6 MiB at 2 MiB/s", took, 3000.0);
    guest.host("ask limit-disk 2 operations=50:10");
    let took = timed(guest, "dd if=/dev/vdc of=/dev/null bs=4k count=150 iflag=direct 2>/dev/null");
    within("150 reads at 50/s", took, 3000.0);
    guest.host("ask limit-disk 2");
    assert!(guest.stats()["disks"][2]["throttled"].as_u64() > Some(50));
}

fn a_full_host_lets_the_guest_wait(guest: &mut Guest) {
    guest.inside("head -c 32M /dev/urandom > /tmp/sent");
    guest.host("(gx 'dd if=/tmp/sent of=/dev/vdf bs=1M oflag=direct && echo done' > /tmp/full) & sleep 0.5");
    let waits = |guest: &mut Guest| guest.stats()["disks"][5]["waiting"] != 0;
    assert!((0..200).any(|_| waits(guest)), "{}", guest.stats());
    assert!(!guest.host("sleep 3; cat /tmp/full").contains("done"));
    assert_eq!(guest.stats()["disks"][5]["errors"], 0);
    // Once there is room again it goes on, and every byte is there.
    guest.host("mount -o remount,size=64M /tmp/small");
    guest.host("for i in $(seq 100); do grep -q done /tmp/full && break; sleep 0.2; done; grep done /tmp/full");
    guest.inside("cmp /tmp/sent /dev/vdf -n 33554432");
    assert_eq!(guest.stats()["disks"][5]["waiting"], 0);
}

fn the_network_carries_every_byte(guest: &mut Guest) {
    guest.inside("ping -c 2 -q 10.77.0.1 > /tmp/ping && head -c 8M /dev/urandom > /tmp/x");
    let sum = guest.inside("sha256sum < /tmp/x");
    guest.host("(socat -u TCP-LISTEN:5000 CREATE:/tmp/up) & sleep 0.5");
    guest.inside("socat -u OPEN:/tmp/x TCP:10.77.0.1:5000");
    assert_eq!(guest.host("sleep 0.5; sha256sum < /tmp/up").trim(), sum.trim());
    guest.host("(socat -u OPEN:/tmp/up TCP-LISTEN:5001) & sleep 0.5");
    assert_eq!(guest.inside("socat -u TCP:10.77.0.1:5001 - | sha256sum").trim(), sum.trim());
    // This machine has /dev/vhost-net, so the packets above were the host kernel's; another guest has them of its VMM.
    assert_eq!(guest.stats()["nets"][0]["vhost"], Value::Bool(true));
    guest.host(
        "(/payload/thimble-vmm --name small --kernel /payload/vmlinux --initrd /payload/small.cpio --memory 64MiB \
         --cmdline 'console=ttyS0 quiet panic=-1 reboot=k act=echo addr=10.77.0.3' --net tap=tap1,backend=user \
         --control /tmp/s.sock < /dev/null > /tmp/s.log 2>&1) & \
         for i in $(seq 100); do grep -aq 'SMALL: listens' /tmp/s.log && break; sleep 0.2; done",
    );
    assert_eq!(guest.inside("sleep 1; socat -t 60 - TCP:10.77.0.3:5000 < /tmp/x | sha256sum").trim(), sum.trim());
    let small = "/payload/thimble-vmm ask /tmp/s.sock";
    let stats: Value = serde_json::from_str(&guest.host(&format!("{small} stats"))).expect("stats are JSON");
    assert!(stats["nets"][0]["received_bytes"].as_u64() > Some(8 << 20), "{stats}");
    // By a limit on one way, then on the other. A frame of 1514 bytes carries 1448 of the 2 MiB.
    guest.inside("head -c 2M /tmp/x > /tmp/y");
    let expected = 2048.0 / 512.0 * 1514.0 / 1448.0 * 1000.0;
    for (way, other) in [("receive", "transmit"), ("transmit", "receive")] {
        guest.host(&format!("{small} limit-net 0 --{way} bandwidth=512KiB:64KiB"));
        let took = timed(guest, "socat -t 60 - TCP:10.77.0.3:5000 < /tmp/y > /dev/null");
        within(&format!("2 MiB at 512 KiB/s, {way}, none on {other}"), took, expected);
    }
    guest.host(&format!("{small} limit-net 0; {small} kill"));
    // Both ways at once, by a program that looks for its own.
    guest.host("(iperf3 -s -1 -D)");
    let text = guest.inside("iperf3 -c 10.77.0.1 -t 3 --bidir -P 2 | tail -n 8");
    println!("iperf3, both ways, nested and emulated:\n{text}");
}

fn sockets_reach_both_ways(guest: &mut Guest) {
    guest.host("(socat -u UNIX-LISTEN:/tmp/v/v_6000,mode=666 CREATE:/tmp/up) & sleep 0.5");
    let sum = guest.inside("sha256sum < /tmp/x; socat -u OPEN:/tmp/x VSOCK-CONNECT:2:6000");
    assert_eq!(guest.host("sleep 0.5; sha256sum < /tmp/up").trim(), sum.trim());
    let refused = guest.0.run_within("gx 'socat -u OPEN:/tmp/x VSOCK-CONNECT:2:6001 2>&1'", BOOT_LIMIT);
    assert!(refused.text.contains("reset") || refused.text.contains("refused"), "{}", refused.text);
    assert!(guest.stats()["vsock"]["sent_bytes"].as_u64() > Some(8 << 20));
}

fn memory_comes_back(guest: &mut Guest) {
    let rss = |guest: &mut Guest| guest.host("rss").trim().parse::<u64>().expect("a number");
    // What was used and freed is reported, a few seconds later.
    guest.inside("head -c 300M /dev/zero > /tmp/big");
    let full = rss(guest);
    guest.inside("rm /tmp/big; sleep 12");
    let reported = rss(guest);
    println!("the VMM holds {full} KiB, and {reported} KiB when the guest has freed 300 MiB");
    assert!(reported + 200 * 1024 < full, "{reported} {full}");
    // What the balloon takes cannot be used.
    guest.host("ask balloon 300MiB");
    guest.host("for i in $(seq 100); do ask stats | grep -q '\"actual_mib\": 300' && break; sleep 0.2; done");
    let free = guest.inside("awk \"/^MemTotal/ {print \\$2}\" /proc/meminfo");
    assert!(free.trim().parse::<u64>().expect("a number") < 340 * 1024, "{free}");
    guest.host("ask balloon 0MiB");
    let refused = guest.0.run_within("ask balloon 700MiB", BOOT_LIMIT);
    assert!(refused.status != 0 && refused.text.contains("cannot give back"), "{}", refused.text);
}

fn a_pause_stops_and_loses_nothing(guest: &mut Guest) {
    guest.host(
        "gx 'fio --name=v --filename=/dev/vdc --rw=randwrite --bs=4k --size=16M --direct=1 --ioengine=libaio \
         --iodepth=8 --verify=crc32c --verify_fatal=1 --output=/tmp/fio.log; grep -o \"err= 0\" /tmp/fio.log' > /tmp/load & sleep 2",
    );
    for _ in 0..3 {
        let (state, before, after) = (
            guest.host("ask pause; sleep 0.5; ask status | grep state"),
            guest.stats()["disks"][2]["writes"].clone(),
            {
                guest.host("sleep 1");
                guest.stats()["disks"][2]["writes"].clone()
            },
        );
        assert!(state.contains("paused") && before == after, "{state} {before} {after}");
        guest.host("ask resume; sleep 0.5");
    }
    let text =
        guest.host("for i in $(seq 300); do grep -q 'err= 0' /tmp/load && break; sleep 0.2; done; cat /tmp/load");
    assert!(text.contains("err= 0"), "{text}");
}
