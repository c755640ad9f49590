//! The process that starts a VMM, waits for it, and tells how it ended.
//!
//! ```text
//! minder ── fork, new pid namespace ──> VMM: opens what it needs, enters its jail, runs the guest
//!   │  <──────── a pipe: one line of JSON, an Exit ────────┘
//!   └─> exit file, exit code, the control socket's name removed
//! ```
//!
//! A VMM in its jail sees no files: what is to be left behind, the minder writes. It holds nothing that a guest ever
//! touches, and believes of the VMM only a line of a known shape. A VMM that dies without that line, by a filter, a
//! panic or a lack of memory, is told by its signal. When the minder dies, however, its VMM dies with it (`PR_SET_PDEATHSIG`),
//! so that whoever ends the one has ended the other.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use thimble_spec::vmm::{Exit, ExitReason, GuestConfig};

use crate::control::socket::{self, Name, Socket};
use crate::error::{Error, Result};
use crate::{Given, run, supervisor};

/// Longest report of a VMM.
const REPORT_MAX: u64 = 64 * 1024;

/// A VMM that was started.
#[derive(Debug)]
pub struct Minder {
    child: Pid,
    report: PipeReader,
    signals: SignalFd,
    started: Instant,
    /// Removed with the minder.
    _name: Option<Name>,
    /// The socket device's, which the VMM leaves behind.
    vsock: Option<PathBuf>,
}

/// Starts the VMM of the guest that `config` describes. `control` is where its control socket goes, `console` a
/// connection to show its console on.
///
/// To be called while the process has one thread: the VMM is its copy.
///
/// # Errors
/// Somebody listens at `control`; the cgroup cannot be joined; the host gives no process.
pub fn start(config: &GuestConfig, control: Option<&Path>, console: Option<UnixStream>) -> Result<Minder> {
    let started = Instant::now();
    let (socket, name) = control.map(Socket::bind).transpose()?.unzip();
    let (report, out) = io::pipe().map_err(Error::host("make a pipe"))?;
    if let Some(cgroup) = config.jail.as_ref().and_then(|jail| jail.cgroup.as_ref()) {
        join(cgroup)?;
    }
    let signals = supervisor::take_signals()?;
    let pid = std::process::id();
    let home = config.jail.is_some().then(leave_pid_namespace).transpose()?;
    // SAFETY: there is one thread, so the child may do whatever its parent might.
    match unsafe { fork() }.map_err(Error::host("make the VMM's process"))? {
        ForkResult::Child => {
            drop((report, signals, home));
            // The name is the minder's to remove.
            if let Some(name) = name {
                name.leave();
            }
            be_the_vmm(config, Given { control: socket, console, pid: Some(pid) }, out)
        }
        ForkResult::Parent { child } => {
            if let Some(home) = home {
                // Threads that are made from here on, the terminal's, belong where this process is.
                setns(home, CloneFlags::CLONE_NEWPID).map_err(Error::host("come back to its pid namespace"))?;
            }
            let vsock = config.vsock.as_ref().map(|vsock| vsock.path.clone());
            Ok(Minder { child, report, signals, started, _name: name, vsock })
        }
    }
}

/// Joins a cgroup, so that what comes from here on is counted there.
fn join(cgroup: &Path) -> Result<()> {
    let path = cgroup.join("cgroup.procs");
    std::fs::write(&path, "0").map_err(|source| Error::File { action: "join the cgroup by", path, source })
}

/// The next child begins a pid namespace; gives the way back.
fn leave_pid_namespace() -> Result<File> {
    let home = File::open("/proc/self/ns/pid").map_err(Error::host("find its pid namespace in /proc"))?;
    unshare(CloneFlags::CLONE_NEWPID).map_err(Error::jail("get a pid namespace (it needs root)"))?;
    Ok(home)
}

/// What the child does: it never comes back.
fn be_the_vmm(config: &GuestConfig, given: Given, mut out: PipeWriter) -> ! {
    // A failure here is one of a kernel that knows no such signal.
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    let exit = if is_widowed(&out) { lost() } else { run(config, given) };
    // Nobody reads any more if the minder is gone.
    let _ = serde_json::to_writer(&mut out, &exit).map_err(io::Error::from).and_then(|()| out.write_all(b"\n"));
    // What the VMM's own threads may hold is not waited for.
    // SAFETY: _exit(2) takes a number.
    unsafe { libc::_exit(exit.reason.code().into()) }
}

/// Whether the minder died before it could take us with it: then nobody holds the other end of the pipe.
fn is_widowed(out: &PipeWriter) -> bool {
    let mut polled = [PollFd::new(out.as_fd(), PollFlags::empty())];
    poll(&mut polled, PollTimeout::ZERO).is_ok()
        && polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR))
}

fn lost() -> Exit {
    Exit { reason: ExitReason::Lost, after_s: 0.0 }
}

impl Minder {
    /// Ends the guest at once, as SIGINT does. May be called from any thread.
    pub fn killer(&self) -> impl Fn() + Send + use<> {
        let child = self.child;
        move || {
            // It may have ended by itself.
            let _ = kill(child, Signal::SIGINT);
        }
    }

    /// Waits for the VMM's end, handing on the signals that come meanwhile, and says how it ended.
    pub fn wait(mut self) -> Exit {
        let reported = self.listen();
        let status = loop {
            match waitpid(self.child, None) {
                Err(Errno::EINTR) => {}
                status => break status,
            }
        };
        if let Some(path) = &self.vsock {
            socket::remove_dead(path);
        }
        let after_s = self.started.elapsed().as_secs_f64();
        reported.unwrap_or_else(|| Exit { reason: explain(status), after_s })
    }

    /// The VMM's last words, if it has any.
    fn listen(&mut self) -> Option<Exit> {
        let mut report = Vec::new();
        loop {
            let mut polled = [
                PollFd::new(self.report.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut polled, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return None,
            }
            let [reported, signalled] = polled.map(|polled| polled.revents().is_some_and(|events| !events.is_empty()));
            if signalled && let Ok(Some(signal)) = self.signals.read_signal() {
                let signal = i32::try_from(signal.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
                // It may be gone already; the pipe will tell.
                let _ = kill(self.child, signal);
            }
            if reported {
                let mut chunk = [0; 4096];
                match self.report.read(&mut chunk) {
                    Ok(0) => break,
                    Ok(count) if report.len() + count <= REPORT_MAX as usize => {
                        report.extend_from_slice(&chunk[..count]);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Ok(_) | Err(_) => break,
                }
            }
        }
        serde_json::from_slice(&report).ok()
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
