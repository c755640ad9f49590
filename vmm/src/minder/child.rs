//! The VMM's process, before the VMM runs in it and after.

use std::fs::File;
use std::io::{self, PipeWriter, Write};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use thimble_spec::vmm::{Exit, ExitReason};

use crate::error::{Error, Result};

/// Runs `vmm` and reports its end; never comes back.
pub(super) fn be_the_vmm(vmm: impl FnOnce() -> Exit, mut report: PipeWriter, errors: PipeWriter) -> ! {
    // A failure here is one of a kernel that knows no such signal.
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    let exit = match leave_the_terminal(errors) {
        _ if is_widowed(&report) => because(ExitReason::Lost),
        Ok(()) => vmm(),
        Err(error) => because(ExitReason::Error(error.sentence())),
    };
    // Nobody reads any more if the minder is gone.
    let _ = serde_json::to_writer(&mut report, &exit).map_err(io::Error::from).and_then(|()| report.write_all(b"\n"));
    // What the VMM's own threads may hold is not waited for.
    // SAFETY: _exit(2) takes a number.
    unsafe { libc::_exit(exit.reason.code().into()) }
}

fn because(reason: ExitReason) -> Exit {
    Exit { reason, after_s: 0.0 }
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

/// Whether the minder died before it could take us with it: then nobody holds the other end of the pipe.
fn is_widowed(report: &PipeWriter) -> bool {
    let mut polled = [PollFd::new(report.as_fd(), PollFlags::empty())];
    poll(&mut polled, PollTimeout::ZERO).is_ok()
        && polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR))
}
