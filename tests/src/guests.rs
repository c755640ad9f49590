//! What the machine of [`crate::rig`] runs as guests.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{cache, demo, repository, rig};

/// PID 1 of the small guest: busybox, and what the command line says.
const SMALL_INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /mnt
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp
echo "SMALL: up cpus $(nproc)"
for word in $(cat /proc/cmdline); do
    case $word in
    act=*) act=${word#act=};;
    addr=*) addr=${word#addr=};;
    from=*) from=${word#from=};;
    esac
done
[ -n "$addr" ] && ip link set lo up && ip link set eth0 up && ip addr add $addr/24 dev eth0
case $act in
wait)
    echo "SMALL: waits"
    while :; do sleep 1000; done;;
read)
    echo "SMALL: reads"
    read -r line
    echo "SMALL: read $line";;
eat)
    mount -t tmpfs -o size=100% all /mnt
    echo "SMALL: eats"
    dd if=/dev/zero of=/mnt/big bs=1M count=96 2>/dev/null && echo "SMALL: ate $(stat -c %s /mnt/big)";;
echo)
    echo "SMALL: listens"
    while :; do nc -l -p 5000 -e cat; done;;
journal)
    n=$from
    while [ $n -lt 16384 ]; do
        echo "record $n;" | dd of=/dev/vda bs=4096 seek=$((n * 1237 % 16384)) conv=sync,fsync,notrunc 2>/dev/null
        echo "SMALL: flushed $n"
        n=$((n + 1))
    done;;
reboot) reboot -f;;
panic) exit 1;;
esac
/bin/cut-power
"#;

/// x86-64 code that powers the small guest off: its kernel has no ACPI by which `poweroff` could.
const CUT_POWER: &[u8] = &[
    0xb8, 0xac, 0, 0, 0, // mov eax, 172 (iopl)
    0xbf, 3, 0, 0, 0, // mov edi, 3
    0x0f, 0x05, // syscall
    0xba, 0x04, 0x06, 0, 0, // mov edx, 0x604 (thimble_spec::vmm::POWER_PORT)
    0xb8, 0x00, 0x34, 0, 0, // mov eax, 0x3400 (POWER_OFF)
    0x66, 0xef, // out dx, ax
    0xeb, 0xfe, // jmp $
];

/// x86-64 code of a PID 1 that asks for a reset at once (reboot(2) with its magic numbers).
const RESET: &[u8] = &[
    0xb8, 0xa9, 0, 0, 0, // mov eax, 169 (reboot)
    0xbf, 0xad, 0xde, 0xe1, 0xfe, // mov edi, LINUX_REBOOT_MAGIC1
    0xbe, 0x69, 0x19, 0x12, 0x28, // mov esi, LINUX_REBOOT_MAGIC2
    0xba, 0x67, 0x45, 0x23, 0x01, // mov edx, LINUX_REBOOT_CMD_RESTART
    0x0f, 0x05, // syscall
    0xeb, 0xfe, // jmp $
];

/// Puts `instant.cpio` into `payload`, an initramfs of 2 MB whose PID 1 asks for a reset at once.
pub fn add_instant_guest(payload: &Path) {
    let tree = tempfile::tempdir().expect("a temporary directory");
    let init = tree.path().join("init");
    fs::write(&init, program(RESET)).expect("the tree is writable");
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).expect("it is ours");
    // What an initramfs of ours would hold besides.
    fs::write(tree.path().join("ballast"), vec![0x5a; 2 << 20]).expect("the tree is writable");
    pack(tree.path(), &payload.join("instant.cpio"));
}

/// Writes an initramfs of the guests' PID 1, as it was compiled.
///
/// # Panics
/// None was compiled.
pub fn add_guests_init(archive: &Path) {
    let tree = tempfile::tempdir().expect("a temporary directory");
    let program = repository().join("target/x86_64-unknown-linux-gnu/appliance/init-guest");
    fs::copy(program, tree.path().join("init")).expect("it was compiled: make programs");
    pack(tree.path(), archive);
}

/// A program of nothing but `code`: an ELF file with one segment.
fn program(code: &[u8]) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let size = HEADERS + code.len() as u64;
    let fields: [(u64, usize); 21] = [
        // e_type, e_machine, e_version, e_entry, e_phoff, e_shoff, e_flags, e_ehsize, e_phentsize, e_phnum, no sections
        (2, 2),
        (62, 2),
        (1, 4),
        (BASE + HEADERS, 8),
        (64, 8),
        (0, 8),
        (0, 4),
        (64, 2),
        (56, 2),
        (1, 2),
        (0, 2),
        (0, 2),
        (0, 2),
        // p_type, p_flags, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align
        (1, 4),
        (5, 4),
        (0, 8),
        (BASE, 8),
        (BASE, 8),
        (size, 8),
        (size, 8),
        (4096, 8),
    ];
    for (value, bytes) in fields {
        file.extend(&value.to_le_bytes()[..bytes]);
    }
    file.extend(code);
    file
}

/// Puts our kernel, `vmlinux`, and `small.cpio`, the initramfs of a guest of busybox, into `payload`. What it does is
/// in its command line: `act=off`, `reboot`, `panic`, `wait`, `echo` (at port 5000) or
/// `journal` (numbered records all over its disk of 64 MiB, from `from=` on, each flushed before it is told).
pub fn add_small_guest(payload: &Path) {
    fs::copy(our_kernel(), payload.join("vmlinux")).expect("the guests' kernel is there");
    let tree = tempfile::tempdir().expect("a temporary directory");
    let bin = tree.path().join("bin");
    fs::create_dir(&bin).expect("the tree is writable");
    // Debian's, out of the image in which the guests run.
    let dump = format!("dump /bin/busybox {}", bin.join("busybox").display());
    let image = rig::debian().join("image.ext4");
    let dumped = Command::new("debugfs").arg("-R").arg(dump).arg(image).stderr(Stdio::null()).status();
    assert!(dumped.expect("debugfs starts").success());
    fs::write(tree.path().join("init"), SMALL_INIT).expect("the tree is writable");
    fs::write(bin.join("cut-power"), program(CUT_POWER)).expect("the tree is writable");
    for program in ["bin/busybox", "bin/cut-power", "init"] {
        fs::set_permissions(tree.path().join(program), fs::Permissions::from_mode(0o755)).expect("it is ours");
    }
    pack(tree.path(), &payload.join("small.cpio"));
}

/// Packs `tree` as an initramfs.
fn pack(tree: &Path, archive: &Path) {
    let names = Command::new("find").arg(".").current_dir(tree).output().expect("find starts").stdout;
    let mut cpio = Command::new("cpio");
    cpio.args(["--quiet", "-o", "-H", "newc"]).current_dir(tree).stdin(Stdio::piped());
    cpio.stdout(fs::File::create(archive).expect("the payload is writable"));
    let mut cpio = cpio.spawn().expect("cpio starts");
    cpio.stdin.take().expect("it is piped").write_all(&names).expect("cpio reads");
    assert!(cpio.wait().expect("it is our child").success());
}

/// The processor of Debian guests: one without XSAVE. QEMU's emulated SVM does not intercept XSETBV, so that a nested
/// guest's choice of registers to save becomes its host's, and Debian's kernel says "XSAVE consistency problem".
pub const DEBIAN_CPU: &str = "--cpu x86-64-v2";

/// A function of the machine's shell: `patient LOG COMMAND...` runs a VMM with a Debian guest, and again, twice at most
/// and saying so, if the guest does not come to its `GUEST: up`. In the end it adds `exit CODE` to the log.
///
/// QEMU's emulated SVM loses such guests. One way is known and mended (`scripts/qemu.patch`); with the mended one, too, a
/// host panicked ("corrupted stack") as a guest's second vCPU started. This is for what may be left.
pub const PATIENT: &str = r#"
patient() {
    local log=$1 try pid; shift
    for try in 1 2 3; do
        "$@" < /dev/null > $log 2>&1 &
        pid=$!
        for i in $(seq 700); do
            grep -aq 'GUEST: up' $log && break 2
            kill -0 $pid 2>/dev/null || break
            sleep 0.2
        done
        [ $try = 3 ] && break
        echo "@@again: $log: $(tail -n 1 $log)"
        kill -9 $pid; wait $pid
    done 2>/dev/null
    wait $pid
    echo "exit $?" >> $log
}
"#;

/// The end of a Debian guest's command line whose second disk is `script.ext4`: its PID 1 is the script.
pub const RUN_SCRIPT: &str = "init=/bin/bash -- -c \"mount -o ro /dev/vdb /mnt; exec bash /mnt/script\"";

/// Puts `script.ext4` into `payload`, a disk with `script` and `files` on it, at `/mnt` of Debian guests: their root is
/// not ours to write to.
pub fn add_script(payload: &Path, script: &str, files: &[PathBuf]) {
    let tree = tempfile::tempdir().expect("a temporary directory");
    fs::write(tree.path().join("script"), script).expect("the tree is writable");
    for file in files {
        let name = file.file_name().expect("a file has a name");
        fs::copy(file, tree.path().join(name)).expect("the file is there");
    }
    rig::make_disk(tree.path(), &payload.join("script.ext4"));
}

/// The `vmlinux` that the demonstration's guests run.
///
/// # Panics
/// None was compiled.
pub fn our_kernel() -> PathBuf {
    let manifest = fs::read_to_string(demo().join("manifest.json")).expect("the demonstration has a manifest");
    let kernels = fs::read_dir(cache().join("guest-kernel")).expect("a kernel was compiled");
    let mut found: Vec<PathBuf> =
        kernels.filter_map(|entry| Some(entry.ok()?.path().join("vmlinux"))).filter(|path| path.exists()).collect();
    // The newest is the one that the demonstration was built with: its directory's name is in the manifest if it is told.
    found.sort_by_key(|path| {
        let name = path.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        name.is_some_and(|name| manifest.contains(&name))
    });
    found.pop().expect("a kernel was compiled")
}

/// Takes the ELF file out of a `bzImage` (Linux `Documentation/arch/x86/boot.rst`: `payload_offset`).
pub fn extract_vmlinux(bzimage: &Path, vmlinux: &Path) {
    let image = fs::read(bzimage).expect("the kernel can be read");
    let word = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().expect("four bytes")) as usize;
    let setup_sectors = match image[0x1f1] {
        0 => 4,
        count => usize::from(count),
    };
    let begin = (setup_sectors + 1) * 512 + word(0x248);
    // Behind the compressed data its size without compression follows, in four bytes.
    let packed = &image[begin..begin + word(0x24c) - 4];
    let tool = match packed {
        [0xfd, b'7', ..] => "xz",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0x1f, 0x8b, ..] => "gzip",
        other => panic!("{}: compressed by what? {:x?}", bzimage.display(), &other[..4]),
    };
    let mut unpack = Command::new(tool);
    unpack.arg("-dc").stdin(Stdio::piped()).stderr(Stdio::null());
    unpack.stdout(fs::File::create(vmlinux).expect("the payload is writable"));
    let mut unpack = unpack.spawn().expect("the tool is installed");
    // Some leave out the end, others stop before it: what counts is what comes out.
    let _ = unpack.stdin.take().expect("it is piped").write_all(packed);
    let _ = unpack.wait();
    assert!(fs::read(vmlinux).expect("it was written").starts_with(b"\x7fELF"), "{}", bzimage.display());
}
