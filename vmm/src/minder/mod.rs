//! The process that starts a VMM, waits for it, and tells how it ended.
//!
//! ```text
//! minder ── fork, new pid namespace ──> VMM: opens what it needs, enters its jail, runs the guest
//!   │  <──────── a pipe: one line of JSON, an Exit ────────┤
//!   │  <──────── a pipe: its standard error ───────────────┘
//!   └─> exit file, exit code, the control socket's name removed
//! ```
//!
//! | file | what |
//! | --- | --- |
//! | `child` | the VMM's process, before and after it runs |
//! | `confine` | what the minder gives up meanwhile |
//! | `hearing` | what it says to its minder |
//!
//! A VMM in its jail sees no files: what is to be left behind, the minder writes. It holds nothing that a guest ever
//! touches, and believes of the VMM only a line of a known shape. A VMM that dies without that line, by a filter or a
//! lack of memory, is told by its signal. When the minder dies, however, its VMM dies with it (`PR_SET_PDEATHSIG`, and the
//! end of the pipe where a kernel forgot that one), so that whoever ends the one has ended the other.

mod child;
mod confine;
mod hearing;

use std::fs::File;
use std::io::{self, stderr};
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use thimble_spec::vmm::{Exit, ExitReason, GuestConfig};

use crate::control::socket::{self, Name, Socket};
use crate::error::{Error, Result};
use crate::{Given, run, supervisor};

use hearing::{Complaints, Report};

/// A VMM that was started.
#[derive(Debug)]
pub struct Minder {
    child: Pid,
    /// The same as a descriptor, readable when it is dead.
    process: OwnedFd,
    report: Report,
    complaints: Complaints,
    signals: SignalFd,
    started: Instant,
    /// The guest was asked to power off.
    asked: bool,
    /// When the VMM was told to end at once.
    told_to_end: Option<Instant>,
    /// Removed with the minder.
    _name: Option<Name>,
    /// Closed with the minder.
    _hold: Option<OwnedFd>,
    /// The VMM has a jail, and its minder a smaller one.
    jailed: bool,
    /// The socket device's, which the VMM leaves behind.
    vsock: Option<PathBuf>,
}

/// How long a VMM has to end by itself when it is told to end at once. One whose guest has taken it over may not care.
const OBEDIENCE: Duration = Duration::from_secs(5);

/// How a minder's duty ended.
#[derive(Clone, Debug, PartialEq)]
enum Minded {
    /// The VMM is dead.
    Dead,
    /// It had to be killed: it did not end when it was told to.
    Killed,
    /// It says that its guest came to this end, and has given back all that others may want: files, interfaces, memory.
    /// Its process goes on for as long as the kernel needs to forget a virtual machine.
    Done(Exit),
}

/// What a minder waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The VMM's end.
    Process,
    /// A signal for the VMM.
    Signals,
    /// The VMM's report.
    Report,
    /// The VMM's standard error.
    Complaints,
}

/// What a VMM is started with besides its guest's description.
#[derive(Debug, Default)]
pub struct Start<'a> {
    /// Where its control socket goes.
    pub control: Option<&'a Path>,
    /// A connection to show its console on.
    pub console: Option<UnixStream>,
    /// What stays open as long as the minder or anything of the guest is there.
    pub hold: Option<OwnedFd>,
}

/// Starts the VMM of the guest that `config` describes.
///
/// To be called while the process has one thread: the VMM is its copy.
///
/// # Errors
/// Somebody listens at `control`; the cgroup cannot be joined; the host gives no process.
pub fn start(config: &GuestConfig, with: Start<'_>) -> Result<Minder> {
    start_as(run, config, with)
}

/// [`start`] with another program in the VMM's place: tests put an attacker there.
///
/// # Errors
/// Those of [`start`].
pub fn start_as(
    vmm: impl FnOnce(&GuestConfig, Given) -> Exit,
    config: &GuestConfig,
    with: Start<'_>,
) -> Result<Minder> {
    let Start { control, console, hold } = with;
    let started = Instant::now();
    let (socket, name) = control.map(Socket::bind).transpose()?.unzip();
    let (report, out) = io::pipe().map_err(Error::host("make a pipe"))?;
    let (complaints, errors) = io::pipe().map_err(Error::host("make a pipe"))?;
    if let Some(cgroup) = config.jail.as_ref().and_then(|jail| jail.cgroup.as_ref()) {
        join(cgroup)?;
    }
    let signals = supervisor::take_signals()?;
    let pid = std::process::id();
    let home = config.jail.is_some().then(leave_pid_namespace).transpose()?;
    // SAFETY: there is one thread, so the child may do whatever its parent might.
    match unsafe { fork() }.map_err(Error::host("make the VMM's process"))? {
        ForkResult::Child => {
            drop((report, complaints, signals, home));
            // The name is the minder's to remove.
            if let Some(name) = name {
                name.leave();
            }
            let given = Given { control: socket, console, pid: Some(pid), minder: out.try_clone().ok(), hold };
            child::be_the_vmm(move || vmm(config, given), config.jail.is_some(), out, errors)
        }
        ForkResult::Parent { child } => {
            if let Some(home) = home {
                // Threads that are made from here on, the terminal's, belong where this process is.
                setns(home, CloneFlags::CLONE_NEWPID).map_err(Error::host("come back to its pid namespace"))?;
            }
            let confined = if config.jail.is_some() { confine::drop_capabilities() } else { Ok(()) };
            let process = match confined.and_then(|()| process_of(child)) {
                Ok(process) => process,
                Err(error) => {
                    let _ = kill(child, Signal::SIGKILL);
                    return Err(error);
                }
            };
            let vsock = config.vsock.as_ref().map(|vsock| vsock.path.clone());
            let (report, complaints) = (Report::new(report), Complaints::new(complaints));
            let jailed = config.jail.is_some();
            Ok(Minder {
                jailed,
                child,
                process,
                report,
                complaints,
                signals,
                started,
                asked: false,
                told_to_end: None,
                _name: name,
                _hold: hold,
                vsock,
            })
        }
    }
}

/// Joins a cgroup, so that what comes from here on is counted there.
fn join(cgroup: &Path) -> Result<()> {
    let path = cgroup.join("cgroup.procs");
    std::fs::write(&path, "0").map_err(|source| Error::File { action: "join the cgroup by", path, source })
}

/// A descriptor of a process (pidfd_open(2)).
fn process_of(child: Pid) -> Result<OwnedFd> {
    // SAFETY: the call takes numbers, and gives a descriptor that is nobody else's.
    unsafe {
        match libc::syscall(libc::SYS_pidfd_open, child.as_raw(), 0) {
            fd @ 0.. => Ok(OwnedFd::from_raw_fd(fd as RawFd)),
            _ => Err(Error::host("watch the VMM's process (Linux 5.3 can)")(io::Error::last_os_error())),
        }
    }
}

/// The next child begins a pid namespace; gives the way back.
fn leave_pid_namespace() -> Result<File> {
    let home = File::open("/proc/self/ns/pid").map_err(Error::host("find its pid namespace in /proc"))?;
    unshare(CloneFlags::CLONE_NEWPID).map_err(Error::jail("get a pid namespace (it needs root)"))?;
    Ok(home)
}

impl Minder {
    /// Ends the guest at once, as SIGINT does. May be called from any thread.
    pub fn killer(&self) -> impl Fn() + Send + use<> {
        || {
            // To ourselves, who hand it on and see to it that it is obeyed. A process may always signal itself.
            let _ = kill(Pid::this(), Signal::SIGINT);
        }
    }

    /// Waits for the VMM's end, handing on the signals that come meanwhile, and says how it ended.
    ///
    /// Where the VMM has a jail, this process can from here on do little else than leave an exit file and end: its
    /// threads must be there.
    pub fn wait(mut self) -> Exit {
        let bound = if self.jailed { confine::bind(self.child) } else { Ok(()) };
        let minded = bound.and_then(|()| self.attend().map_err(Error::host("wait for the VMM")));
        if !matches!(minded, Ok(Minded::Dead | Minded::Killed)) {
            // A VMM that nobody minds any more shall not go on.
            let _ = kill(self.child, Signal::SIGKILL);
        }
        let status = match &minded {
            Ok(Minded::Done(_)) => None,
            _ => Some(self.bury()),
        };
        if let Some(path) = &self.vsock {
            socket::remove_dead(path);
        }
        let after_s = self.started.elapsed().as_secs_f64();
        let without_report = match (minded, status) {
            (Ok(Minded::Done(exit)), _) => return exit,
            (Err(error), _) => return Exit::new(ExitReason::Error(error.sentence()), after_s),
            (Ok(Minded::Dead), Some(status)) => explain(status),
            // As it was told, if not by itself.
            (Ok(_), _) => ExitReason::Killed,
        };
        self.report.exit().unwrap_or_else(|| Exit::new(without_report, after_s))
    }

    /// Waits until the VMM is dead.
    fn bury(&self) -> nix::Result<WaitStatus> {
        loop {
            match waitpid(self.child, None) {
                Err(Errno::EINTR) => {}
                status => return status,
            }
        }
    }

    /// Attends to the VMM until it is dead, whatever it does meanwhile, and has heard all that it said; or until it says
    /// that its guest has come to its end.
    fn attend(&mut self) -> nix::Result<Minded> {
        let mut obeys = true;
        loop {
            let left = self.told_to_end.map(|told| OBEDIENCE.saturating_sub(told.elapsed()));
            if left == Some(Duration::ZERO) {
                self.told_to_end = None;
                obeys = false;
                // It may be gone already.
                let _ = kill(self.child, Signal::SIGKILL);
            }
            let happened = self.next(left)?;
            for source in &happened {
                match source {
                    Source::Process => {}
                    Source::Signals => self.hand_on_signal(),
                    Source::Report => self.report.take(),
                    Source::Complaints => self.complaints.take(&mut stderr()),
                }
            }
            if let Some(exit) = self.report.exit_of_guest() {
                // What it complained of came before.
                if self.next(Some(Duration::ZERO))?.contains(&Source::Complaints) {
                    self.complaints.take(&mut stderr());
                }
                return Ok(Minded::Done(exit));
            }
            if happened == [Source::Process] {
                return Ok(if obeys { Minded::Dead } else { Minded::Killed });
            }
        }
    }

    /// Waits for what happens next, or until the time that is left is over.
    fn next(&self, left: Option<Duration>) -> nix::Result<Vec<Source>> {
        let watched = [
            (Source::Process, Some(self.process.as_fd())),
            (Source::Signals, Some(self.signals.as_fd())),
            (Source::Report, self.report.fd()),
            (Source::Complaints, self.complaints.fd()),
        ];
        let watched = || watched.iter().filter_map(|(source, fd)| Some((*source, (*fd)?)));
        let mut polled: Vec<_> = watched().map(|(_, fd)| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let timeout = match left {
            None => PollTimeout::NONE,
            Some(Duration::ZERO) => PollTimeout::ZERO,
            // Rounded up, so that the time is over when it wakes.
            Some(left) => PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX),
        };
        match poll(&mut polled, timeout) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        }
        let happened = |polled: &PollFd<'_>| polled.revents().is_some_and(|events| !events.is_empty());
        Ok(watched().zip(&polled).filter_map(|((source, _), polled)| happened(polled).then_some(source)).collect())
    }

    fn hand_on_signal(&mut self) {
        let Ok(Some(signal)) = self.signals.read_signal() else { return };
        let signal = i32::try_from(signal.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
        // The first of these asks the guest; all others are for the VMM.
        if signal == Some(Signal::SIGTERM) && !self.asked {
            self.asked = true;
        } else {
            self.told_to_end.get_or_insert_with(Instant::now);
        }
        // It may be gone already.
        let _ = kill(self.child, signal);
    }
}

/// A death without last words.
fn explain(status: nix::Result<WaitStatus>) -> ExitReason {
    let sentence = match status {
        Ok(WaitStatus::Signaled(_, Signal::SIGKILL, _)) => {
            "the VMM was killed: by somebody, or by the host's kernel for want of memory".to_owned()
        }
        Ok(WaitStatus::Signaled(_, Signal::SIGSYS, _)) => {
            "the VMM was ended by SIGSYS: it made a system call that its filter refuses".to_owned()
        }
        Ok(WaitStatus::Signaled(_, signal, _)) => format!("the VMM was ended by {signal}: this is a fault of the VMM"),
        Ok(WaitStatus::Exited(_, code)) => format!("the VMM ended with code {code} and without a word"),
        Ok(_) => return ExitReason::Lost,
        Err(error) => format!("cannot wait for the VMM: {error}"),
    };
    ExitReason::Error(sentence)
}
