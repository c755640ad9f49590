//! The console on standard input and output.
//!
//! Two threads copy between them and a socket that the VMM treats as it treats any client of the console: reads and
//! writes that block, as those on a terminal do, hold up nobody else.

use std::io::{Read, Write, stdin, stdout};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// Ctrl-A: the next key is for the VMM.
const ESCAPE: u8 = 1;
/// How long the terminal has to take the last output.
const PATIENCE: Duration = Duration::from_secs(1);

/// What Ctrl-A x does.
pub type Quit = Box<dyn FnOnce(&UnixStream) + Send>;

/// Bytes of a copying thread's stack. With the usual 2 MiB the host may give it a huge page, all of it, at the first touch.
const STACK_BYTES: usize = 128 << 10;

/// The terminal, in raw mode while this lives if it is one.
pub struct Terminal {
    before: Option<Termios>,
    written: Receiver<()>,
}

impl Terminal {
    /// Starts to copy between the terminal and `console`. Ctrl-A x calls `quit` with it.
    pub fn start(console: UnixStream, quit: Quit) -> Result<Self> {
        let before = tcgetattr(stdin().as_fd()).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            cfmakeraw(&mut raw);
            tcsetattr(stdin().as_fd(), SetArg::TCSANOW, &raw).context("cannot set the terminal to raw mode")?;
        }
        let output = console.try_clone().context("cannot share the console's socket")?;
        let (done, written) = channel();
        // Signals are for the main thread, which has not taken them yet.
        let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK).context("cannot block signals")?;
        let all_begun = Arc::new(Barrier::new(3));
        let (begun, begun_too) = (all_begun.clone(), all_begun.clone());
        let read = move || {
            begun.wait();
            copy_input(console, quit);
        };
        let input = thread("stdin").spawn(read);
        let copy = move || {
            begun_too.wait();
            copy_output(output);
            // Nobody waits any more if the receiver is gone.
            let _ = done.send(());
        };
        let output = thread("stdout").spawn(copy);
        mask.thread_set_mask().context("cannot unblock signals")?;
        input.and(output).context("cannot start the console's threads")?;
        // The minder's filter allows none of what a thread does before its first line.
        all_begun.wait();
        Ok(Self { before, written })
    }

    /// Copies until the other side ends, or [`Quit`] ends it; then gives the terminal back.
    pub fn run(self) {
        // The copy's end is all there is to wait for.
        let _ = self.written.recv();
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

fn thread(name: &str) -> thread::Builder {
    thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES)
}

/// Copies keys to the guest. Ctrl-A x quits, Ctrl-A Ctrl-A is one Ctrl-A.
fn copy_input(mut to: UnixStream, quit: Quit) {
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
                (true, b'x') => return quit(&to),
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
