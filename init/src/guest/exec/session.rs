//! One command that the host sends: what it reads and writes goes over the connection, and how it ended.
//!
//! The loop waits in two places: for something to happen, and for the host to take what the command wrote. A host that takes
//! nothing holds the command up, as a full pipe would. What the command does not read yet is kept here, and no more is read
//! from the host meanwhile.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2};
use thimble_spec::exec::{Command, Frame, Frames, NOT_FOUND, NOT_RUN, PAYLOAD_MAX, SIGNALLED};

use crate::clock::{since_boot, wait_until};
use crate::error::{Doing, Result};
use crate::process::{self, Program, Streams};

/// How long the host may take to say what is to be run.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);
/// How long a command may take to end when nobody is there for it any more.
const HANG_UP_LIMIT: Duration = Duration::from_secs(2);
/// Pieces of each output that are read when the command has ended: more than a pipe or a terminal holds (pipe(7): 64 KiB). What
/// it left running may write on and on.
const LAST_PIECES: usize = 4;
/// What a terminal takes for the end of what is typed (`VEOF`, termios(3)).
const END_OF_INPUT: u8 = 4;

/// That the other end sends no more (poll(2)).
const CUT: PollFlags = PollFlags::from_bits_retain(libc::POLLRDHUP);

/// Runs what the host asks for over `connection`, to its end.
pub fn run(connection: &OwnedFd, host: &str) {
    // A command that reads no more is no reason to end. The standard library gives commands their own way back.
    // SAFETY: nothing is called by a signal that is ignored.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) };
    let mut line = Line { connection, frames: Frames::default() };
    let Some(command) = line.command() else { return };
    match Session::start(&command, host) {
        Ok(mut session) => session.converse(&mut line),
        Err(error) => {
            let missing = error.errno() == Some(libc::ENOENT);
            line.say(&Frame::Refused(if missing { NOT_FOUND } else { NOT_RUN }, error.sentence()));
        }
    }
}

/// The connection to the host.
struct Line<'a> {
    connection: &'a OwnedFd,
    frames: Frames,
}

/// What there is to hear.
enum Heard {
    /// This.
    Frame(Frame),
    /// Nothing yet.
    Nothing,
    /// The host has gone, or speaks of something else.
    Gone,
}

impl Line<'_> {
    /// What is to be run, if that is said in time.
    fn command(&mut self) -> Option<Command> {
        let deadline = since_boot() + COMMAND_LIMIT;
        while since_boot() < deadline {
            match self.hear() {
                Heard::Frame(Frame::Run(command)) => return Some(command),
                Heard::Nothing => {}
                Heard::Frame(_) | Heard::Gone => return None,
            }
            crate::events::wait([self.connection.as_fd()], [], Some(deadline));
        }
        None
    }

    fn hear(&mut self) -> Heard {
        loop {
            match self.frames.take() {
                Ok(Some(frame)) => return Heard::Frame(frame),
                Ok(None) => {}
                Err(_) => return Heard::Gone,
            }
            let mut piece = [0; 4096];
            match recv(self.connection.as_raw_fd(), &mut piece, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return Heard::Gone,
                Ok(count) => self.frames.feed(&piece[..count]),
                Err(Errno::EAGAIN) => return Heard::Nothing,
                Err(Errno::EINTR) => {}
                Err(_) => return Heard::Gone,
            }
        }
    }

    /// Waits until the host has taken it; whether it has.
    fn say(&self, frame: &Frame) -> bool {
        let Ok(bytes) = frame.write() else { return false };
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            match send(self.connection.as_raw_fd(), rest, MsgFlags::MSG_NOSIGNAL) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::EINTR) => {}
                Err(_) => return false,
            }
        }
        true
    }
}

/// What the command writes to.
struct Output {
    from: File,
    frame: fn(Vec<u8>) -> Frame,
}

/// A command that runs.
struct Session {
    child: Pid,
    /// Readable when it has ended (pidfd_open(2)).
    ended: OwnedFd,
    /// What it reads from; none when there is no more to read.
    input: Option<File>,
    /// What it is yet to read.
    pending: Vec<u8>,
    /// There is no more behind that.
    last: bool,
    outputs: Vec<Output>,
    /// The other end of its terminal, if it has one.
    terminal: Option<OwnedFd>,
}

impl Session {
    fn start(command: &Command, host: &str) -> Result<Self> {
        let program = |streams| Program {
            exec: &command.arguments,
            uid: 0,
            gid: 0,
            host,
            environment: &command.environment,
            streams,
            group: None,
        };
        let (child, input, outputs, terminal) = match command.terminal {
            Some(size) => {
                let (terminal, path) = terminal(size).doing(|| "open a terminal".to_owned())?;
                let child = process::start(&program(Streams::Terminal(&path)))?;
                let [input, output] = [0; 2].map(|_| terminal.try_clone().map(File::from));
                let [input, output] = [input.doing(own_file)?, output.doing(own_file)?];
                (child, input, vec![Output { from: output, frame: Frame::Output }], Some(terminal))
            }
            None => {
                let pipe = || pipe2(OFlag::O_CLOEXEC).doing(|| "make a pipe".to_owned());
                let (input, output, errors) = (pipe()?, pipe()?, pipe()?);
                let child = process::start(&program(Streams::Pipes {
                    input: input.0.as_fd(),
                    output: output.1.as_fd(),
                    errors: errors.1.as_fd(),
                }))?;
                let outputs = [(output.0, Frame::Output as fn(_) -> _), (errors.0, Frame::Errors)];
                let outputs = outputs.map(|(from, frame)| Output { from: from.into(), frame });
                (child, input.1.into(), outputs.into(), None)
            }
        };
        let ended = pid_file(child).doing(|| "watch the command".to_owned())?;
        for file in outputs.iter().map(|output| &output.from).chain([&input]) {
            fcntl(file, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).doing(own_file)?;
        }
        Ok(Self { child, ended, input: Some(input), pending: Vec::new(), last: false, outputs, terminal })
    }

    /// Until the command has ended, or nobody is there for it any more.
    fn converse(&mut self, line: &mut Line) {
        loop {
            if !self.listen(line) || !self.pass_on(line, 1) {
                self.hang_up();
                return;
            }
            if let Some(status) = self.status() {
                if self.pass_on(line, LAST_PIECES) {
                    line.say(&Frame::Ended(status));
                }
                return;
            }
            if self.wait(line) {
                self.hang_up();
                return;
            }
        }
    }

    /// Waits for something to happen; whether that is that the host has gone.
    fn wait(&self, line: &Line) -> bool {
        let mut watched = vec![PollFd::new(self.ended.as_fd(), PollFlags::POLLIN)];
        // More is heard when the command has read what there is; that nobody is there, at once.
        let more = if self.pending.is_empty() { PollFlags::POLLIN } else { PollFlags::empty() };
        watched.push(PollFd::new(line.connection.as_fd(), more | CUT));
        watched.extend(self.outputs.iter().map(|output| PollFd::new(output.from.as_fd(), PollFlags::POLLIN)));
        if let Some(input) = self.input.as_ref().filter(|_| !self.pending.is_empty()) {
            watched.push(PollFd::new(input.as_fd(), PollFlags::POLLOUT));
        }
        // An interruption or an error is one more look.
        let _ = poll(&mut watched, PollTimeout::NONE);
        let gone = CUT | PollFlags::POLLHUP | PollFlags::POLLERR;
        watched[1].revents().is_some_and(|seen| seen.intersects(gone))
    }

    /// Does what the host says; whether it is still there.
    fn listen(&mut self, line: &mut Line) -> bool {
        loop {
            self.feed();
            if !self.pending.is_empty() {
                return true;
            }
            match line.hear() {
                Heard::Frame(Frame::Input(bytes)) => {
                    self.last |= bytes.is_empty();
                    if bytes.is_empty() && self.terminal.is_some() {
                        self.pending.push(END_OF_INPUT);
                    }
                    self.pending.extend_from_slice(&bytes);
                }
                Heard::Frame(Frame::Size(rows, columns)) => {
                    if let Some(terminal) = &self.terminal {
                        // A terminal keeps the size that it has.
                        let _ = resize(terminal, (rows, columns));
                    }
                }
                Heard::Nothing => return true,
                Heard::Frame(_) | Heard::Gone => return false,
            }
        }
    }

    /// Gives the command what it is to read, as much as it takes.
    fn feed(&mut self) {
        let Some(input) = &mut self.input else {
            self.pending.clear();
            return;
        };
        while !self.pending.is_empty() {
            match input.write(&self.pending) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // It reads no more.
                Err(_) => {
                    self.pending.clear();
                    self.last = true;
                }
            }
        }
        if self.last {
            self.input = None;
        }
    }

    /// Passes on what the command wrote, so many pieces of each output at most; whether the host takes it.
    fn pass_on(&mut self, line: &Line, pieces: usize) -> bool {
        let mut piece = vec![0; PAYLOAD_MAX];
        let mut taken = true;
        self.outputs.retain_mut(|output| {
            for _ in 0..pieces {
                match output.from.read(&mut piece) {
                    Ok(count @ 1..) => taken = taken && line.say(&(output.frame)(piece[..count].to_vec())),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return true,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    // Its end; a terminal that nobody has open gives EIO.
                    Ok(_) | Err(_) => return false,
                }
            }
            true
        });
        taken
    }

    /// The command's exit status as shells have it, once it has ended.
    fn status(&self) -> Option<u8> {
        match waitpid(self.child, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => Some(code as u8),
            Ok(WaitStatus::Signaled(_, signal, _)) => Some((SIGNALLED + signal as i32) as u8),
            Ok(_) | Err(Errno::EINTR) => None,
            // It is not there to be asked.
            Err(_) => Some(NOT_RUN),
        }
    }

    /// Ends the command and what it started in its session, as when a terminal's line is cut.
    fn hang_up(&self) {
        let group = Pid::from_raw(-self.child.as_raw());
        for signal in [Signal::SIGHUP, Signal::SIGCONT] {
            let _ = kill(group, signal);
        }
        if !wait_until(HANG_UP_LIMIT, || self.status().is_some()) {
            let _ = kill(group, Signal::SIGKILL);
        }
    }
}

fn own_file() -> String {
    "hold the command's streams".to_owned()
}

/// A new terminal: our end, and the path of the other. By the calls that openpty(3) makes.
fn terminal(size: (u16, u16)) -> nix::Result<(OwnedFd, std::ffi::CString)> {
    nix::ioctl_write_ptr_bad!(unlock, libc::TIOCSPTLCK, libc::c_int);
    nix::ioctl_read_bad!(number, libc::TIOCGPTN, libc::c_uint);
    let ours = open("/dev/ptmx", OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut at = 0;
    // SAFETY: both calls read or write one integer, which is there (pts(4), TIOCSPTLCK(2const)).
    unsafe {
        unlock(ours.as_raw_fd(), &0)?;
        number(ours.as_raw_fd(), &raw mut at)?;
    }
    resize(&ours, size)?;
    let path = std::ffi::CString::new(format!("/dev/pts/{at}")).map_err(|_| Errno::EINVAL)?;
    Ok((ours, path))
}

fn resize(terminal: &OwnedFd, (rows, columns): (u16, u16)) -> nix::Result<()> {
    nix::ioctl_write_ptr_bad!(set_size, libc::TIOCSWINSZ, libc::winsize);
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the call reads the size, which is there (TIOCSWINSZ(2const)).
    unsafe { set_size(terminal.as_raw_fd(), &raw const size) }.map(drop)
}

fn pid_file(pid: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: the call takes numbers, and makes a descriptor or fails; it is nobody else's.
    unsafe {
        let descriptor = libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0);
        Errno::result(descriptor).map(|descriptor| OwnedFd::from_raw_fd(descriptor as i32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::thread::{self, JoinHandle};
    use std::time::Instant;

    /// The host's end of a session.
    struct Host {
        stream: UnixStream,
        frames: Frames,
        session: JoinHandle<()>,
    }

    fn host() -> Host {
        let (stream, theirs) = UnixStream::pair().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let session = thread::spawn(move || run(&theirs.into(), "h"));
        Host { stream, frames: Frames::default(), session }
    }

    impl Host {
        fn say(&mut self, frame: &Frame) {
            self.stream.write_all(&frame.write().unwrap()).unwrap();
        }

        fn run(&mut self, script: &str, terminal: Option<(u16, u16)>) {
            let arguments = ["sh", "-c", script].map(str::to_owned).into();
            let environment = [("A".to_owned(), "b c".to_owned())].into();
            self.say(&Frame::Run(Command { arguments, environment, terminal }));
        }

        fn hear(&mut self) -> Option<Frame> {
            loop {
                if let Some(frame) = self.frames.take().unwrap() {
                    return Some(frame);
                }
                let mut piece = [0; 4096];
                match self.stream.read(&mut piece).unwrap() {
                    0 => return None,
                    count => self.frames.feed(&piece[..count]),
                }
            }
        }

        /// All that it writes, and how it ends.
        fn end(mut self) -> (String, String, Frame) {
            let (mut output, mut errors) = (Vec::new(), Vec::new());
            loop {
                match self.hear().expect("a last frame") {
                    Frame::Output(bytes) => output.extend(bytes),
                    Frame::Errors(bytes) => errors.extend(bytes),
                    last => {
                        assert_eq!(self.hear(), None);
                        self.session.join().unwrap();
                        return (String::from_utf8(output).unwrap(), String::from_utf8(errors).unwrap(), last);
                    }
                }
            }
        }
    }

    #[test]
    fn what_it_reads_and_writes_is_the_hosts() {
        let mut host = host();
        host.run("read x; echo $x $A $HOME $(pwd); echo oops >&2; cat >/dev/null; exit 7", None);
        host.say(&Frame::Input(b"hello\n".to_vec()));
        host.say(&Frame::Input(vec![]));
        let wanted = ("hello b c /root /\n".to_owned(), "oops\n".to_owned(), Frame::Ended(7));
        assert_eq!(host.end(), wanted);
    }

    #[test]
    fn more_than_a_pipe_holds_goes_both_ways() {
        let mut host = host();
        host.run("cat", None);
        let mut writer = host.stream.try_clone().unwrap();
        let feeder = thread::spawn(move || {
            for _ in 0..64 {
                writer.write_all(&Frame::Input(vec![b'x'; 16 << 10]).write().unwrap()).unwrap();
            }
            writer.write_all(&Frame::Input(vec![]).write().unwrap()).unwrap();
        });
        let (output, _, last) = host.end();
        feeder.join().unwrap();
        assert_eq!((output.len(), last), (1 << 20, Frame::Ended(0)));
    }

    #[test]
    fn a_terminal_is_one() {
        let mut host = host();
        host.run("tty; stty size; read x; stty size; kill -9 $$", Some((24, 80)));
        let mut output = Vec::new();
        while !output.ends_with(b"24 80\r\n") {
            let Some(Frame::Output(bytes)) = host.hear() else { panic!("{output:?}") };
            output.extend(bytes);
        }
        host.say(&Frame::Size(50, 132));
        host.say(&Frame::Input(b"\n".to_vec()));
        let (output, _, last) = host.end();
        assert_eq!((output.ends_with("50 132\r\n"), last), (true, Frame::Ended(137)), "{output}");
    }

    #[test]
    fn a_terminals_input_ends() {
        let mut host = host();
        host.run("cat", Some((24, 80)));
        host.say(&Frame::Input(b"a\n".to_vec()));
        host.say(&Frame::Input(vec![]));
        assert_eq!(host.end().2, Frame::Ended(0));
    }

    #[test]
    fn what_cannot_run_is_told_as_a_shell_tells_it() {
        for (path, status) in [("no-such-program", NOT_FOUND), ("/etc/passwd", NOT_RUN)] {
            let mut host = host();
            host.say(&Frame::Run(Command { arguments: vec![path.to_owned()], ..Command::default() }));
            let Frame::Refused(told, why) = host.end().2 else { panic!() };
            assert_eq!(told, status);
            assert!(why.starts_with(&format!("cannot start {path}: ")), "{why}");
        }
    }

    #[test]
    fn a_host_that_goes_ends_the_command() {
        for script in ["echo $$; sleep 1000", "trap '' HUP; echo $$; sleep 1000", "echo $$; yes"] {
            let mut host = host();
            host.run(script, None);
            let Some(Frame::Output(pid)) = host.hear() else { panic!() };
            let pid = String::from_utf8(pid).unwrap();
            let began = Instant::now();
            drop(host.stream);
            host.session.join().unwrap();
            assert!(began.elapsed() < Duration::from_secs(5));
            // What was killed at last is not waited for by the session.
            let pid = Pid::from_raw(pid.lines().next().unwrap().parse().unwrap());
            let _ = waitpid(pid, None);
            assert_eq!(kill(pid, None), Err(Errno::ESRCH));
        }
    }

    #[test]
    fn what_it_leaves_running_is_not_waited_for() {
        let mut host = host();
        host.run("yes & exit 3", None);
        assert_eq!(host.end().2, Frame::Ended(3));
    }

    #[test]
    fn a_host_that_speaks_of_something_else_is_left() {
        for bytes in [b"GET / HTTP/1.1\r\n".as_slice(), b"i\0\0", b""] {
            let mut host = host();
            host.stream.write_all(bytes).unwrap();
            host.stream.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(host.hear(), None);
            host.session.join().unwrap();
        }
    }
}
