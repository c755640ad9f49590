//! What a host does besides its guests: services and such that crash, its log, who may log in, kexec, the watchdog.

use std::io::Read;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tempfile::TempDir;
use thimble_tests::loghost::{self, Loghost};
use thimble_tests::time_server::TimeServer;
use thimble_tests::{BOOT_LIMIT, Boot, Definition, Machine, free_port, ssh};

const LIMIT: Duration = Duration::from_secs(90);
/// Services that end at once, with an error.
const CRASHING: usize = 50;
/// Idle processes of the host together, in KiB: PID 1 and the node daemon.
const IDLE_PSS_KIB: u64 = 12 << 10;

/// Builds `tests/library/host.toml` with these texts replaced and more behind it.
fn build(directory: &Path, changes: &[(&str, &str)], more: &str, formats: &str) -> PathBuf {
    Definition::read("tests/library/host.toml").with(changes).and(more).build(directory, ["--format", formats])
}

fn pss_kib(rollup: &str) -> u64 {
    let number = rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse().ok());
    number.unwrap_or_else(|| panic!("{rollup}"))
}

#[test]
fn a_host_keeps_its_services_and_lets_in_who_has_the_key() {
    // Given a host with fifty services that crash, a key, a watchdog,
    let directory = TempDir::new().expect("a temporary directory");
    let (key, public) = ssh::key(directory.path(), "right");
    let (other, _) = ssh::key(directory.path(), "wrong");
    let crashing: String = (0..CRASHING)
        .map(|number| {
            format!("[[service]]\nname = \"crash-{number}\"\nexec = [\"/usr/bin/thimble-node\", \"a\", \"b\"]\n")
        })
        .collect();
    // and a syslog server that takes the log from who has a certificate only,
    let (loghost, log) = Loghost::start(directory.path());
    let (server, keys) = (loghost.port, loghost.keys.display());
    let syslog = format!("tls://10.1.1.1:{server}\"\ntls-keys = \"{keys}\"\ntls-name = \"{}", loghost::NAME);
    let changes = [("KEY", public.as_str()), ("udp://10.1.1.1:514", syslog.as_str())];
    let out = build(directory.path(), &changes, &crashing, "netboot");
    let port = free_port();
    let mut machine = Machine::boot(&Boot {
        forward: &[(port, "host:22")],
        more: &["--watchdog", "--internet"],
        ..Boot::new(&out, "direct")
    });
    machine.wait("^thimble: host node up", BOOT_LIMIT);
    let up = Instant::now();

    // then root logs in with the key, and in no other way;
    ssh::wait(port);
    assert_eq!(ssh::said(port, &key, "id -u; cat /proc/sys/net/core/somaxconn"), "0\n1234\n");
    for key in [Some(other.as_path()), None] {
        let refused = ssh::run(port, key, "id");
        let text = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && text.contains("Permission denied (publickey)"), "{text}");
    }
    // nothing else listens beside it;
    let listening = ssh::said(port, &key, "netstat -ltn | grep LISTEN");
    let foreign = listening.lines().find(|line| !line.contains(":22 "));
    assert_eq!(foreign, None, "{listening}");
    // the services that work do so, with their limits, and those that crash were started again,
    let services = loop {
        let services: Value =
            serde_json::from_str(&ssh::said(port, &key, "thimble-node services --json")).expect("JSON");
        let services = services["services"].as_array().expect("a list").clone();
        let crashed = |service: &Value| service["restarts"].as_u64().is_some_and(|restarts| restarts >= 3);
        let crashing =
            services.iter().filter(|service| service["name"].as_str().is_some_and(|name| name.starts_with("crash")));
        if crashing.clone().count() == CRASHING && crashing.clone().all(crashed) {
            break services;
        }
        assert!(up.elapsed() < LIMIT, "{services:?}");
    };
    let state =
        |name: &str| services.iter().find(|service| service["name"] == name).map(|service| service["state"].clone());
    for (name, wanted) in [
        ("node", "ready"),
        ("ssh", "ready"),
        ("ntp", "ready"),
        ("syslog", "ready"),
        ("sleeps", "ready"),
        ("last", "done"),
    ] {
        let log = || ssh::said(port, &key, &format!("thimble-node logs --source={name}"));
        assert!(state(name) == Some(wanted.into()), "{name}: {:?}\n{}", state(name), log());
    }
    let group = "/sys/fs/cgroup/services/sleeps";
    assert_eq!(ssh::said(port, &key, &format!("cat {group}/memory.max {group}/pids.max")), "8388608\n4\n");
    // while the console was told of few of their ends: twenty at once, then one each six seconds;
    machine.type_line("help");
    machine.wait("^console: help", LIMIT);
    let told = machine.seen().iter().filter(|line| line.starts_with("thimble: error service crash")).count();
    assert!((1..=22 + machine_seconds(port, &key) / 6).contains(&told), "{told} lines");
    // PID 1 and the daemon take little;
    let pss = ["/proc/1", "/proc/$(pidof thimble-node | tr ' ' '\\n' | sort -n | head -n 1)"]
        .map(|process| pss_kib(&ssh::said(port, &key, &format!("cat {process}/smaps_rollup"))));
    println!("PSS of PID 1 and of the node daemon: {} and {} KiB", pss[0], pss[1]);
    assert!(pss.iter().sum::<u64>() <= IDLE_PSS_KIB, "{pss:?}");
    // the log is heard by its server, behind lengths (RFC 5425, 4.3), as new lines come;
    ssh::said(port, &key, "echo '<4>a word of the kernel' >/dev/kmsg");
    heard(&log, &[">1 ", " node kernel ", "a word of the kernel"]);
    let errors = ssh::said(port, &key, "thimble-node logs --source=init --level=error");
    assert!(errors.contains("service crash-") && !errors.contains("] info"), "{errors}");

    // When a service is stopped, it stays so until it is started.
    ssh::said(port, &key, "thimble-node services stop sleeps");
    assert!(ssh::said(port, &key, "sleep 1; thimble-node services").contains("service sleeps: stopped"));
    ssh::said(port, &key, "thimble-node services start sleeps");
    assert!(ssh::said(port, &key, "thimble-node services").contains("service sleeps: ready"));
}

/// Seconds since the machine's kernel started.
fn machine_seconds(port: u16, key: &Path) -> usize {
    let uptime = ssh::said(port, key, "cat /proc/uptime");
    uptime.split('.').next().and_then(|seconds| seconds.parse().ok()).unwrap_or_else(|| panic!("{uptime}"))
}

#[test]
fn the_console_is_a_shell_where_that_is_asked_for_and_the_log_goes_by_tcp() {
    // Given a host whose console is a shell, and a syslog server that is reached by TCP,
    let directory = TempDir::new().expect("a temporary directory");
    let server = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let syslog = format!("tcp://10.1.1.1:{}", server.local_addr().expect("it is bound").port());
    let changes = [
        ("[access.ssh]\nkeys = [\"KEY\"]", "[access]\nshell = true"),
        ("udp://10.1.1.1:514", syslog.as_str()),
        ("cmdline = \"thimble.console-commands\"", ""),
        ("[time]\nservers = [\"10.1.1.1\"]", ""),
    ];
    let out = build(directory.path(), &changes, "", "netboot");
    let mut machine = Machine::boot(&Boot { more: &["--internet"], ..Boot::new(&out, "direct") });
    // The shell's prompt may stand before it.
    machine.wait("thimble: host node up", BOOT_LIMIT);
    // then what is typed is done,
    machine.type_line("echo sum $((6 * 7)); tty; ls /usr/sbin/dropbear");
    machine.wait_all(&["sum 42", "^/dev/ttyS0", "dropbear: No such file"], LIMIT);
    // the server hears lines behind their length,
    let (mut stream, _) = server.accept().expect("it connects");
    let mut text = [0; 4096];
    stream.read_exact(&mut text).expect("it sends");
    let text = String::from_utf8_lossy(&text);
    let (length, rest) = text.split_once(' ').expect("a length");
    let length: usize = length.parse().expect("a number");
    assert!(rest.starts_with("<5>1 ") || rest.starts_with("<6>1 "), "{rest}");
    let next = rest[length..].split_once(' ').expect("another one").0;
    assert!(next.parse::<usize>().is_ok(), "{next}");
    // and the shell ends the host in order.
    machine.type_line("thimble-node power off");
    assert!(machine.end(LIMIT).success());
}

/// So many seconds the time server's clock is ahead.
const AHEAD: u64 = 86_400;

/// Reads datagrams as they come: a socket holds fewer than a boot's log has.
fn datagrams(server: UdpSocket) -> Receiver<String> {
    let (sender, received) = channel();
    thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(length) = server.recv(&mut buffer) {
            if sender.send(String::from_utf8_lossy(&buffer[..length]).into_owned()).is_err() {
                break;
            }
        }
    });
    received
}

/// Waits for a line that has all of `wanted`, and gives it.
fn heard(lines: &Receiver<String>, wanted: &[&str]) -> String {
    let began = Instant::now();
    let mut last = String::new();
    while let Ok(text) = lines.recv_timeout(LIMIT.saturating_sub(began.elapsed())) {
        if wanted.iter().all(|wanted| text.contains(wanted)) {
            return text;
        }
        last = text;
    }
    panic!("no line with {wanted:?}; the last one is {last}");
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

#[test]
fn its_clock_is_set_its_log_goes_by_udp_and_it_starts_again_by_kexec_and_by_the_watchdog() {
    // Given a network with a time server whose clock is a day ahead, and with a syslog server,
    let directory = TempDir::new().expect("a temporary directory");
    let (key, public) = ssh::key(directory.path(), "right");
    let server = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let syslog = format!("udp://10.1.1.1:{}", server.local_addr().expect("it is bound").port());
    let told = datagrams(server);
    let changes = [
        ("KEY", public.as_str()),
        ("udp://10.1.1.1:514", syslog.as_str()),
        ("timeout-s = 30", "timeout-s = 16"),
        ("node-s = 10", "node-s = 8"),
    ];
    let out = build(directory.path(), &changes, "", "flash");
    let port = free_port();
    let mut machine = Machine::boot(&Boot {
        forward: &[(port, "host:22")],
        more: &["--watchdog", "--internet"],
        ..Boot::new(&out, "flash-bios")
    });
    machine.wait("node: starting slot a", BOOT_LIMIT);
    machine.wait("^thimble: host node up", BOOT_LIMIT);

    // then the machine's own watchdog is armed,
    ssh::wait(port);
    let log = ssh::said(port, &key, "thimble-node logs --source=init");
    assert!(log.contains("watchdog i6300ESB timer armed, 16 s"), "{log}");
    // the clock is set, and stays so, though the time server comes later than the host,
    let _time = TimeServer::start(AHEAD);
    let began = Instant::now();
    while !(AHEAD - 60..AHEAD + 60).contains(&(clock(port, &key).saturating_sub(now()))) {
        let log = || ssh::said(port, &key, "thimble-node logs --source=ntp");
        assert!(began.elapsed() < LIMIT, "the clock is not set: {}", log());
    }
    // and what a host writes is heard, with that time and the level it was written with (RFC 5424, 6).
    ssh::said(port, &key, "echo '<4>a word of the kernel' >/dev/kmsg");
    let word = heard(&told, &["a word of the kernel"]);
    let fields: Vec<&str> = word.split(' ').collect();
    assert_eq!(fields[2..4], ["node", "kernel"], "{word}");
    assert!(fields[0].ends_with(">1") && fields[1].ends_with('Z') && fields[1].len() > 20, "{word}");
    heard(&told, &[" node ntp "]);

    // When it is told to start again by kexec, the same release runs again, and no firmware or boot loader between;
    let kexec = ssh::run(port, Some(&key), "thimble-node power kexec");
    assert!(kexec.status.success(), "{}", String::from_utf8_lossy(&kexec.stderr));
    let before = machine.seen().len();
    machine.wait("^thimble: host node up", BOOT_LIMIT);
    let loaded = machine.seen()[before..].iter().find(|line| line.contains("starting slot"));
    assert_eq!(loaded, None, "it came by the boot loader");
    ssh::wait(port);
    let line = ssh::said(port, &key, "cat /proc/cmdline");
    assert!(!line.contains("BOOT_IMAGE") && line.contains("thimble.slot=a"), "{line}");

    // and when the node daemon is mute, whoever is started in its place too, the watchdog ends that.
    let mute = "(while :; do killall -q -STOP thimble-node; sleep 0.2; done) >/dev/null 2>&1 </dev/null &";
    ssh::said(port, &key, mute);
    machine.wait("^thimble: error the node daemon gave no sign for 8 s and is killed", LIMIT);
    machine.wait("^thimble: error the node daemon gives no sign though it was started again: the watchdog", LIMIT);
    machine.wait("node: starting slot a", LIMIT);
    machine.wait("^thimble: host node up", BOOT_LIMIT);
}

/// The machine's clock, in seconds since 1970.
fn clock(port: u16, key: &Path) -> u64 {
    let text = ssh::said(port, key, "date +%s");
    text.trim().parse().unwrap_or_else(|error| panic!("{error}: {text}"))
}
