//! A network of its own for machines that boot from it: a namespace with a bridge, a machine's network card on it, and
//! whoever serves.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use regex::Regex;
use serde_json::Value;

use crate::thimble::thimble;
use crate::{lines, qemu};

/// Ours on the bridge, as the demonstration's definition has its gateway.
pub const SERVER: &str = "10.1.1.1";
/// The other machine's on the network: a site's DHCP server.
pub const NEIGHBOUR: &str = "10.1.1.2";
/// How long a server may take to listen, and to end.
const SOON: Duration = Duration::from_secs(20);
/// How many lines of a console a failed test shows.
const SHOWN_LINES: usize = 60;

/// What starts the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS, and the iPXE that Debian has as the card's ROM.
    Bios,
    /// OVMF's own PXE.
    UefiPxe,
    /// OVMF's HTTP boot.
    UefiHttp,
}

/// The network. It goes away with the value; whoever was started in it should have ended.
#[derive(Debug)]
pub struct Site {
    name: String,
}

impl Site {
    /// Makes it.
    ///
    /// # Panics
    /// It needs root.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("thimble-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let site = Self { name };
        let (ours, other) = (site.name.clone(), site.neighbour());
        let bridge = format!("{SERVER}/24");
        let there = format!("{NEIGHBOUR}/24");
        for words in [
            &["netns", "add", &ours][..],
            &["netns", "add", &other],
            &["-n", &ours, "link", "add", "br0", "type", "bridge"],
            &["-n", &ours, "address", "add", &bridge, "dev", "br0"],
            &["-n", &ours, "link", "set", "lo", "up"],
            &["-n", &ours, "link", "set", "br0", "up"],
            &["-n", &ours, "tuntap", "add", "card", "mode", "tap"],
            &["-n", &ours, "link", "set", "card", "master", "br0", "up"],
            &["-n", &ours, "link", "add", "other", "type", "veth", "peer", "name", "eth0", "netns", &other],
            &["-n", &ours, "link", "set", "other", "master", "br0", "up"],
            &["-n", &other, "address", "add", &there, "dev", "eth0"],
            &["-n", &other, "link", "set", "lo", "up"],
            &["-n", &other, "link", "set", "eth0", "up"],
        ] {
            assert!(ip(words).success(), "ip {words:?}");
        }
        site
    }

    fn neighbour(&self) -> String {
        format!("{}-b", self.name)
    }

    /// A program on this network.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        inside(&self.name, program)
    }

    /// `thimble serve` at the bridge.
    ///
    /// # Panics
    /// It does not listen soon.
    pub fn serve(&self, artefacts: &Path, words: &[&str]) -> Serve {
        let mut command = self.command(thimble().get_program());
        command.arg("serve").arg(artefacts).args(["--on", "br0", "--json"]).args(words);
        Serve::start(command)
    }

    /// dnsmasq on another machine of the network: it gives addresses, and does what `words` say besides.
    ///
    /// # Panics
    /// It does not start.
    pub fn dnsmasq(&self, words: &[&str]) -> Daemon {
        let mut command = inside(&self.neighbour(), "dnsmasq");
        command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--log-dhcp", "--log-facility=-"]);
        command.args(["--dhcp-leasefile=/dev/null", "--user=root", "--interface=eth0", "--dhcp-authoritative"]);
        command.arg("--dhcp-range=10.1.1.200,10.1.1.220,1h").args(words);
        Daemon::start(command)
    }

    /// Switches a machine without a disk on.
    ///
    /// # Panics
    /// QEMU does not start.
    pub fn machine(&self, firmware: Firmware) -> Node {
        let mut command = self.command("qemu-system-x86_64");
        command.args(["-M", "q35", "-accel", "tcg,thread=multi,tb-size=1024", "-cpu", qemu::cpu(), "-smp", "1"]);
        command.args(["-m", "768", "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"]);
        command.args(["-netdev", "tap,id=net0,ifname=card,script=no,downscript=no"]);
        // An empty ROM file: OVMF's own driver and PXE, not the iPXE that is the card's.
        let rom = if firmware == Firmware::Bios { "" } else { ",romfile=" };
        command.arg("-device").arg(format!("virtio-net-pci,netdev=net0,mac=52:54:00:12:34:56,bootindex=1{rom}"));
        if firmware != Firmware::Bios {
            for (unit, file, how) in [(0, "CODE", "readonly=on"), (1, "VARS", "snapshot=on")] {
                let file = format!("/usr/share/OVMF/OVMF_{file}_4M.fd");
                command.arg("-drive").arg(format!("if=pflash,unit={unit},format=raw,{how},file={file}"));
            }
            command.args(["-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0"]);
        }
        if firmware == Firmware::UefiHttp {
            command.args(["-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n"]);
        }
        let mut qemu =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("QEMU starts: is it installed?");
        let (sender, console) = channel();
        lines::send(qemu.stdout.take().expect("it is piped"), sender);
        Node { qemu, console, seen: Vec::new() }
    }
}

impl Default for Site {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        ip(&["netns", "delete", &self.neighbour()]);
        ip(&["netns", "delete", &self.name]);
    }
}

fn ip(words: &[&str]) -> ExitStatus {
    Command::new("ip").args(words).status().expect("ip starts: is iproute2 installed?")
}

fn inside(namespace: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("ip");
    // It becomes the program, so that a signal reaches that.
    command.args(["netns", "exec", namespace]).arg(program);
    command
}

/// `thimble serve --json`.
#[derive(Debug)]
pub struct Serve {
    process: Child,
    lines: Receiver<String>,
    events: Vec<Value>,
}

impl Serve {
    /// Starts the command and waits until it listens.
    ///
    /// # Panics
    /// It does not.
    pub fn start(mut command: Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().expect("thimble starts");
        let (sender, lines) = channel();
        lines::send(process.stdout.take().expect("it is piped"), sender);
        let mut serve = Self { process, lines, events: Vec::new() };
        let serving = serve.wait("it listens", |event| event["event"] == "serving");
        assert!(serving["at"].is_string());
        serve
    }

    /// Waits for an event, those of before included.
    ///
    /// # Panics
    /// It does not come soon.
    pub fn wait(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        if let Some(event) = self.events.iter().find(|event| wanted(event)) {
            return event.clone();
        }
        let deadline = Instant::now() + SOON;
        while let Ok(line) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            let event: Value = serde_json::from_str(&line).expect("an object a line");
            self.events.push(event.clone());
            if wanted(&event) {
                return event;
            }
        }
        panic!("{what}: no such event; there were {:#?}", self.events);
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The most memory that it ever had, in bytes.
    ///
    /// # Panics
    /// It has ended.
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).expect("it runs");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel says it");
        peak.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") << 10
    }

    /// Interrupts it, and gives every event that there was.
    ///
    /// # Panics
    /// It does not end soon, or not cleanly.
    pub fn end(mut self) -> Vec<Value> {
        kill(Pid::from_raw(self.id().cast_signed()), Signal::SIGINT).expect("it runs");
        let deadline = Instant::now() + SOON;
        let status = loop {
            if let Some(status) = self.process.try_wait().expect("it is ours") {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        };
        assert!(status.success(), "{status}");
        let rest: Vec<String> = self.lines.iter().collect();
        self.events.extend(rest.iter().map(|line| serde_json::from_str::<Value>(line).expect("an object a line")));
        std::mem::take(&mut self.events)
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Somebody else's server.
#[derive(Debug)]
pub struct Daemon {
    process: Child,
    said: Receiver<String>,
}

impl Daemon {
    /// Starts it.
    ///
    /// # Panics
    /// It is not installed.
    pub fn start(mut command: Command) -> Self {
        let mut process = command.stderr(Stdio::piped()).spawn().expect("it starts: see scripts/setup");
        let (sender, said) = channel();
        lines::send(process.stderr.take().expect("it is piped"), sender);
        Self { process, said }
    }

    /// Waits until it says something like this; what it says until then is taken.
    ///
    /// # Panics
    /// It does not within `limit`.
    pub fn wait(&self, pattern: &str, limit: Duration) {
        let (pattern, deadline) = (Regex::new(pattern).expect("a pattern"), Instant::now() + limit);
        let mut seen = Vec::new();
        while let Ok(line) = self.said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if pattern.is_match(&line) {
                return;
            }
            seen.push(line);
        }
        panic!("no line matched {pattern}: {seen:#?}");
    }

    /// What it said so far.
    pub fn said(&self) -> Vec<String> {
        self.said.try_iter().collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A machine that boots from the network; it is switched off with the value.
#[derive(Debug)]
pub struct Node {
    qemu: Child,
    console: Receiver<String>,
    seen: Vec<String>,
}

impl Node {
    /// Waits until each pattern has had its line, in any order.
    ///
    /// # Panics
    /// One does not come within `limit`: with the end of the console.
    pub fn wait_all(&mut self, patterns: &[&str], limit: Duration) {
        let mut missing: Vec<Regex> = patterns.iter().map(|text| Regex::new(text).expect("a pattern")).collect();
        missing.retain(|pattern| !self.seen.iter().any(|line| pattern.is_match(line)));
        let deadline = Instant::now() + limit;
        while !missing.is_empty() {
            let Ok(line) = self.console.recv_timeout(deadline.saturating_duration_since(Instant::now())) else {
                let tail = self.seen[self.seen.len().saturating_sub(SHOWN_LINES)..].join("\n");
                panic!("no line matched {missing:?}; the console's last lines:\n{tail}");
            };
            missing.retain(|pattern| !pattern.is_match(&line));
            self.seen.push(line);
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}
