//! The VMM's process, before the VMM runs in it and after.

use std::fs::File;
use std::io::{self, PipeWriter, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use std::{panic, thread};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use thimble_spec::vmm::{Exit, ExitReason};

use crate::error::{Error, Result};

/// Runs `vmm` and reports its end; never comes back. Where it is `jailed`, a panic opens no files for a backtrace: the
/// filters would end it for that.
pub(super) fn be_the_vmm(vmm: impl FnOnce() -> Exit, jailed: bool, report: PipeWriter, errors: PipeWriter) -> ! {
    // A failure here is one of a kernel that knows no such signal.
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    let reporter = Arc::new(Reporter { pipe: report, told: AtomicBool::new(false), started: Instant::now() });
    tell_panics(&reporter, jailed);
    let exit = match leave_the_terminal(errors) {
        _ if reporter.is_widowed() => reporter.because(ExitReason::Lost),
        Ok(()) => vmm(),
        Err(error) => reporter.because(ExitReason::Error(error.sentence())),
    };
    reporter.end(&exit)
}

/// Whoever has the last word.
struct Reporter {
    pipe: PipeWriter,
    told: AtomicBool,
    started: Instant,
}

impl Reporter {
    fn because(&self, reason: ExitReason) -> Exit {
        Exit::new(reason, self.started.elapsed().as_secs_f64())
    }

    /// Reports `exit`, unless another thread does, and ends the process. What its threads may hold is not waited for.
    fn end(&self, exit: &Exit) -> ! {
        if self.told.swap(true, Ordering::Relaxed) {
            loop {
                // Until the other has ended us.
                thread::park();
            }
        }
        // Nobody reads any more if the minder is gone.
        let _ = serde_json::to_writer(&self.pipe, exit)
            .map_err(io::Error::from)
            .and_then(|()| (&self.pipe).write_all(b"\n"));
        // SAFETY: _exit(2) takes a number.
        unsafe { libc::_exit(exit.reason.code().into()) }
    }

    /// Whether the minder died before it could take us with it: then nobody holds the other end of the pipe.
    fn is_widowed(&self) -> bool {
        let mut polled = [PollFd::new(self.pipe.as_fd(), PollFlags::empty())];
        poll(&mut polled, PollTimeout::ZERO).is_ok()
            && polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR))
    }
}

/// From here on a panic of any thread is the end, told with its sentence: no other thread shall go on with what a broken
/// one left, whether this program unwinds or not.
fn tell_panics(reporter: &Arc<Reporter>, jailed: bool) {
    let reporter = reporter.clone();
    let usual = (!jailed).then(panic::take_hook);
    panic::set_hook(Box::new(move |panicked| {
        if let Some(usual) = &usual {
            usual(panicked);
        }
        let thread = thread::current();
        let name = thread.name().unwrap_or("without a name");
        let sentence = format!("thread {name} {panicked}: this is a fault of the VMM");
        reporter.end(&reporter.because(ExitReason::Error(sentence)))
    }));
}

/// Gives up the standard streams that the minder was given, and its terminal: whoever holds one can type into it
/// (TIOCSTI, ioctl_tty(2)), and so run commands as its user. The console comes through a socket that the minder copies,
/// complaints go to `errors`.
fn leave_the_terminal(errors: PipeWriter) -> Result<()> {
    // This process was just forked, and so leads no group: the call cannot fail.
    setsid().map_err(Error::host("leave the terminal's session"))?;
    let nothing = File::options().read(true).write(true).open("/dev/null").map_err(Error::host("open /dev/null"))?;
    dup2_stdin(&nothing)
        .and_then(|()| dup2_stdout(&nothing))
        .and_then(|()| dup2_stderr(&errors))
        .map_err(Error::host("leave the terminal"))
}
