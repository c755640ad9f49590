//! What a guest was told is on its disk is there when its VMM is killed in the middle of its work, whatever holds the
//! disk; and the next VMM, and QEMU's tools, can go on with it.

use std::collections::BTreeMap;

use thimble_tests::guests::add_small_guest;
use thimble_tests::rig::{Clock, Rig};

/// Guests, one after the other, that each go on where the one before was killed.
const ROUNDS: u32 = 2;
/// Bytes of a record of the guest's journal.
const RECORD: u64 = 4096;
/// Records that the disk has room for.
const RECORDS: u64 = 16384;

/// A disk of 64 MiB.
struct Medium {
    name: &'static str,
    /// Makes it.
    make: &'static str,
    /// What the VMM is told.
    option: &'static str,
    /// Looks whether it is in order, and puts what is on it into `/tmp/raw`.
    read: &'static str,
}

const MEDIA: [Medium; 5] = [
    Medium {
        name: "raw, io_uring",
        make: "truncate -s 64M /tmp/a.raw",
        option: "/tmp/a.raw,engine=uring",
        read: "cp --sparse=always /tmp/a.raw /tmp/raw",
    },
    Medium {
        name: "raw, calls",
        make: "truncate -s 64M /tmp/b.raw",
        option: "/tmp/b.raw,engine=sync",
        read: "cp --sparse=always /tmp/b.raw /tmp/raw",
    },
    Medium {
        name: "raw, around the page cache of ext4 on a disk with blocks of 4096 bytes",
        make: "truncate -s 96M /tmp/ext4 && mkdir /tmp/direct && loop=$(losetup -b 4096 -f --show /tmp/ext4) && \
               mkfs.ext4 -q $loop && mount $loop /tmp/direct && truncate -s 64M /tmp/direct/c.raw",
        option: "/tmp/direct/c.raw,direct",
        read: "cp --sparse=always /tmp/direct/c.raw /tmp/raw",
    },
    Medium {
        name: "qcow2",
        make: "qemu-img create -q -f qcow2 /tmp/d.qcow2 64M",
        option: "/tmp/d.qcow2,format=qcow2",
        read: "check /tmp/d.qcow2 && qemu-img convert -f qcow2 -O raw /tmp/d.qcow2 /tmp/raw",
    },
    Medium {
        name: "qcow2 over qcow2",
        make: "mkdir /tmp/images && qemu-img create -q -f qcow2 /tmp/images/base 64M && \
               qemu-img create -q -f qcow2 -b images/base -F qcow2 /tmp/e.qcow2",
        option: "/tmp/e.qcow2,format=qcow2,backing=/tmp/images",
        read: "check /tmp/e.qcow2 && qemu-img convert -f qcow2 -O raw /tmp/e.qcow2 /tmp/raw",
    },
];

/// Functions of the machine's shell. `journal OPTION FROM SECONDS` lets a guest write its journal for so long, and kills
/// its VMM; `check IMAGE` is content with clusters that are lost (3), which is what an interrupted write may leave.
const FUNCTIONS: &str = r#"
journal() {
    : > /tmp/j.log # the last one's words are not this one's
    (/payload/thimble-vmm --name j --kernel /payload/vmlinux --initrd /payload/small.cpio --memory 64MiB \
        --cmdline "console=ttyS0 quiet panic=-1 reboot=k act=journal from=$2" --disk "$1" \
        < /dev/null > /tmp/j.log 2>&1) &
    until grep -aq "SMALL: flushed $(($2 + 20))" /tmp/j.log || ! kill -0 $!; do sleep 0.2; done 2>/dev/null
    sleep $3
    kill -9 $(pgrep -P $(pgrep -fo 'thimble-vmm --name j'))
    wait $!
    tail -n 2 /tmp/j.log
    grep -ao 'SMALL: flushed [0-9]*.$' /tmp/j.log | tail -n 1 | tr -dc 0-9
}
check() { qemu-img check -q "$1"; [ $? = 0 ] || [ $? = 3 ]; }
"#;

#[test]
fn what_was_flushed_survives_the_vmm() {
    let payload = tempfile::tempdir().expect("a temporary directory");
    add_small_guest(payload.path());
    let mut rig = Rig::boot(payload.path(), Clock::Wall);
    rig.run(FUNCTIONS);
    for Medium { name, make, option, read } in MEDIA {
        rig.run(make);
        let mut next = 0;
        for round in 0..ROUNDS {
            // Not always at the same point of a request.
            let output = rig.run(&format!("journal {option} {next} 0.{}", 3 * round + 1));
            let (last_words, told) = output.rsplit_once('\n').unwrap_or((&output, ""));
            assert!(last_words.contains("the VMM was killed"), "{name}: {output}");
            let told: u64 = told.trim().parse().unwrap_or_else(|_| panic!("{name}: no record was told: {output}"));
            rig.run(read);
            let found = records(&rig.run("grep -abo 'record [0-9]*;' /tmp/raw; rm /tmp/raw"));
            for number in 0..=told {
                let place = number * 1237 % RECORDS * RECORD;
                assert_eq!(found.get(&number), Some(&place), "{name}, round {round}: record {number} of {told}");
            }
            println!("{name}: {} records told, and there after kill -9", told + 1);
            next = told + 1;
        }
    }
}

/// The numbers of the records that `grep` found, and where they are.
fn records(found: &str) -> BTreeMap<u64, u64> {
    let record = |line: &str| {
        let (place, text) = line.split_once(':')?;
        let number = text.strip_prefix("record ")?.strip_suffix(';')?;
        Some((number.parse().ok()?, place.parse().ok()?))
    };
    found.lines().filter_map(|line| record(line.trim())).collect()
}
