//! A distribution of its own in a guest: a Debian that debootstrap has made, with its own systemd, on the guests' kernel and on
//! its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use thimble_tests::disks::{Disks, Plug, build};
use thimble_tests::{BOOT_LIMIT, Machine, free_port, get, repository, ssh};

const LIMIT: Duration = Duration::from_secs(180);
/// How long a distribution's kernel and cloud-init may take, nested in a machine that is emulated itself.
const OWN_LIMIT: Duration = Duration::from_secs(500);

/// Where the partition with the root begins, in bytes.
const ROOT_OFFSET: u64 = 1 << 20;

/// What somebody has on this Debian: a service that says who it is, on port 80. It counts its starts on the disk.
const SERVICE: &str = "[Service]\nType=exec\nExecStart=/usr/bin/perl /srv/who.pl\n";
const PROGRAM: &str = r#"
use IO::Socket::INET;
my $path = "/srv/starts";
my $starts = 1;
if (open(my $old, "<", $path)) { $starts += <$old>; close $old; }
open(my $new, ">", $path); print $new $starts; close $new;
my $server = IO::Socket::INET->new(LocalPort => 80, Listen => 5, ReuseAddr => 1) or die;
while (my $client = $server->accept) {
    while (<$client>) { last if /^\r?$/ }
    my $text = "starts=$starts\n"
        . "pid1=" . `readlink -f /proc/1/exe`
        . "host=" . `cat /proc/sys/kernel/hostname`
        . "root=" . `findmnt --noheadings --output SOURCE,FSTYPE /`
        . "state=" . `systemctl is-system-running`
        . "failed=" . `systemctl list-units --failed --plain --no-legend | tr '\\n' ' '` . "\n"
        . "networkd=" . `cat /run/systemd/netif/links/* | grep -e ^ADMIN_STATE -e ^NETWORK_FILE | tr '\\n' ' '` . "\n"
        . "kernel=" . `uname -r`
        . "told=" . `cat /srv/told 2>&1` . "\n"
        . "cloud=" . `tr -d '\\n' </run/cloud-init/result.json 2>&1` . "\n"
        . "keys=" . `cat /home/*/.ssh/authorized_keys 2>&1`
        . "address=" . `ip -4 -br address show eth0`
        . "route=" . `ip route show default`
        . `cat /etc/resolv.conf`;
    print $client "HTTP/1.0 200 OK\r\nContent-Length: " . length($text) . "\r\n\r\n$text";
    close $client;
}
"#;

/// What `scripts/foreign-tree` makes: the disk.
fn debian() -> PathBuf {
    let made = Command::new(repository().join("scripts/foreign-tree")).output().expect("the script starts");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    PathBuf::from(String::from_utf8_lossy(&made.stdout).trim())
}

/// That, copied to a disk, with the service on it.
fn install(directory: &Path, disk: &Path) {
    let copied = Command::new("cp").arg("--sparse=always").arg(debian()).arg(disk).status().expect("cp starts");
    assert!(copied.success());
    let file = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let commands = format!(
        "write {} /srv/who.pl\nwrite {} /etc/systemd/system/who.service\n\
         symlink /etc/systemd/system/multi-user.target.wants/who.service /etc/systemd/system/who.service\n",
        file("who.pl", PROGRAM),
        file("who.service", SERVICE)
    );
    let commands = file("commands", &commands);
    let done = Command::new("debugfs").args(["-w", "-f", &commands]).arg(disk).output().expect("debugfs starts");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn a_debian_runs_with_its_own_systemd() {
    // Given a raw disk with a Debian, which is told nothing but its block device and its network,
    let directory = TempDir::new().expect("a temporary directory");
    let (key, public) = ssh::key(directory.path(), "key");
    let access = format!("[access.ssh]\nkeys = [\"{public}\"]\n[kernel.guest]");
    let changes =
        [("[kernel.guest]", access.as_str()), ("memory = \"192MiB\"", "memory = \"192MiB\"\ncommands = true")];
    let out = build(directory.path(), "foreign", &changes);
    let disks = Disks::new(directory.path(), &[("D", 2048, Plug::Virtio)]);
    install(directory.path(), &disks.file("D"));
    let (port, host) = (free_port(), free_port());
    let forward = [(port, "debian:80"), (host, "host:22")];
    for (starts, root) in [("1", "/dev/vda ext4"), ("2", "/dev/vda2 ext4")] {
        // What it is on may be a partition.
        if starts == "2" {
            into_a_partition(&disks.file("D"));
        }
        let mut machine = disks.boot(&out, &forward);
        // when the host starts it, and starts it again,
        machine.wait("^thimble: guest debian ready [0-9.]+$", BOOT_LIMIT);
        // then its own init runs on the guests' kernel, on that disk and with that address,
        // It takes over the interface beside the rest.
        let page = page_with(port, "ADMIN_STATE=configured ", LIMIT);
        let value = |key: &str| value(&page, key);
        println!("{page}");
        assert_eq!(value("starts"), starts);
        assert_eq!(value("pid1"), "/usr/lib/systemd/systemd");
        assert_eq!(value("host"), "debian");
        assert_eq!(value("root"), root);
        assert_eq!((value("state"), value("failed")), ("running".to_owned(), String::new()));
        let networkd = "ADMIN_STATE=configured NETWORK_FILE=/run/systemd/network/10-thimble.network";
        assert!(value("networkd").ends_with(networkd), "{page}");
        assert_eq!(value("address"), "eth0 UP 10.1.1.11/24");
        assert!(value("route").starts_with("default via 10.1.1.1 dev eth0"), "{page}");
        assert!(page.contains("nameserver 10.1.1.3"), "{page}");
        // A command runs beside its systemd, and asks it.
        if starts == "1" {
            ssh::wait(host);
            let said =
                ssh::said(host, &key, "thimblectl exec debian systemctl show --property MainPID,ActiveState who");
            assert!(said.contains("ActiveState=active") && !said.contains("MainPID=0"), "{said}");
        }
        // and it goes off in its own way.
        goes_off(&mut machine);
        let errors: Vec<&String> = machine.seen().iter().filter(|line| line.contains("thimble: error")).collect();
        assert!(errors.is_empty(), "{errors:?}");
    }
    // What it wrote is whole.
    is_whole(Path::new(&format!("{}?offset={ROOT_OFFSET}", disks.file("D").display())));
}

/// Makes a disk one with two partitions (of DOS), of which the second one is what the disk was, and the first one is blank.
fn into_a_partition(disk: &Path) {
    const SECTOR: u64 = 512;
    let whole = disk.with_extension("whole");
    fs::rename(disk, &whole).expect("it is ours");
    let size = fs::metadata(&whole).expect("it is there").len();
    let mut table = vec![0; SECTOR as usize];
    for (index, (begin, sectors)) in [(64, 1024), (ROOT_OFFSET / SECTOR, size / SECTOR)].into_iter().enumerate() {
        let [begin, sectors] =
            [begin, sectors].map(|number| u32::try_from(number).expect("a small disk").to_le_bytes());
        let entry = [&[0, 0, 0, 0, 0x83, 0, 0, 0][..], &begin, &sectors].concat();
        table[446 + 16 * index..][..16].copy_from_slice(&entry);
    }
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    fs::write(disk, table).expect("it is ours");
    let words = ["bs=1M", "seek=1", "conv=sparse,notrunc", "status=none"].map(str::to_owned);
    let [from, to] =
        [("if", &whole), ("of", &disk.to_owned())].map(|(word, path)| format!("{word}={}", path.display()));
    assert!(Command::new("dd").args([from, to]).args(words).status().expect("dd starts").success());
    fs::File::options().write(true).open(disk).and_then(|file| file.set_len(ROOT_OFFSET + size)).expect("it is ours");
}

/// The page, once this is on it; as it is after `limit`, if that never is.
fn page_with(port: u16, what: &str, limit: Duration) -> String {
    let began = Instant::now();
    loop {
        let page = get(port, "/", limit).expect("the page comes");
        if page.contains(what) || began.elapsed() > limit {
            return page;
        }
        sleep(Duration::from_secs(1));
    }
}

/// The machine is asked to go off, and its guest goes off first, in its own way.
fn goes_off(machine: &mut Machine) {
    machine.press_power_button();
    machine.wait("^thimble: guest debian exited power-off$", LIMIT);
    assert!(machine.end(LIMIT).success());
}

/// What was written to a disk is a whole file system.
fn is_whole(disk: &Path) {
    let check = Command::new("e2fsck").arg("-fn").arg(disk).output().expect("e2fsck starts");
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
}

/// What stands behind `KEY=` on the page, in one line.
fn value(page: &str, key: &str) -> String {
    let line = page.lines().find_map(|line| line.strip_prefix(&format!("{key}=")));
    line.unwrap_or_else(|| panic!("{key}: {page}")).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_debian_runs_with_its_own_kernel_and_is_told_by_cloud_init() {
    // Given the same disk, a file system of the host's with that Debian's kernel and initramfs, and a definition that names them,
    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGNobG9lY2hsb2VjaGxvZWNobG9lY2hsb2VjaGxvZWNo me";
    let directory = TempDir::new().expect("a temporary directory");
    // This Debian has no locales but one, and no server for ssh.
    let user_data = "#cloud-config\\nlocale: false\\nssh_genkeytypes: []\\n\
                     write_files:\\n- path: /srv/told\\n  content: by cloud-init\\n";
    let guest = format!(
        "memory = \"512MiB\"\nidentity = \"7f3c\"\nssh-keys = [\"{KEY}\"]\n[guest.boot]\n\
         kernel = \"/data/files/vmlinuz\"\ninitrd = \"/data/files/initrd\"\ncmdline = \"root=/dev/vda rw\"\n\
         user-data = \"{user_data}\"\n[guest.disk]"
    );
    let disk = "match = { serial = \"D\" }\n";
    let files = "[storage.disks.files]\nmatch = { serial = \"F\" }\n\
                 [[storage.filesystem]]\ndevice = \"files\"\nkind = \"ext4\"\nmount = \"/data/files\"\n";
    let changes = [
        ("memory = \"768MiB\"", "memory = \"1GiB\""),
        (disk, &format!("{disk}{files}")),
        ("memory = \"192MiB\"\ndisk = { device = \"debian\" }", &format!("{guest}\ndevice = \"debian\"")),
    ];
    let out = build(directory.path(), "foreign", &changes);
    let disks = Disks::new(directory.path(), &[("D", 2048, Plug::Virtio), ("F", 256, Plug::Virtio)]);
    install(directory.path(), &disks.file("D"));
    let boot = directory.path().join("boot");
    fs::create_dir(&boot).expect("a directory");
    for name in ["vmlinuz", "initrd"] {
        fs::copy(debian().with_file_name(name), boot.join(name)).expect("it is beside the disk");
    }
    let made = Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&boot).arg(disks.file("F")).status();
    assert!(made.expect("mke2fs starts").success());
    let port = free_port();
    // when the host starts it,
    let mut machine = disks.boot(&out, &[(port, "debian:80")]);
    // then it is ready as soon as it runs, for nothing of ours is in it,
    machine.wait("^thimble: guest debian ready 0[.]00$", BOOT_LIMIT);
    // and that kernel runs that Debian, whose cloud-init has done what it was told, and nothing failed.
    let page = page_with(port, "\"datasource\"", OWN_LIMIT);
    println!("{page}");
    let value = |key: &str| value(&page, key);
    assert!(value("kernel").ends_with("-amd64"), "{page}");
    assert_eq!((value("pid1").as_str(), value("root").as_str()), ("/usr/lib/systemd/systemd", "/dev/vda ext4"));
    assert_eq!(
        (value("host").as_str(), value("told").as_str(), value("keys").as_str()),
        ("debian", "by cloud-init", KEY)
    );
    assert!(value("cloud").contains("DataSourceNoCloud") && value("cloud").contains("\"errors\": []"), "{page}");
    assert_eq!(value("failed"), "");
    assert_eq!(value("address"), "eth0 UP 10.1.1.11/24");
    assert!(value("route").starts_with("default via 10.1.1.1 dev eth0"), "{page}");
    machine.type_line("guests");
    machine.wait("^guest debian: ready, has a kernel of its own$", LIMIT);
    // It hears its power button, and goes off in its own way.
    goes_off(&mut machine);
    is_whole(&disks.file("D"));
}
