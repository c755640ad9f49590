//! The jail, layer by layer: what a jailed VMM has left, and what becomes of an attacker inside. As root; on `/dev/kvm`
//! runs a guest of a few bytes.

// Helpers of tests are tests too; clippy knows it only of functions marked so.
#![allow(clippy::unwrap_used)]
// What an attacker calls is a table of system calls with numbers, null or C strings that live: none of them touches our
// memory, and saying so at each would hide the table.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use tempfile::TempDir;
use thimble_spec::console::SENTENCE_MAX;
use thimble_spec::vmm::{Exit, ExitReason, GuestConfig, Jail, Vsock};
use thimble_vmm::jail;
use thimble_vmm::jail::seccomp::{Devices, Duty, Filters};
use thimble_vmm::{Given, minder};

/// A guest with one of each.
const ALL: Devices = Devices { disk: true, net: true, vsock: true };
/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// User and group of the jail.
const ID: u32 = 61_234;
const JAIL: Jail = Jail { uid: ID, gid: ID, cgroup: None };

/// A kernel: an ELF file with a PVH note that is entered at its 32-bit code, says `up` on the console and halts, or
/// powers off.
fn kernel(powers_off: bool) -> Vec<u8> {
    const CODE_AT: u64 = 0x1000;
    const LOADED_AT: u64 = 0x10_0000;
    const NOTE_AT: u64 = 64 + 2 * 56;
    let mut code: Vec<u8> = Vec::new();
    for byte in *b"up\n" {
        // mov dx, 0x3f8; mov al, byte; out dx, al
        code.extend([0x66, 0xba, 0xf8, 0x03, 0xb0, byte, 0xee]);
    }
    if powers_off {
        // mov dx, 0x604; mov ax, 0x3400; out dx, ax
        code.extend([0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0x00, 0x34, 0x66, 0xef]);
    }
    // hlt; jmp $-1
    code.extend([0xf4, 0xeb, 0xfd]);

    let mut file = Vec::new();
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    let words = |file: &mut Vec<u8>, values: &[(u64, usize)]| {
        values.iter().for_each(|(value, bytes)| file.extend(&value.to_le_bytes()[..*bytes]));
    };
    // e_type, e_machine, e_version, e_entry, e_phoff, e_shoff, e_flags, e_ehsize, e_phentsize, e_phnum, and no sections
    words(&mut file, &[(2, 2), (62, 2), (1, 4), (LOADED_AT, 8), (64, 8), (0, 8), (0, 4), (64, 2), (56, 2), (2, 2)]);
    words(&mut file, &[(0, 2), (0, 2), (0, 2)]);
    // p_type, p_flags, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align
    let size = code.len() as u64;
    words(&mut file, &[(1, 4), (7, 4), (CODE_AT, 8), (LOADED_AT, 8), (LOADED_AT, 8), (size, 8), (size, 8), (4096, 8)]);
    words(&mut file, &[(4, 4), (4, 4), (NOTE_AT, 8), (0, 8), (0, 8), (20, 8), (20, 8), (4, 8)]);
    // A note of type 18, XEN_ELFNOTE_PHYS32_ENTRY, by "Xen".
    words(&mut file, &[(4, 4), (4, 4), (18, 4)]);
    file.extend(b"Xen\0");
    words(&mut file, &[(LOADED_AT, 4)]);
    file.resize(CODE_AT as usize, 0);
    file.extend(code);
    file
}

/// A guest whose files are in `directory`.
fn config(directory: &Path, powers_off: bool, jail: Option<Jail>) -> GuestConfig {
    let path = |name: &str| directory.join(name);
    fs::write(path("kernel"), kernel(powers_off)).unwrap();
    fs::write(path("disk"), vec![0; 4096]).unwrap();
    GuestConfig {
        name: "web1".to_owned(),
        vcpus: 1,
        memory_mib: 16,
        kernel: path("kernel"),
        cmdline: String::new(),
        disks: vec![thimble_spec::vmm::Disk { path: path("disk"), ..Default::default() }],
        jail,
        ..GuestConfig::default()
    }
}

/// Waits until the guest whose VMM listens at `control` runs.
fn wait_until_up(control: &Path) {
    let stream = wait_for("the control socket", || UnixStream::connect(control).ok());
    (&mut &stream).write_line(r#"{"v":1,"verb":"console"}"#);
    let mut lines = BufReader::new(stream).lines();
    let answer = lines.next().unwrap();
    assert!(
        answer.as_ref().is_ok_and(|line| line.contains("ok")),
        "{answer:?}: {}",
        fs::read_to_string(control.with_file_name("log")).unwrap_or_default()
    );
    assert_eq!(lines.next().unwrap().unwrap(), "up");
}

/// The only child of a process.
fn child_of(minder: Pid) -> Pid {
    let children = fs::read_to_string(format!("/proc/{minder}/task/{minder}/children")).unwrap();
    Pid::from_raw(children.trim().parse().unwrap())
}

/// A VMM that runs, started as the node daemon would start it.
struct Vmm {
    minder: Child,
    directory: TempDir,
}

impl Vmm {
    fn start(powers_off: bool, jail: bool) -> Self {
        Self::start_on(None, powers_off, jail)
    }

    /// Starts one whose console is on `terminal` and that has a socket device; or nowhere, and none.
    fn start_on(terminal: Option<&OwnedFd>, powers_off: bool, jail: bool) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests need root");
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let mut config = config(directory.path(), powers_off, jail.then_some(JAIL));
        config.vsock = terminal.map(|_| Vsock { cid: 3, path: path("vsock") });
        fs::write(path("config.json"), serde_json::to_vec(&config).unwrap()).unwrap();
        let stream = || terminal.map_or_else(Stdio::null, |terminal| terminal.try_clone().unwrap().into());
        let minder = Command::new(env!("CARGO_BIN_EXE_thimble-vmm"))
            .arg("--config")
            .arg(path("config.json"))
            .arg("--control")
            .arg(path("control.sock"))
            .arg("--exit-file")
            .arg(path("exit.json"))
            .args(["--console", if terminal.is_some() { "stdio" } else { "none" }])
            .stdin(stream())
            .stdout(stream())
            .stderr(fs::File::create(path("log")).unwrap())
            .spawn()
            .unwrap();
        Self { minder, directory }
    }

    /// Starts one and waits until its guest runs.
    fn running(jail: bool) -> Self {
        let vmm = Self::start(false, jail);
        wait_until_up(&vmm.path("control.sock"));
        vmm
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    /// The process in the jail.
    fn inside(&self) -> Pid {
        child_of(Pid::from_raw(self.minder.id().cast_signed()))
    }

    fn end(&mut self) -> (ExitStatus, Option<Exit>) {
        let status = wait_for("the end", || self.minder.try_wait().unwrap());
        let exit = fs::read(self.path("exit.json")).ok().map(|json| serde_json::from_slice(&json).unwrap());
        (status, exit)
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        let _ = self.minder.kill();
        let _ = self.minder.wait();
    }
}

trait WriteLine {
    fn write_line(&mut self, line: &str);
}

impl WriteLine for &UnixStream {
    fn write_line(&mut self, line: &str) {
        std::io::Write::write_all(self, format!("{line}\n").as_bytes()).unwrap();
    }
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} does not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn gone(pid: Pid) -> bool {
    // One that nobody has waited for yet is gone too.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z ")) || kill(pid, None).is_err()
}

#[test]
fn nothing_of_the_host_is_left() {
    let vmm = Vmm::running(true);
    let inside = vmm.inside();
    let proc = PathBuf::from(format!("/proc/{inside}"));

    let threads: Vec<PathBuf> = fs::read_dir(proc.join("task")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(threads.len() >= 4, "main, vCPU, disk, entropy: {threads:?}");
    for thread in threads {
        // The main thread's comes last, when the guest runs already.
        wait_for("its filter", || {
            fs::read_to_string(thread.join("status")).unwrap().contains("Seccomp:\t2").then_some(())
        });
        let status = fs::read_to_string(thread.join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let id = ID.to_string();
        assert_eq!(field("Uid:"), [id.as_str(); 4].join(" "));
        assert_eq!(field("Gid:"), [id.as_str(); 4].join(" "));
        assert_eq!(field("Groups:"), "");
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            assert_eq!(u64::from_str_radix(&field(set), 16), Ok(0), "{set}");
        }
        assert_eq!((field("NoNewPrivs:").as_str(), field("Seccomp:").as_str()), ("1", "2"));
    }

    for namespace in ["mnt", "net", "ipc", "uts", "pid", "cgroup"] {
        let of = |proc: &Path| fs::read_link(proc.join("ns").join(namespace)).unwrap();
        assert_ne!(of(&proc), of(Path::new("/proc/self")), "{namespace}");
    }
    assert_eq!(fs::read_dir(proc.join("root")).unwrap().count(), 0, "its root is empty");
    let mounts = fs::read_to_string(proc.join("mountinfo")).unwrap();
    let root = mounts.lines().next().unwrap();
    assert!(mounts.lines().count() == 1 && root.contains("ro,nosuid,nodev,noexec"), "{mounts}");
    let limits = fs::read_to_string(proc.join("limits")).unwrap();
    assert!(
        limits.lines().any(|line| line.starts_with("Max core file size        0                    0")),
        "{limits}"
    );

    // One that is closed between the two calls, as the connection that just ended, is not open.
    let names = fs::read_dir(proc.join("fd")).unwrap().filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    let mut kinds = BTreeSet::new();
    for name in names {
        let name = name.to_string_lossy().into_owned();
        kinds.insert(name.split(['[', ':', '-']).next().unwrap_or_default().to_owned());
    }
    let file = |name: &str| vmm.path(name).to_string_lossy().into_owned();
    let expected = ["anon_inode", "pipe", "socket", "/dev/null", "/dev/kvm", &file("disk")];
    assert!(kinds.contains("anon_inode"), "what is open was seen: {kinds:?}");
    for kind in &kinds {
        let known = expected.contains(&kind.as_str()) || file("disk").starts_with(kind.as_str());
        assert!(known, "{kind} is open in the jail: {kinds:?}");
    }
}

#[test]
fn a_guest_in_jail_ends_as_any_other() {
    for jail in [true, false] {
        let mut vmm = Vmm::start(true, jail);
        let (status, exit) = vmm.end();
        assert_eq!((status.code(), exit.unwrap().reason), (Some(0), ExitReason::PowerOff), "{}", vmm.log());
        assert!(!vmm.path("control.sock").exists());
    }
}

#[test]
fn a_minder_has_little_left_and_can_do_its_work_with_it() {
    // Given a minder that copies a console between a terminal and its VMM,
    let terminal = nix::pty::openpty(None, None).unwrap();
    let before = nix::sys::termios::tcgetattr(&terminal.slave).unwrap();
    let mut vmm = Vmm::start_on(Some(&terminal.slave), false, true);
    wait_until_up(&vmm.path("control.sock"));
    assert!(vmm.path("vsock").exists());
    let minder = vmm.minder.id();
    // then each of its threads has two capabilities and no way to more,
    let threads: Vec<_> = fs::read_dir(format!("/proc/{minder}/task")).unwrap().map(|entry| entry.unwrap()).collect();
    assert_eq!(threads.len(), 3, "main, stdin, stdout");
    for thread in threads {
        let status = || fs::read_to_string(thread.path().join("status")).unwrap();
        wait_for("its filter", || status().contains("Seccomp:\t2").then_some(()));
        for line in
            ["CapPrm:\t0000000000000022", "CapEff:\t0000000000000022", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"]
        {
            assert!(status().contains(line), "{line}: {}", status());
        }
    }
    // the console is on the terminal,
    let mut shown = [0; 16];
    let count = nix::unistd::read(&terminal.master, &mut shown).unwrap();
    assert!(shown[..count].starts_with(b"up"), "{shown:?}");
    // its keys end the guest, whose VMM is another user's,
    nix::unistd::write(&terminal.master, b"\x01x").unwrap();
    let (status, exit) = vmm.end();
    assert_eq!((status.code(), exit.unwrap().reason), (Some(12), ExitReason::Killed), "{}", vmm.log());
    // and the terminal is as it was, and no socket is left.
    assert_eq!(nix::sys::termios::tcgetattr(&terminal.slave).unwrap(), before);
    assert!(!vmm.path("control.sock").exists() && !vmm.path("vsock").exists());
}

#[test]
fn a_minder_that_should_be_taken_over_can_start_nothing() {
    for (name, attempt) in [
        FORBIDDEN_TO_ALL.as_slice(),
        &[
            ("kill another", || unsafe { libc::kill(1, 0) }.into()),
            ("type into its terminal", || unsafe { libc::ioctl(0, libc::TIOCSTI, c"x".as_ptr()) }.into()),
            ("an Internet socket", || unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) }.into()),
            ("come into a namespace", || unsafe { libc::setns(0, 0) }.into()),
            ("reboot", || unsafe { libc::syscall(libc::SYS_reboot, 0, 0, 0, 0) }),
        ],
    ]
    .concat()
    {
        let outcome = attack(bind_minder, attempt);
        // It leaves files behind.
        let expected = if name == "open" { Ok(0) } else { Err(Signal::SIGSYS) };
        assert_eq!(outcome, expected, "{name}");
    }
    let kill_vmm = || unsafe { libc::kill(libc::getpid(), 0) }.into();
    assert_eq!(attack(bind_minder, kill_vmm), Ok(0), "it may end its VMM");
}

/// Binds this process as a minder; it is its own VMM.
fn bind_minder() {
    nix::sys::prctl::set_no_new_privs().unwrap();
    jail::seccomp::bind_minder(nix::unistd::getpid()).unwrap();
}

#[test]
fn a_vmm_that_dies_without_a_word_is_told_by_its_signal() {
    for (signal, words) in [
        (Signal::SIGKILL, "killed"),
        (Signal::SIGSYS, "a system call that its filter refuses"),
        (Signal::SIGABRT, "ended by SIGABRT"),
    ] {
        // In a pid namespace of its own only SIGKILL reaches it from outside; the others come from its own kernel.
        let mut vmm = Vmm::running(signal == Signal::SIGKILL);
        kill(vmm.inside(), signal).unwrap();
        let (status, exit) = vmm.end();
        let ExitReason::Error(sentence) = exit.unwrap().reason else { panic!("{signal}") };
        assert!(sentence.contains(words) && vmm.log().contains(words), "{sentence}");
        assert_eq!(status.code(), Some(1));
        assert!(!vmm.path("control.sock").exists());
    }
}

#[test]
fn a_vmm_does_not_outlive_its_minder() {
    for jail in [true, false] {
        let mut vmm = Vmm::running(jail);
        let inside = vmm.inside();
        vmm.minder.kill().unwrap();
        wait_for("its end", || gone(inside).then_some(()));
    }
}

#[test]
fn a_vmm_sees_its_minder_die_where_no_signal_tells_it() {
    let directory = tempfile::tempdir().unwrap();
    let control = directory.path().join("control.sock");
    let config = config(directory.path(), false, None);
    // SAFETY: see `attack`.
    let minder = match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let deaf = |config: &GuestConfig, given| {
                // As the kernel does when its user changes (prctl(2)).
                assert_eq!(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, 0, 0, 0, 0) }, 0);
                thimble_vmm::run(config, given)
            };
            minder::start_as(deaf, &config, minder::Start { control: Some(&control), ..Default::default() })
                .unwrap()
                .wait();
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => child,
    };
    wait_until_up(&control);
    let inside = child_of(minder);
    kill(minder, Signal::SIGKILL).unwrap();
    waitpid(minder, None).unwrap();
    let killed = Instant::now();
    wait_for("its end", || gone(inside).then_some(()));
    assert!(killed.elapsed() < Duration::from_secs(1), "{:?}", killed.elapsed());
}

#[test]
fn signals_reach_the_guest() {
    let mut vmm = Vmm::running(true);
    kill(Pid::from_raw(vmm.minder.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(vmm.end().1.unwrap().reason, ExitReason::Killed);
}

/// How a minder sees the end of `vmm`, which stands in the VMM's place in a jail that it has yet to enter.
fn minded(vmm: impl FnOnce(&GuestConfig, Given) -> Exit) -> Exit {
    minded_after(vmm, |_| ())
}

/// [`minded`], after the minder that has started it did something else.
fn minded_after(vmm: impl FnOnce(&GuestConfig, Given) -> Exit, first: impl FnOnce(&minder::Minder)) -> Exit {
    let (mut told, tell) = std::io::pipe().unwrap();
    // SAFETY: see `attack`.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            drop(told);
            let config = GuestConfig { jail: Some(JAIL), ..GuestConfig::default() };
            let minder = minder::start_as(vmm, &config, minder::Start::default()).unwrap();
            first(&minder);
            let exit = minder.wait();
            serde_json::to_writer(tell, &exit).unwrap();
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            drop(tell);
            let mut text = String::new();
            std::io::Read::read_to_string(&mut told, &mut text).unwrap();
            assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
            serde_json::from_str(&text).unwrap()
        }
    }
}

/// [`minded`] by a minder whose standard streams are its terminal, where it might type commands.
fn minded_on_a_terminal(vmm: fn(&GuestConfig, Given) -> Exit) -> (Exit, String) {
    let (mut told, tell) = std::io::pipe().unwrap();
    let terminal = nix::pty::openpty(None, None).unwrap();
    // SAFETY: see `attack`.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            nix::unistd::setsid().unwrap();
            assert_eq!(unsafe { libc::ioctl(terminal.slave.as_raw_fd(), libc::TIOCSCTTY, 0) }, 0);
            (0..3).for_each(|fd| assert_eq!(unsafe { libc::dup2(terminal.slave.as_raw_fd(), fd) }, fd));
            let exit = minded(vmm);
            serde_json::to_writer(tell, &exit).unwrap();
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            drop((tell, terminal.slave));
            let mut text = String::new();
            std::io::Read::read_to_string(&mut told, &mut text).unwrap();
            assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
            // The end of a terminal that nobody holds is an error; what was shown there comes before.
            let mut shown = Vec::new();
            let _ = std::io::Read::read_to_end(&mut fs::File::from(terminal.master), &mut shown);
            (serde_json::from_str(&text).unwrap(), String::from_utf8(shown).unwrap())
        }
    }
}

#[test]
fn a_vmm_holds_nothing_of_its_minders_terminal() {
    let (exit, shown) = minded_on_a_terminal(|_, _| {
        let mut left = String::new();
        for fd in 0..3 {
            // As root, and before it is in its jail: still it can type nothing.
            if unsafe { libc::isatty(fd) != 0 || libc::ioctl(fd, libc::TIOCSTI, c"x".as_ptr()) == 0 } {
                left += &format!("{fd} is a terminal ");
            }
        }
        if fs::File::open("/dev/tty").is_ok() {
            left += "it has a terminal";
        }
        std::io::Write::write_all(&mut std::io::stdout(), b"nobody sees this\n").unwrap();
        std::io::Write::write_all(&mut std::io::stderr(), b"heard\x1b]0;title\x07\n").unwrap();
        forge(&left)
    });
    assert_eq!(exit.reason, ExitReason::Error(String::new()));
    assert_eq!(shown, "heard ]0;title\r\n");
}

#[test]
fn a_panic_is_told_as_such_from_under_each_filter() {
    // Whoever asks for a backtrace asks for files to be opened. It is asked for where there is one thread.
    if std::env::var("RUST_BACKTRACE").as_deref() != Ok("1") {
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", "a_panic_is_told_as_such_from_under_each_filter"]).env("RUST_BACKTRACE", "1");
        assert!(again.status().unwrap().success());
        return;
    }
    for duty in [Duty::Supervisor, Duty::Vcpu, Duty::Disk, Duty::Net, Duty::Vsock, Duty::Plain] {
        let exit = minded(|config, _| {
            jail::enter(config.jail.as_ref().unwrap(), config).unwrap();
            let filters = Filters::compile(ALL).unwrap();
            let name = format!("{duty:?}");
            let thread = std::thread::Builder::new().name(name).spawn(move || {
                filters.bind(duty);
                panic!("at the disk's\n{}th sector", 42);
            });
            let _ = thread.unwrap().join();
            forge("a thread panicked, and the VMM went on")
        });
        let ExitReason::Error(sentence) = exit.reason else { panic!("{exit:?}") };
        let begins = format!("thread {duty:?} panicked at vmm/tests/jail.rs:");
        assert!(sentence.starts_with(&begins), "{sentence}");
        assert!(sentence.ends_with("at the disk's 42th sector: this is a fault of the VMM"), "{sentence}");
    }
}

#[test]
fn many_threads_have_memory_under_their_filters() {
    let exit = minded(|config, _| {
        jail::enter(config.jail.as_ref().unwrap(), config).unwrap();
        let filters = &Filters::compile(ALL).unwrap();
        let all_here = &std::sync::Barrier::new(64);
        // Each has a heap of its own. The C library gives out so many, and then opens files to learn how many processors
        // there are: that must be over when a thread's own first line comes.
        std::thread::scope(|scope| {
            for index in 0..64 {
                let duty = [Duty::Vcpu, Duty::Disk, Duty::Net, Duty::Vsock, Duty::Plain][index % 5];
                scope.spawn(move || {
                    filters.bind(duty);
                    all_here.wait();
                    let memory = std::hint::black_box(vec![1_u8; 4000 + index]);
                    all_here.wait();
                    drop(memory);
                });
            }
        });
        forge("all of them")
    });
    assert_eq!(exit.reason, ExitReason::Error("all of them".to_owned()));
}

#[test]
fn the_main_threads_panic_is_told_too() {
    let exit = minded(|_, _| panic!("before the jail"));
    assert!(exit.reason.to_string().contains("before the jail: this is a fault"), "{exit:?}");
}

#[test]
fn a_vmm_that_does_not_end_when_it_is_told_to_is_killed() {
    let began = Instant::now();
    let stay = |_: &GuestConfig, given| {
        // A VMM that was taken over closes its pipes, takes no signal, and stays.
        drop(given);
        for fd in 0..64 {
            unsafe { libc::close(fd) };
        }
        loop {
            std::thread::sleep(PATIENCE);
        }
    };
    // Ctrl-A x
    let exit = minded_after(stay, |minder| minder.killer()());
    assert_eq!(exit.reason, ExitReason::Killed);
    assert!(began.elapsed() > Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn a_vmm_that_says_that_its_guest_ended_is_not_waited_for_and_does_not_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let alive = directory.path().join("alive");
    let began = Instant::now();
    let exit = minded(|_, given| {
        let mut minder = given.minder.unwrap();
        serde_json::to_writer(&minder, &Exit::new(ExitReason::PowerOff, 0.5)).unwrap();
        std::io::Write::write_all(&mut minder, b"\n").unwrap();
        loop {
            fs::write(&alive, format!("{:?}", Instant::now())).unwrap();
        }
    });
    assert_eq!(exit.reason, ExitReason::PowerOff);
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    wait_for("its end", || {
        let before = fs::read(&alive).ok();
        std::thread::sleep(Duration::from_millis(100));
        (before == fs::read(&alive).ok()).then_some(())
    });
}

fn forge(sentence: &str) -> Exit {
    Exit::new(ExitReason::Error(sentence.to_owned()), 0.0)
}

#[test]
fn a_sentence_of_a_hostile_vmm_stays_one_line() {
    let exit = minded(|_, _| forge("\n\x1b[2Jforged\r\u{9b}2K\u{202e}"));
    assert_eq!(exit.reason, ExitReason::Error("[2Jforged 2K".to_owned()));

    let ExitReason::Error(long) = minded(|_, _| forge(&"forged\n".repeat(8000))).reason else { panic!() };
    assert!(long.len() <= SENTENCE_MAX && !long.contains('\n'), "{long}");
    // One that says more than anybody reads is as one that says nothing, and keeps nobody waiting.
    let ExitReason::Error(more) = minded(|_, _| forge(&"x".repeat(1 << 20))).reason else { panic!() };
    assert_eq!(more, "the VMM ended with code 1 and without a word");
}

#[test]
fn root_is_no_user_for_a_jail() {
    let jail = Jail { uid: 0, gid: ID, cgroup: None };
    assert!(jail::enter(&jail, &GuestConfig::default()).unwrap_err().sentence().contains("cannot be user or group 0"));
}

/// What an attacker tries.
type Attempt = fn() -> i64;

/// Runs `attempt` in a process that has gone through `prepare`; says its signal, or what the attempt returned.
fn attack(prepare: impl FnOnce(), attempt: Attempt) -> Result<i32, Signal> {
    // SAFETY: the child calls only what a child of a process with several threads may, and the allocator, which the
    // C library keeps usable across fork(2).
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            prepare();
            let result = attempt();
            // SAFETY: both take numbers.
            let errno = unsafe { *libc::__errno_location() };
            let code = if result < 0 { errno } else { 0 };
            unsafe { libc::syscall(libc::SYS_exit_group, libc::c_long::from(code)) };
            unreachable!()
        }
        ForkResult::Parent { child } => match waitpid(child, None).unwrap() {
            WaitStatus::Exited(_, code) => Ok(code),
            WaitStatus::Signaled(_, signal, _) => Err(signal),
            other => panic!("{other:?}"),
        },
    }
}

fn enter() {
    if let Err(error) = jail::enter(&JAIL, &GuestConfig::default()) {
        eprintln!("{}", error.sentence());
        std::process::abort();
    }
}

/// Attempts and the errors that they end with.
const ATTEMPTS: [(&str, Attempt, i32); 12] = [
    ("open a file of the host", || unsafe { libc::open(c"/etc/passwd".as_ptr(), libc::O_RDONLY) }.into(), libc::ENOENT),
    ("open a device", || unsafe { libc::open(c"/dev/kvm".as_ptr(), libc::O_RDWR) }.into(), libc::ENOENT),
    ("make a file", || unsafe { libc::open(c"/x".as_ptr(), libc::O_CREAT | libc::O_RDWR, 0o600) }.into(), libc::EROFS),
    ("open its root", || unsafe { libc::open(c"/".as_ptr(), libc::O_RDONLY) }.into(), libc::EACCES),
    ("climb out", || unsafe { libc::open(c"/../../etc/passwd".as_ptr(), libc::O_RDONLY) }.into(), libc::ENOENT),
    ("become root", || unsafe { libc::setuid(0) }.into(), libc::EPERM),
    ("change its root", || unsafe { libc::chroot(c"/".as_ptr()) }.into(), libc::EPERM),
    (
        "mount",
        || unsafe { libc::mount(c"none".as_ptr(), c"/".as_ptr(), c"proc".as_ptr(), 0, std::ptr::null()) }.into(),
        libc::EPERM,
    ),
    ("kill the minder", || unsafe { libc::kill(libc::getppid().max(2), libc::SIGKILL) }.into(), libc::EPERM),
    ("find an interface", || unsafe { libc::if_nametoindex(c"eth0".as_ptr()) as i64 - 1 }, libc::ENODEV),
    ("open a raw socket", || unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) }.into(), libc::EPERM),
    (
        "run a program",
        || unsafe { libc::execl(c"/bin/sh".as_ptr(), c"sh".as_ptr(), std::ptr::null::<u8>()) }.into(),
        libc::ENOENT,
    ),
];

#[test]
fn an_attacker_inside_finds_every_door_shut() {
    for (name, attempt, errno) in ATTEMPTS {
        let outcome = attack(enter, attempt);
        let landlocked = errno == libc::EACCES && outcome == Ok(0);
        if landlocked && !has_landlock() {
            eprintln!("SKIPPED: {name}: this machine's kernel has no Landlock");
            continue;
        }
        // Landlock and the empty root both refuse; which of them is asked first is the kernel's affair.
        let refused = outcome == Ok(errno) || outcome == Ok(libc::EACCES);
        assert!(refused, "{name}: {outcome:?}");
    }
}

fn has_landlock() -> bool {
    // SAFETY: with these arguments the call only tells its version.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0, 1) > 0 }
}

/// Each duty, with what its filter must refuse besides what all of them refuse.
const FORBIDDEN: [(Duty, &[(&str, Attempt)]); 6] = [
    (Duty::Supervisor, &[("io_uring_enter", || unsafe { libc::syscall(libc::SYS_io_uring_enter, 0, 0, 0, 0, 0, 0) })]),
    (Duty::Vcpu, &[("accept4", || unsafe { libc::syscall(libc::SYS_accept4, 0, 0, 0, 0) })]),
    (Duty::Disk, &[("sendto", || unsafe { libc::syscall(libc::SYS_sendto, 0, 0, 0, 0, 0, 0) }), ("KVM_RUN", kvm_run)]),
    (Duty::Net, &[("pwritev", || unsafe { libc::syscall(libc::SYS_pwritev, 0, 0, 0, 0) }), ("KVM_RUN", kvm_run)]),
    (
        Duty::Vsock,
        &[
            ("an Internet socket", || unsafe { libc::syscall(libc::SYS_socket, libc::AF_INET, 1, 0) }),
            ("KVM_RUN", kvm_run),
        ],
    ),
    (Duty::Plain, &[("ioctl", kvm_run), ("pread64", || unsafe { libc::syscall(libc::SYS_pread64, 0, 0, 0, 0) })]),
];

fn kvm_run() -> i64 {
    // SAFETY: the call takes numbers.
    unsafe { libc::syscall(libc::SYS_ioctl, -1, 0xae80, 0) }
}

/// What no thread may do.
const FORBIDDEN_TO_ALL: [(&str, Attempt); 11] = [
    ("open", || unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, c"/".as_ptr(), 0) }),
    ("fork", || unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) }),
    ("clone3", || unsafe { libc::syscall(libc::SYS_clone3, 0, 0) }),
    ("execve", || unsafe { libc::syscall(libc::SYS_execve, 0, 0, 0) }),
    ("ptrace", || unsafe { libc::syscall(libc::SYS_ptrace, libc::PTRACE_ATTACH, 1, 0, 0) }),
    ("mount", || unsafe { libc::syscall(libc::SYS_mount, 0, 0, 0, 0, 0) }),
    ("setuid", || unsafe { libc::syscall(libc::SYS_setuid, 0) }),
    ("io_uring_setup", || unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, 0) }),
    ("bpf", || unsafe { libc::syscall(libc::SYS_bpf, 0, 0, 0) }),
    ("memory that can be executed", || unsafe {
        libc::syscall(libc::SYS_mmap, 0, 4096, libc::PROT_READ | libc::PROT_EXEC, libc::MAP_ANONYMOUS | 2, -1, 0)
    }),
    ("an ioctl that nobody needs", || unsafe { libc::syscall(libc::SYS_ioctl, 0, 0xdead_beefu32, 0) }),
];

#[test]
fn without_a_device_nobody_may_what_only_it_needs() {
    const NONE: Devices = Devices { disk: false, net: false, vsock: false };
    let tap: Attempt = || unsafe { libc::syscall(libc::SYS_ioctl, -1, 0x4004_54d0u32, 0) };
    let file: Attempt = || unsafe { libc::syscall(libc::SYS_pread64, -1, 0, 0, 0) };
    for (duty, attempt) in [(Duty::Supervisor, file), (Duty::Vcpu, file), (Duty::Vcpu, tap)] {
        let beside = |devices| {
            move || {
                // SAFETY: prctl with these takes numbers only.
                unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
                Filters::compile(devices).unwrap().bind(duty);
            }
        };
        assert_eq!(attack(beside(ALL), attempt), Ok(libc::EBADF), "{duty:?}");
        assert_eq!(attack(beside(NONE), attempt), Err(Signal::SIGSYS), "{duty:?}");
    }
    // A thread that nobody thought of does not run without a filter.
    for duty in [Duty::Disk, Duty::Net, Duty::Vsock] {
        let refused = Filters::compile(NONE).unwrap().apply(duty).unwrap_err().sentence();
        assert!(refused.contains(&format!("no thread was to be {duty:?}")), "{refused}");
    }
}

#[test]
fn each_filter_ends_a_thread_that_leaves_its_list() {
    for (duty, forbidden) in FORBIDDEN {
        let bind = || {
            // SAFETY: prctl with these takes numbers only. A filter needs it where there is no other privilege.
            unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
            Filters::compile(ALL).unwrap().bind(duty);
        };
        assert_eq!(attack(bind, || 0), Ok(0), "{duty:?}: what is allowed works");
        for (name, attempt) in forbidden.iter().chain(&FORBIDDEN_TO_ALL) {
            assert_eq!(attack(bind, *attempt), Err(Signal::SIGSYS), "{duty:?}: {name}");
        }
    }
}
