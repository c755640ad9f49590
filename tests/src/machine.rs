//! One machine under `thimble run`, or of QEMU's alone.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use regex::Regex;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::thimble::{repository, thimble};
use crate::{lines, qemu, qmp, stall};

/// How long a machine may be silent before it is asked whether it stands still.
const SILENCE: Duration = Duration::from_secs(45);
/// How long a machine may take to let a device go.
const UNPLUG_LIMIT: Duration = Duration::from_secs(60);
/// How many lines of the host a failed test shows, and how many of each guest, whose lines begin with its name in brackets.
const SHOWN_LINES: usize = 50;
const SHOWN_GUEST_LINES: usize = 3;

/// What to boot, and how.
#[derive(Clone, Debug)]
pub struct Boot<'a> {
    /// The output directory of `thimble build`.
    pub artefacts: &'a Path,
    /// What `thimble run --boot` takes.
    pub by: &'a str,
    /// Forwarded ports: ours, and what `thimble run` is told (`web1:80`).
    pub forward: &'a [(u16, &'a str)],
    /// Words for the host's kernel command line; only `direct` and `nfs` take them.
    pub append: &'a str,
    /// More arguments of `thimble run`. Unless they say otherwise the machine has one processor: two that are emulated wait
    /// for each other more than they work where the tests run two machines at once on as many.
    pub more: &'a [&'a str],
}

impl<'a> Boot<'a> {
    /// Those artefacts, booted in that way, and nothing besides.
    pub fn new(artefacts: &'a Path, by: &'a str) -> Self {
        Self { artefacts, by, forward: &[], append: "", more: &[] }
    }
}

/// A machine that runs; it is ended with the value.
pub struct Machine {
    process: Child,
    input: Option<ChildStdin>,
    console: Receiver<String>,
    seen: Vec<String>,
    directory: TempDir,
    ended: bool,
}

impl Machine {
    /// Starts a machine under `thimble run`.
    pub fn boot(boot: &Boot<'_>) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut command = thimble();
        command.arg("run").arg(boot.artefacts).args(["--boot", boot.by]);
        command.arg("--qmp").arg(directory.path().join("qmp"));
        for (port, to) in boot.forward {
            command.arg("--forward").arg(format!("{port}:{to}"));
        }
        if !boot.append.is_empty() {
            command.arg("--append").arg(boot.append);
        }
        if !boot.more.contains(&"--cpus") {
            command.args(["--cpus", "1"]);
        }
        command.args(boot.more);
        Self::start(command, directory)
    }

    /// Starts a machine of QEMU's by itself, with more arguments: what `thimble run` has no words for. It boots directly
    /// what is in `netboot` of `artefacts`.
    ///
    /// # Panics
    /// QEMU does not start.
    pub fn of_qemu(artefacts: &Path, append: &str, more: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-no-user-config", "-nodefaults", "-display", "none", "-no-reboot", "-M", "q35", "-m", "768"]);
        // One processor, as in `Boot::more`.
        command.args(["-accel", "tcg,thread=multi,tb-size=1024", "-cpu", qemu::cpu(), "-smp", "1"]);
        command.args(["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]);
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", directory.path().join("qmp").display()));
        command.arg("-kernel").arg(artefacts.join("netboot/vmlinuz"));
        command.arg("-initrd").arg(artefacts.join("netboot/initrd"));
        command.arg("-append").arg(format!("console=ttyS0 quiet panic=-1 {append}")).args(more);
        Self::start(command, directory)
    }

    fn start(mut command: Command, directory: TempDir) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("it starts: see scripts/setup");
        let (sender, console) = channel();
        let stdout: Box<dyn Read + Send> = Box::new(process.stdout.take().expect("it is piped"));
        let stderr: Box<dyn Read + Send> = Box::new(process.stderr.take().expect("it is piped"));
        for pipe in [stdout, stderr] {
            lines::send(pipe, sender.clone());
        }
        let input = process.stdin.take();
        Self { process, input, console, seen: Vec::new(), directory, ended: false }
    }

    /// Waits for a line that matches, from where the last wait ended, and gives it.
    ///
    /// # Panics
    /// It does not come within `limit`, or the machine ends before: with the end of the console.
    pub fn wait(&mut self, pattern: &str, limit: Duration) -> String {
        self.wait_all(&[pattern], limit).remove(0)
    }

    /// Waits until each pattern has had its line, in any order, and gives the lines in the order of the patterns.
    ///
    /// # Panics
    /// As [`Machine::wait`].
    pub fn wait_all(&mut self, patterns: &[&str], limit: Duration) -> Vec<String> {
        let expressions: Vec<Regex> = patterns.iter().map(|text| Regex::new(text).expect("a pattern")).collect();
        let mut found: Vec<Option<String>> = vec![None; patterns.len()];
        let deadline = Instant::now() + limit;
        while found.iter().any(Option::is_none) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.console.recv_timeout(left.min(SILENCE)) {
                // One that hangs in the emulator is not waited for.
                Err(RecvTimeoutError::Timeout) if left > SILENCE && stall::note(&self.qmp_socket()).is_empty() => {}
                Ok(line) => {
                    for (expression, found) in expressions.iter().zip(&mut found) {
                        if found.is_none() && expression.is_match(&line) {
                            *found = Some(line.clone());
                        }
                    }
                    self.seen.push(line);
                }
                Err(error) => {
                    let missing: Vec<&str> =
                        patterns.iter().zip(&found).filter(|(_, line)| line.is_none()).map(|(text, _)| *text).collect();
                    let why = if error == RecvTimeoutError::Timeout { "in time" } else { "before the machine ended" };
                    panic!("no line matched {missing:?} {why}; the console's last lines:\n{}", self.tail());
                }
            }
        }
        found.into_iter().flatten().collect()
    }

    /// All lines that were read so far.
    pub fn seen(&self) -> &[String] {
        &self.seen
    }

    /// Types a line on the console.
    pub fn type_line(&mut self, line: &str) {
        let input = self.input.as_mut().expect("the machine runs");
        writeln!(input, "{line}").and_then(|()| input.flush()).expect("thimble reads its input");
    }

    /// Asks a guest's VMM by PID 1, whose console takes commands, and gives what it answers: `verb` is `status` or
    /// `stats`.
    ///
    /// # Panics
    /// As [`Machine::wait`]; the answer is no JSON.
    pub fn ask(&mut self, guest: &str, verb: &str, limit: Duration) -> Value {
        let before = self.seen.len();
        self.type_line(&format!("ask {guest} {verb}"));
        self.wait("^}$", limit);
        // Between its lines there may be others, which do not begin like them.
        let answer = self.seen[before..].iter().filter(|line| *line == "{" || *line == "}" || line.starts_with("  "));
        let text: String = answer.map(String::as_str).collect();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Runs a QMP command.
    pub fn qmp(&self, command: &str, arguments: Value) -> Value {
        qmp::execute(&self.qmp_socket(), command, arguments).expect("QEMU obeys")
    }

    /// Pulls a device out of its slot, and waits until it is gone: QEMU asks the machine for it.
    ///
    /// # Panics
    /// The machine does not let it go.
    pub fn unplug(&self, id: &str) {
        self.qmp("device_del", json!({ "id": id }));
        let began = Instant::now();
        let is_there = || {
            let Value::Array(devices) = self.qmp("qom-list", json!({ "path": "/machine/peripheral" })) else {
                return false;
            };
            devices.iter().any(|device| device["name"] == id)
        };
        while is_there() {
            assert!(began.elapsed() < UNPLUG_LIMIT, "the machine does not let {id} go");
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Presses Ctrl-Alt-Del on the machine's keyboard.
    pub fn press_ctrl_alt_del(&self) {
        let keys: Vec<Value> =
            ["ctrl", "alt", "delete"].iter().map(|key| json!({ "type": "qcode", "data": key })).collect();
        self.qmp("send-key", json!({ "keys": keys }));
    }

    /// Presses the power button.
    pub fn press_power_button(&self) {
        self.qmp("system_powerdown", json!({}));
    }

    /// Cuts the power: QEMU is gone the next moment, and with it whatever it had not written.
    ///
    /// # Panics
    /// There is no QEMU to kill.
    pub fn cut_power(&mut self) {
        let thimble = self.process.id();
        let tasks = fs::read_dir(format!("/proc/{thimble}/task")).expect("thimble runs");
        let children: String = tasks
            .flatten()
            .map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default() + " ")
            .collect();
        let is_qemu = |pid: &&str| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("qemu-system"))
        };
        let qemu = children.split_ascii_whitespace().find(is_qemu).expect("QEMU runs");
        kill(Pid::from_raw(qemu.parse().expect("a number")), Signal::SIGKILL).expect("it is there");
        self.end(Duration::from_secs(30));
    }

    /// What Ctrl-C does to `thimble run`.
    pub fn interrupt(&self) {
        kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGINT).expect("thimble runs");
    }

    /// Waits for the end of `thimble run`.
    ///
    /// # Panics
    /// It does not end within `limit`.
    pub fn end(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            while let Ok(line) = self.console.try_recv() {
                self.seen.push(line);
            }
            if let Some(status) = self.process.try_wait().expect("it is our child") {
                self.ended = true;
                while let Ok(line) = self.console.recv_timeout(Duration::from_secs(1)) {
                    self.seen.push(line);
                }
                return status;
            }
            assert!(Instant::now() < deadline, "the machine does not end; its last lines:\n{}", self.tail());
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn qmp_socket(&self) -> PathBuf {
        self.directory.path().join("qmp")
    }

    /// What a failed test shows: the end of the console, and where all of it is.
    fn tail(&self) -> String {
        let mut shown = Vec::new();
        let mut left: BTreeMap<&str, usize> = BTreeMap::new();
        for line in self.seen.iter().rev() {
            let guest = line.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or("", |(name, _)| name);
            // The kernel's lines have a time there.
            let guest = if guest.contains('.') { "" } else { guest };
            let left = left.entry(guest).or_insert(if guest.is_empty() { SHOWN_LINES } else { SHOWN_GUEST_LINES });
            if *left > 0 {
                *left -= 1;
                shown.push(line.as_str());
            }
        }
        shown.reverse();
        let socket = self.qmp_socket();
        format!("{}\n{}\n{}", shown.join("\n"), stall::places(&socket), stall::note(&socket))
    }

    /// Writes all lines to a file that stays, and says where.
    fn keep_console(&mut self) {
        while let Ok(line) = self.console.try_recv() {
            self.seen.push(line);
        }
        let directory = repository().join("target/consoles");
        let name = thread::current().name().unwrap_or("test").to_owned();
        let file = directory.join(format!("{name}-{}.log", self.process.id()));
        match fs::create_dir_all(&directory).and_then(|()| fs::write(&file, self.seen.join("\n"))) {
            Ok(()) => eprintln!("the whole console: {}", file.display()),
            Err(error) => eprintln!("the console cannot be kept: {error}"),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if thread::panicking() {
            self.keep_console();
        }
        if !self.ended {
            // SIGTERM lets thimble end its QEMU and remove its files.
            let _ = kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGTERM);
            let deadline = Instant::now() + Duration::from_secs(10);
            while matches!(self.process.try_wait(), Ok(None)) {
                if Instant::now() >= deadline {
                    let _ = self.process.kill();
                }
                thread::sleep(Duration::from_millis(50));
            }
        }
    }
}
