//! The console on standard input and output.
//!
//! Two threads copy between them and a socket that the VMM treats as it treats any client of the console: reads and
//! writes that block, as those on a terminal do, hold up nobody else.

use std::io::{Read, Write, stdin, stdout};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use thimble_spec::vmm::ExitReason;
use thimble_vmm::exit::Ending;

/// Ctrl-A: the next key is for the VMM.
const ESCAPE: u8 = 1;
/// How long the terminal has to take the last output.
const PATIENCE: Duration = Duration::from_secs(1);

/// The terminal, in raw mode while this lives if it is one.
pub struct Terminal {
    before: Option<Termios>,
    written: Receiver<()>,
}

impl Terminal {
    /// Starts to copy; the stream is for the VMM.
    pub fn start(ending: &Arc<Ending>) -> Result<(Self, UnixStream)> {
        let (ours, theirs) = UnixStream::pair().context("cannot make a socket for the console")?;
        let before = tcgetattr(stdin().as_fd()).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            cfmakeraw(&mut raw);
            tcsetattr(stdin().as_fd(), SetArg::TCSANOW, &raw).context("cannot set the terminal to raw mode")?;
        }
        let output = ours.try_clone().context("cannot share the console's socket")?;
        let (done, written) = channel();
        let ending = ending.clone();
        // Signals are for the main thread, which has not taken them yet.
        let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK).context("cannot block signals")?;
        let input = thread::Builder::new().name("stdin".to_owned()).spawn(move || copy_input(ours, &ending));
        let copy = move || {
            copy_output(output);
            // Nobody waits any more if the receiver is gone.
            let _ = done.send(());
        };
        let output = thread::Builder::new().name("stdout".to_owned()).spawn(copy);
        mask.thread_set_mask().context("cannot unblock signals")?;
        input.and(output).context("cannot start the console's threads")?;
        Ok((Self { before, written }, theirs))
    }

    /// Waits for the last output, and gives the terminal back.
    pub fn finish(self) {
        // A terminal that somebody stopped takes nothing; the guest's end does not wait for it.
        let _ = self.written.recv_timeout(PATIENCE);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // There is nothing else to be done for a terminal that is gone.
            let _ = tcsetattr(stdin().as_fd(), SetArg::TCSANOW, before);
        }
    }
}

/// Copies keys to the guest. Ctrl-A x ends it, Ctrl-A Ctrl-A is one Ctrl-A.
fn copy_input(mut to: UnixStream, ending: &Ending) {
    let mut bytes = [0; 4096];
    let mut escaped = false;
    loop {
        let count = match stdin().read(&mut bytes) {
            Ok(0) | Err(_) => return drop(to.shutdown(Shutdown::Write)),
            Ok(count) => count,
        };
        let mut keys = Vec::with_capacity(count);
        for key in &bytes[..count] {
            match (std::mem::take(&mut escaped), *key) {
                (false, ESCAPE) => escaped = true,
                (true, b'x') => return ending.end(ExitReason::Killed),
                (_, key) => keys.push(key),
            }
        }
        if to.write_all(&keys).is_err() {
            return;
        }
    }
}

fn copy_output(mut from: UnixStream) {
    let mut bytes = [0; 16 * 1024];
    let mut out = stdout();
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if out.write_all(&bytes[..count]).and_then(|()| out.flush()).is_err() {
            return;
        }
    }
}
