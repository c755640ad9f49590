//! QEMU as our child: its console in pipes, its monitor on a socket pair, and its end whenever ours comes.
//!
//! No file is made for it: the disk's scratch copy and OVMF's variables are QEMU's own temporary files, which have no
//! names, so that nothing is left behind even if Thimble itself is killed.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::keys::Key;
use super::qemu::Machine;
use super::qmp::Qmp;
use crate::error::{Error, Result};
use crate::tool;

/// QEMU's program.
pub const QEMU: &str = "qemu-system-x86_64";
/// How long QEMU has to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(3);
/// How many of its last messages are told.
const SAID_LINES: usize = 12;

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// The machine wrote this on its console.
    Console(Vec<u8>),
    /// There is no console any more: QEMU ends.
    ConsoleEnd,
    /// The user pressed a key that is ours.
    Key(Key),
}

/// A QEMU that runs. It is ended with the value.
#[derive(Debug)]
pub struct Running {
    child: Child,
    monitor: Qmp,
    input: Option<ChildStdin>,
    messages: Option<JoinHandle<String>>,
    /// What happens.
    pub events: Receiver<Event>,
    sender: Sender<Event>,
}

impl Running {
    /// Starts QEMU.
    ///
    /// # Errors
    /// It is not there, or the kernel refuses.
    pub fn start(machine: &Machine) -> Result<Self> {
        let path = tool::find(QEMU).ok_or_else(|| tool::missing(QEMU))?;
        let (ours, theirs) = UnixStream::pair().map_err(Error::io("connect to", QEMU))?;
        let mut command = Command::new(path);
        command.args(machine.args(theirs.as_raw_fd())).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let inherit = move || {
            // However we end, QEMU ends with us.
            set_pdeathsig(Signal::SIGKILL)?;
            fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty()))?;
            Ok(())
        };
        // SAFETY: between fork and exec, `inherit` does nothing but two system calls on what it owns: it allocates no
        // memory and takes no lock.
        unsafe { command.pre_exec(inherit) };
        let mut child = command.spawn().map_err(Error::io("start", QEMU))?;
        // Our copy of QEMU's end of the monitor goes away with the command.
        drop(command);
        let (sender, events) = channel();
        if let Some(output) = child.stdout.take() {
            let sender = sender.clone();
            thread::spawn(move || read_console(output, &sender));
        }
        let messages = child.stderr.take().map(|pipe| thread::spawn(move || last_lines(pipe)));
        let input = child.stdin.take();
        let monitor = match Qmp::new(ours) {
            Ok(monitor) => monitor,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(Error::io("connect to", QEMU)(error));
            }
        };
        Ok(Self { child, monitor, input, messages, events, sender })
    }

    /// Something that happens besides the console can be told through this.
    pub fn sender(&self) -> Sender<Event> {
        self.sender.clone()
    }

    /// The keyboard of the console. It stays open when this one is closed: to QEMU, an end would be a hang-up.
    ///
    /// # Errors
    /// There are no more file descriptors.
    pub fn keyboard(&self) -> Result<Option<File>> {
        let copy = |input: &ChildStdin| input.as_fd().try_clone_to_owned().map(File::from);
        self.input.as_ref().map(copy).transpose().map_err(Error::io("connect to", QEMU))
    }

    /// Presses the machine's power button.
    ///
    /// # Errors
    /// QEMU does not answer.
    pub fn power_down(&mut self) -> Result<()> {
        self.monitor.power_down().map_err(Error::io("ask for power-off:", QEMU))
    }

    /// Waits for QEMU, which has closed its console. Returns how it ended and its last messages.
    ///
    /// # Errors
    /// It does not end.
    pub fn finish(&mut self) -> Result<(ExitStatus, String)> {
        let status = self.wait_for(GRACE).map_or_else(|| self.child.wait(), Ok).map_err(Error::io("wait for", QEMU))?;
        let said = self.messages.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        Ok((status, said))
    }

    fn wait_for(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // SIGTERM lets QEMU write what it holds of a disk that is kept.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        if self.wait_for(GRACE).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn read_console(mut output: ChildStdout, events: &Sender<Event>) {
    let mut buffer = [0; 16 << 10];
    loop {
        match output.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => {
                if events.send(Event::Console(buffer[..count].to_vec())).is_err() {
                    return;
                }
            }
        }
    }
    // Nobody listens any more: nothing to tell.
    let _ = events.send(Event::ConsoleEnd);
}

/// Reads QEMU's messages to their end and keeps the last.
fn last_lines(pipe: ChildStderr) -> String {
    let mut last: Vec<String> = Vec::new();
    for line in BufReader::new(pipe).lines().map_while(Result::ok) {
        if last.len() == SAID_LINES {
            last.remove(0);
        }
        last.push(line);
    }
    last.join("\n")
}
