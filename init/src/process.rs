//! Children: starting them in a session of their own, and reaping everything.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;
use std::{fmt, io};

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, setsid};

use crate::clock::wait_until;
use crate::error::{Doing, Error, Result};

/// Where programs are looked for by those who were told no path.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program to start.
pub struct Program<'a> {
    /// Its path, or a name that is looked for in [`PATH`]; and arguments.
    pub exec: &'a [String],
    /// User.
    pub uid: u32,
    /// Group; there are no further ones.
    pub gid: u32,
    /// For `HOSTNAME`.
    pub host: &'a str,
    /// Besides `PATH`, `HOME` and `HOSTNAME`.
    pub environment: &'a BTreeMap<String, String>,
    /// Where it reads and writes.
    pub streams: Streams<'a>,
    /// The file `cgroup.procs` of the control group that it joins, open to be written.
    pub group: Option<&'a File>,
}

/// Where a program reads and writes. A guest's services have the console.
#[cfg_attr(not(feature = "host"), allow(dead_code))]
#[derive(Clone, Copy, Debug)]
pub enum Streams<'a> {
    /// It reads nothing, and writes to the console.
    Console,
    /// It reads nothing, and writes to this pipe.
    Pipe(BorrowedFd<'a>),
    /// It has this terminal for itself.
    Terminal(&'a CStr),
    /// It reads from the one, and writes to the others.
    Pipes {
        /// Its standard input.
        input: BorrowedFd<'a>,
        /// Its standard output.
        output: BorrowedFd<'a>,
        /// Its standard error.
        errors: BorrowedFd<'a>,
    },
}

/// Starts a program in its own session: no signal blocked.
pub fn start(program: &Program) -> Result<Pid> {
    let Some((path, arguments)) = program.exec.split_first() else {
        return Err(Error::Said("cannot start a program without a name".to_owned()));
    };
    let mut command = Command::new(path);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", if program.uid == 0 { "/root" } else { "/" })
        .env("HOSTNAME", program.host)
        .envs(program.environment)
        .current_dir("/")
        .stdin(Stdio::null())
        .gid(program.gid)
        // As root, this drops all supplementary groups too.
        .uid(program.uid);
    // The standard library becomes the user before it calls the closure; what counts for a group is who opened its file.
    let group = program.group.map(AsRawFd::as_raw_fd);
    let terminal = program.streams.prepare(&mut command).doing(|| format!("start {path}"))?;
    // SAFETY: between fork and exec the closure only makes system calls; it allocates nothing. The descriptor and the
    // text outlive it: `spawn` returns when the child has executed its program or failed.
    unsafe { command.pre_exec(move || leave(group, terminal.as_deref())) };
    let child = command.spawn().doing(|| format!("start {path}"))?;
    i32::try_from(child.id())
        .map(Pid::from_raw)
        .map_err(|_| Error::Said(format!("{path} has an impossible process id")))
}

/// Starts one of the host's own programs, as root.
#[cfg(feature = "host")]
pub fn start_as_root(exec: &[String], host: &str) -> Result<Pid> {
    let (environment, streams) = (&BTreeMap::new(), Streams::Console);
    start(&Program { exec, uid: 0, gid: 0, host, environment, streams, group: None })
}

impl Streams<'_> {
    /// Tells the command of what it can do itself; gives the path of a terminal, which the child must open.
    fn prepare(self, command: &mut Command) -> io::Result<Option<CString>> {
        match self {
            Self::Console => Ok(None),
            Self::Pipe(pipe) => {
                command.stdout(pipe.try_clone_to_owned()?).stderr(pipe.try_clone_to_owned()?);
                Ok(None)
            }
            Self::Terminal(path) => Ok(Some(path.to_owned())),
            Self::Pipes { input, output, errors } => {
                command.stdin(input.try_clone_to_owned()?).stdout(output.try_clone_to_owned()?);
                command.stderr(errors.try_clone_to_owned()?);
                Ok(None)
            }
        }
    }
}

/// In the child: out of PID 1's session, with its own signals, in its group, at its terminal.
fn leave(group: Option<RawFd>, terminal: Option<&CStr>) -> io::Result<()> {
    setsid()?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    if let Some(group) = group {
        // SAFETY: one byte of static memory is read.
        if unsafe { libc::write(group, c"0".as_ptr().cast(), 1) } != 1 {
            return Err(io::Error::last_os_error());
        }
    }
    if let Some(path) = terminal {
        // SAFETY: the path is a C string that the parent holds. A terminal that the leader of a session opens becomes
        // the session's own (termios(3)).
        let tty = unsafe { libc::open(path.as_ptr(), libc::O_RDWR) };
        for stream in 0..3 {
            // SAFETY: these are descriptors of this process.
            if tty < 0 || unsafe { libc::dup2(tty, stream) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(())
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// Whether all went well.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with {code}"),
            Self::Signal(signal) => write!(f, "was ended by signal {signal}"),
        }
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, signal) => Self::Signal(signal.unwrap_or_default()),
        }
    }
}

/// Reaps one process that ended, ours or an orphan, without waiting.
pub fn reap() -> Option<(Pid, Exit)> {
    loop {
        match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => return Some((pid, Exit::Code(code))),
            Ok(WaitStatus::Signaled(pid, signal, _)) => return Some((pid, Exit::Signal(signal as i32))),
            Ok(WaitStatus::StillAlive) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}

/// Reaps until no child is left, not longer than `limit`; says whether none is.
pub fn wait_for_all(limit: Duration) -> bool {
    wait_until(limit, || {
        while reap().is_some() {}
        !any_child()
    })
}

/// Whether any child is left, dead or alive.
fn any_child() -> bool {
    waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_has_its_own_session_and_environment() {
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join("out");
        // Given a program that writes down how it runs,
        let script = format!("echo $0 $A $HOSTNAME $(cut -d' ' -f1,6 /proc/$$/stat) >{}", out.display());
        let exec = ["/bin/sh", "-c", &script, "me"].map(str::to_owned);
        let environment = [("A".to_owned(), "b".to_owned())].into();
        // when it is started,
        let pid = start(&Program {
            exec: &exec,
            uid: 0,
            gid: 0,
            host: "h",
            environment: &environment,
            streams: Streams::Console,
            group: None,
        });
        let pid = pid.unwrap();
        let status = waitpid(pid, None).unwrap();
        // then it leads its own session and knows what it was told.
        assert_eq!(status, WaitStatus::Exited(pid, 0));
        assert_eq!(std::fs::read_to_string(out).unwrap(), format!("me b h {pid} {pid}\n"));
    }

    #[test]
    fn what_cannot_start_is_named() {
        let environment = BTreeMap::new();
        let start = |exec: &[String]| {
            start(&Program {
                exec,
                uid: 0,
                gid: 0,
                host: "h",
                environment: &environment,
                streams: Streams::Console,
                group: None,
            })
        };
        let error = start(&["/nonexistent/program".to_owned()]).unwrap_err();
        assert!(error.sentence().starts_with("cannot start /nonexistent/program: "), "{}", error.sentence());
        assert!(start(&[]).is_err());
    }
}
