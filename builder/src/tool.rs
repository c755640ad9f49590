//! External programs: started in a process group of their own, watched, and ended when the user interrupts.

use std::collections::VecDeque;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::interrupt;

/// Programs (or, with a `/`, files) that Thimble needs, the Debian package that has each, and what for.
pub const PACKAGES: &[(&str, &str, &str)] = &[
    ("apt-get", "apt", "fetches packages"),
    ("apt-cache", "apt", "asks for packages"),
    ("dpkg-deb", "dpkg", "unpacks packages"),
    ("dpkg-source", "dpkg-dev", "unpacks source packages"),
    ("autoconf", "autoconf", "prepares programs of recipes to be compiled"),
    ("tar", "tar", "unpacks the kernel's source"),
    ("xz", "xz-utils", "unpacks the kernel's source"),
    ("make", "make", "compiles the guests' kernel"),
    ("gcc", "gcc", "compiles the guests' kernel"),
    ("/usr/include/stdio.h", "libc6-dev", "compiles the guests' kernel"),
    ("ld", "binutils", "compiles the guests' kernel"),
    ("gzip", "gzip", "packs what browsers are sent"),
    ("as", "binutils", "makes libraries of which only the names are there"),
    ("strip", "binutils", "takes symbols out of programs"),
    ("flex", "flex", "compiles the guests' kernel"),
    ("bison", "bison", "compiles the guests' kernel"),
    ("bc", "bc", "compiles the guests' kernel"),
    ("perl", "perl", "compiles the guests' kernel"),
    ("/usr/include/libelf.h", "libelf-dev", "compiles the guests' kernel"),
    ("mkfs.erofs", "erofs-utils", "packs images"),
    ("mksquashfs", "squashfs-tools", "packs images that are to be small"),
    ("mke2fs", "e2fsprogs", "makes the guests' disks"),
    ("grub-mkimage", "grub-common", "makes the boot loader"),
    ("xorriso", "xorriso", "makes ISO images"),
    ("osslsigncode", "osslsigncode", "signs unified kernel images for Secure Boot"),
    ("qemu-system-x86_64", "qemu-system-x86", "runs an appliance (thimble run)"),
    (
        "/usr/share/OVMF/OVMF_CODE_4M.fd",
        "ovmf",
        "runs an appliance by UEFI (thimble run --boot flash-uefi, and others)",
    ),
    ("/usr/lib/ipxe/qemu/efi-virtio.rom", "ipxe-qemu", "runs an appliance by PXE (thimble run --boot pxe-bios)"),
];

/// How many of a program's last lines an error tells.
const LAST_LINES: usize = 12;
/// Longest command that an error tells.
const COMMAND_MAX: usize = 160;
/// Time between two looks at whether the user interrupted.
const POLL: Duration = Duration::from_millis(100);
/// How long a program has to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(3);

/// Where administrators' programs are, which the users' `PATH` of some distributions leaves out.
const SYSTEM_DIRS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// A program with its arguments.
#[derive(Debug)]
pub struct Tool {
    program: String,
    args: Vec<OsString>,
    environment: Vec<(String, OsString)>,
    bare: bool,
    dir: Option<PathBuf>,
}

impl Tool {
    /// A program by name.
    pub fn new(program: &str) -> Self {
        Self { program: program.to_owned(), args: Vec::new(), environment: Vec::new(), bare: false, dir: None }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Leaves it nothing of the environment but `PATH`, `HOME` and `TMPDIR`: what it makes depends on nothing else.
    #[must_use]
    pub fn bare_environment(mut self) -> Self {
        self.bare = true;
        self
    }

    /// Directory to run in.
    #[must_use]
    pub fn dir(mut self, dir: &Path) -> Self {
        self.dir = Some(dir.to_owned());
        self
    }

    /// Runs it.
    ///
    /// # Errors
    /// It is not there, it fails, the user interrupts.
    pub fn run(&self, context: &Context) -> Result<()> {
        self.watch(context, |_| {})
    }

    /// Runs it and returns what it wrote to its standard output.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn output(&self, context: &Context) -> Result<Vec<u8>> {
        let mut output = Vec::new();
        self.execute(context, &mut |event| {
            if let Event::Output(bytes) = event {
                output.extend(bytes);
            }
        })?;
        Ok(output)
    }

    /// Runs it, and shows each line that it writes to its standard output while it runs.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn watch(&self, context: &Context, mut on_line: impl FnMut(&str)) -> Result<()> {
        self.execute(context, &mut |event| {
            if let Event::Output(bytes) = event {
                on_line(String::from_utf8_lossy(&bytes).trim_end());
            }
        })
    }

    fn execute(&self, context: &Context, on_event: &mut dyn FnMut(Event)) -> Result<()> {
        interrupt::check()?;
        let mut child = self.spawn()?;
        let events = read_pipes(&mut child);
        let log_path = context.cache.logs_dir().join(format!("{}-{}.log", self.program, child.id()));
        let mut log = File::create(&log_path).map_err(Error::io("write", &log_path))?;
        let mut last = VecDeque::new();
        loop {
            match events.recv_timeout(POLL) {
                Ok(event) => {
                    let (Event::Output(bytes) | Event::Message(bytes)) = &event;
                    // The log is a help, not a product: a full disk shows where it matters.
                    let _ = log.write_all(bytes);
                    if matches!(event, Event::Message(_)) {
                        if last.len() == LAST_LINES {
                            last.pop_front();
                        }
                        last.push_back(String::from_utf8_lossy(bytes).trim_end().to_owned());
                    }
                    on_event(event);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if interrupt::requested() {
                end(&mut child);
                let _ = std::fs::remove_file(&log_path);
                return Err(Error::Interrupted);
            }
        }
        let status = wait(&mut child).map_err(Error::io("wait for", &self.program))?;
        if status.success() {
            let _ = std::fs::remove_file(&log_path);
            return Ok(());
        }
        // Ctrl-C may have reached the child before us.
        interrupt::check()?;
        let said = last.into_iter().collect::<Vec<_>>().join("\n");
        Err(Error::Tool { command: self.command_text(), status: describe(status), said, log: Some(log_path) })
    }

    fn spawn(&self) -> Result<Child> {
        let path = find(&self.program).ok_or_else(|| missing(&self.program))?;
        let mut command = Command::new(path);
        if self.bare {
            command.env_clear();
            for name in ["PATH", "HOME", "TMPDIR"] {
                if let Some(value) = env::var_os(name) {
                    command.env(name, value);
                }
            }
        }
        command.env("LC_ALL", "C").envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command
            .args(&self.args)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(Error::io("start", &self.program))
    }

    fn command_text(&self) -> String {
        let words = std::iter::once(self.program.clone()).chain(self.args.iter().map(|arg| arg.display().to_string()));
        let text = words.collect::<Vec<_>>().join(" ");
        match text.char_indices().nth(COMMAND_MAX) {
            Some((end, _)) => format!("{} ...", &text[..end]),
            None => text,
        }
    }
}

/// A piece of what a program wrote.
enum Event {
    /// A line of its standard output.
    Output(Vec<u8>),
    /// A line of its standard error.
    Message(Vec<u8>),
}

fn read_pipes(child: &mut Child) -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel();
    if let Some(pipe) = child.stdout.take() {
        let sender = sender.clone();
        thread::spawn(move || read_lines(pipe, |line| sender.send(Event::Output(line)).is_ok()));
    }
    if let Some(pipe) = child.stderr.take() {
        thread::spawn(move || read_lines(pipe, |line| sender.send(Event::Message(line)).is_ok()));
    }
    receiver
}

fn read_lines(pipe: impl Read, mut send: impl FnMut(Vec<u8>) -> bool) {
    let mut reader = BufReader::new(pipe);
    loop {
        let mut line = Vec::new();
        match reader.read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                if !send(line) {
                    return;
                }
            }
        }
    }
}

/// Waits for a child that has closed its output; one that stays longer is ended when the user interrupts.
fn wait(child: &mut Child) -> io::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if interrupt::requested() {
            end(child);
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Ends a child and all that it started: politely, then not.
fn end(child: &mut Child) {
    let group = Pid::from_raw(child.id().cast_signed());
    let _ = killpg(group, Signal::SIGTERM);
    let deadline = Instant::now() + GRACE;
    while Instant::now() < deadline {
        if matches!(child.try_wait(), Ok(Some(_))) {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    // Not only the child: its own children may still be there.
    let _ = killpg(group, Signal::SIGKILL);
    let _ = child.wait();
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// The path of a program, or of a file if `name` is a path.
pub fn find(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Path::new(name).exists().then(|| name.into());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).chain(SYSTEM_DIRS.map(PathBuf::from)).map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// The error of a program that is not there.
pub fn missing(name: &str) -> Error {
    let sentence = match PACKAGES.iter().find(|(program, ..)| *program == name) {
        Some((_, package, why)) => format!("{name} is missing, which {why}: install the package {package}"),
        None => format!("{name} is missing: install the package that has it"),
    };
    Error::Environment(sentence)
}

/// Looks for programs before anything is started, and tells all that are missing at once.
///
/// # Errors
/// One is missing.
pub fn require(names: &[&str]) -> Result<()> {
    let missing: Vec<String> =
        names.iter().filter(|name| find(name).is_none()).map(|name| missing(name).to_string()).collect();
    if missing.is_empty() { Ok(()) } else { Err(Error::Environment(missing.join("\n"))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use crate::progress::Progress;

    fn context(dir: &Path) -> Context {
        Context { cache: Cache::open_at(dir).unwrap(), progress: Progress::quiet() }
    }

    #[test]
    fn output_and_failure_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(dir.path());
        assert_eq!(Tool::new("echo").arg("a b").output(&context).unwrap(), b"a b\n");
        let error = Tool::new("sh").args(["-c", "echo why >&2; exit 3"]).run(&context).unwrap_err();
        let Error::Tool { status, said, log: Some(log), .. } = error else { panic!("{error}") };
        assert_eq!((status.as_str(), said.as_str()), ("exit code 3", "why"));
        assert_eq!(std::fs::read(log).unwrap(), b"why\n");
    }

    #[test]
    fn the_set_up_installs_all_that_is_needed() {
        let setup = include_str!("../../scripts/setup");
        // Always there, or part of build-essential, which the set-up names.
        let given = ["apt", "dpkg", "dpkg-dev", "tar", "gzip", "make", "gcc", "libc6-dev"];
        for (program, package, _) in PACKAGES.iter().filter(|(_, package, _)| !given.contains(package)) {
            let named = setup.lines().any(|line| {
                line.split('#').next().is_some_and(|names| names.split_whitespace().any(|name| name == *package))
            });
            assert!(named, "scripts/setup does not install {package}, which has {program}");
        }
    }

    #[test]
    fn a_missing_program_names_its_package() {
        assert_eq!(
            missing("mkfs.erofs").to_string(),
            "mkfs.erofs is missing, which packs images: install the package erofs-utils"
        );
        let error = Tool::new("thimble-no-such-program");
        assert!(error.spawn().unwrap_err().to_string().contains("is missing"));
    }
}
