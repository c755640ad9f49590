//! The host's side: where programs of the host connect to, where the guest's connections go, and one socket with what
//! it has yet to take.

use std::ffi::OsString;
use std::io::{self, ErrorKind, Read, Write};
use std::mem::offset_of;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use crate::control::socket::Socket;
use crate::error::{Error, Result};
use crate::virtio::buffers::Buffers;

/// Event data of the listening socket. Connections count from 0.
pub const LISTENER: u64 = u64::MAX;

/// Longest first line of a program: `CONNECT`, a space, a port, a newline, and some room.
const GREETING_MAX: usize = 32;
/// Bytes of a path of a socket, its terminating zero included (unix(7)).
const PATH_MAX: usize = 108;
/// Bytes that a port adds to the path: `_` and ten digits.
const PORT_MAX: usize = 11;

/// Whether a socket can have `path`, and others the same with a port behind it.
///
/// # Errors
/// It is too long.
pub fn check(path: &Path) -> Result<()> {
    let most = PATH_MAX - 1 - PORT_MAX;
    if path.as_os_str().len() > most {
        let message = format!("a socket device's path has {most} bytes at most: {} is longer", path.display());
        return Err(Error::Config(message));
    }
    Ok(())
}

/// Where the host's programs are met.
#[derive(Debug)]
pub struct Host {
    listener: Socket,
    /// Without symbolic links: the jail keeps it, and nothing else, at this path.
    directory: PathBuf,
    name: OsString,
    epoll: Epoll,
}

impl Host {
    /// Listens at `path`.
    ///
    /// # Errors
    /// The path is no socket's, or too long for one; as [`Socket::bind`].
    pub fn bind(path: &Path) -> Result<Self> {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Error::Config(format!("a socket device cannot listen at {}: name a file", path.display())));
        };
        // As the jail has it, which knows no symbolic links, nor where we are.
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        let directory = directory.canonicalize().map_err(|source| Error::File {
            action: "find the socket device's directory",
            path: directory.to_owned(),
            source,
        })?;
        let path = directory.join(name);
        check(&path)?;
        let (listener, file) = Socket::bind(&path)?;
        // In its jail a VMM removes no files: the minder does.
        file.leave();
        let epoll = Epoll::new().map_err(Error::host("make an epoll instance"))?;
        let host = Self { listener, directory, name: name.to_owned(), epoll };
        host.watch(host.listener.listener().as_fd(), EventSet::IN, LISTENER)
            .map_err(Error::host("watch a socket device's socket"))?;
        Ok(host)
    }

    /// Readable when [`Self::events`] has something.
    pub fn source(&self) -> BorrowedFd<'_> {
        // SAFETY: the epoll instance owns the descriptor and lives as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(self.epoll.as_raw_fd()) }
    }

    /// What happened since the last call, at the sockets' edges; says how many events there are.
    pub fn events(&self, events: &mut [EpollEvent]) -> usize {
        self.epoll.wait(0, events).unwrap_or(0)
    }

    /// Watches a connection's socket as number `id`. Closing the socket ends that.
    ///
    /// # Errors
    /// The host refuses.
    pub fn watch_stream(&self, stream: &Stream, id: u64) -> io::Result<()> {
        self.watch(stream.socket.as_fd(), EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP, id)
    }

    fn watch(&self, fd: BorrowedFd<'_>, events: EventSet, data: u64) -> io::Result<()> {
        let event = EpollEvent::new(events | EventSet::EDGE_TRIGGERED, data);
        self.epoll.ctl(ControlOperation::Add, fd.as_raw_fd(), event)
    }

    /// The next program that has connected, if there is one.
    pub fn accept(&self) -> Option<Stream> {
        let socket = self.listener.accept()?;
        socket.set_nonblocking(true).ok()?;
        Some(Stream::new(socket))
    }

    /// Connects to whoever listens for the guest's connections to `port`. Does not wait: where the backlog of the one
    /// who listens is full, the guest is refused.
    ///
    /// # Errors
    /// Nobody listens; the host refuses.
    pub fn connect(&self, port: u32) -> io::Result<Stream> {
        let mut name = self.name.clone();
        name.push(format!("_{port}"));
        let path = self.directory.join(name);
        let path = path.as_os_str().as_bytes();
        // SAFETY: an address of zeros is a valid one.
        let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
        address.sun_family = libc::AF_UNIX as libc::sa_family_t;
        // The length was checked at the start; the last byte stays zero.
        for (to, from) in address.sun_path[..PATH_MAX - 1].iter_mut().zip(path) {
            *to = *from as libc::c_char;
        }
        let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: the call takes numbers, and makes a descriptor or fails.
        let fd = unsafe { libc::socket(libc::AF_UNIX, kind, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was made just now and is nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let length = offset_of!(libc::sockaddr_un, sun_path) + path.len() + 1;
        // SAFETY: the address has at least as many bytes as the call is told.
        if unsafe { libc::connect(fd.as_raw_fd(), (&raw const address).cast(), length as libc::socklen_t) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Stream::new(fd.into()))
    }
}

/// What a program has said first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// Not enough yet.
    Incomplete,
    /// It wants this port of the guest.
    Port(u32),
    /// Nothing that we understand, or it is gone.
    Wrong,
}

/// What came of reading from a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// So many bytes, at least one.
    Bytes(usize),
    /// None now.
    Nothing,
    /// None any more.
    End,
}

/// A socket of the host, which does not block, and the bytes that it has yet to take.
#[derive(Debug)]
pub struct Stream {
    socket: UnixStream,
    backlog: Vec<u8>,
    /// There may be something to read: until a read says otherwise.
    pub readable: bool,
    finishing: bool,
}

impl Stream {
    /// A socket that was made just now.
    pub fn new(socket: UnixStream) -> Self {
        Self { socket, backlog: Vec::new(), readable: false, finishing: false }
    }

    /// What the program has said first, and takes it from the socket if it is complete. What it said behind it is data.
    pub fn greeting(&mut self) -> Greeting {
        let mut line = [0; GREETING_MAX];
        // SAFETY: the buffer has as many bytes as the call is told.
        let count =
            unsafe { libc::recv(self.socket.as_raw_fd(), line.as_mut_ptr().cast(), line.len(), libc::MSG_PEEK) };
        let Ok(count) = usize::try_from(count) else {
            let waits = matches!(io::Error::last_os_error().kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted);
            return if waits { Greeting::Incomplete } else { Greeting::Wrong };
        };
        let Some(end) = line[..count].iter().position(|byte| *byte == b'\n') else {
            return if count == 0 || count == GREETING_MAX { Greeting::Wrong } else { Greeting::Incomplete };
        };
        match (port_of(&line[..end]), self.socket.read_exact(&mut [0; GREETING_MAX][..=end])) {
            (Some(port), Ok(())) => Greeting::Port(port),
            _ => Greeting::Wrong,
        }
    }

    /// Tells the program that the guest has accepted: its connection has `port` on the host's side.
    ///
    /// # Errors
    /// It is gone. A socket to which nothing was written yet takes a line.
    pub fn accept(&mut self, port: u32) -> io::Result<()> {
        self.socket.write_all(format!("OK {port}\n").as_bytes())
    }

    /// Number of bytes that the program has yet to take.
    pub fn backlog(&self) -> usize {
        self.backlog.len()
    }

    /// Passes `data` on; says how many bytes the program took, of these and of the backlog. The rest waits.
    ///
    /// # Errors
    /// The program takes no more.
    pub fn send(&mut self, mut data: Buffers<'_>) -> io::Result<usize> {
        let mut sent = 0;
        if self.backlog.is_empty() {
            sent = data.first(data.len()).send(self.socket.as_fd()).or_else(not_now)?;
        }
        let Some(mut rest) = data.split_off(sent).filter(|rest| !rest.is_empty()) else { return Ok(sent) };
        let start = self.backlog.len();
        self.backlog.resize(start + rest.len(), 0);
        rest.drain(&mut self.backlog[start..]);
        Ok(sent + self.flush()?)
    }

    /// Passes on what waits, as far as the program takes it; says how many bytes that were.
    ///
    /// # Errors
    /// The program takes no more.
    pub fn flush(&mut self) -> io::Result<usize> {
        let mut done = 0;
        while done < self.backlog.len() {
            match self.socket.write(&self.backlog[done..]).or_else(not_now)? {
                0 => break,
                count => done += count,
            }
        }
        self.backlog.drain(..done);
        if self.backlog.is_empty() {
            // An idle connection costs no memory.
            self.backlog = Vec::new();
            if self.finishing {
                // One that is gone needs no telling.
                let _ = self.socket.shutdown(Shutdown::Write);
            }
        }
        Ok(done)
    }

    /// Nothing comes behind the backlog: the program sees its end when it has taken it.
    ///
    /// # Errors
    /// The program takes no more.
    pub fn finish(&mut self) -> io::Result<usize> {
        self.finishing = true;
        self.flush()
    }

    /// Drops what waits: nobody will take it.
    pub fn forget(&mut self) {
        self.backlog = Vec::new();
    }

    /// Nobody reads what the program sends.
    pub fn stop_reading(&mut self) {
        self.readable = false;
        // One that is gone needs no telling.
        let _ = self.socket.shutdown(Shutdown::Read);
    }

    /// Reads what the program sent into `buffers`.
    pub fn receive(&mut self, buffers: &Buffers<'_>) -> Received {
        loop {
            match buffers.receive(self.socket.as_fd()) {
                Ok(count) if count > 0 => return Received::Bytes(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                outcome => {
                    self.readable = false;
                    let waits = outcome.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
                    return if waits { Received::Nothing } else { Received::End };
                }
            }
        }
    }
}

/// A socket that takes nothing now has taken nothing.
fn not_now(error: io::Error) -> io::Result<usize> {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(0),
        _ => Err(error),
    }
}

/// The port that a line without its newline asks for.
fn port_of(line: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(line.strip_prefix(b"CONNECT ")?).ok()?;
    // A sign is none of a port's.
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Stream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Stream::new(ours), theirs)
    }

    #[test]
    fn a_greeting_is_a_line_and_the_rest_is_data() {
        let (mut stream, mut program) = pair();
        assert_eq!(stream.greeting(), Greeting::Incomplete);
        program.write_all(b"CONNECT 10").unwrap();
        assert_eq!(stream.greeting(), Greeting::Incomplete);
        program.write_all(b"24\nhello").unwrap();
        assert_eq!(stream.greeting(), Greeting::Port(1024));
        let mut rest = [0; 5];
        stream.socket.read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"hello");
    }

    #[test]
    fn other_greetings_are_not_understood() {
        for text in ["connect 1\n", "CONNECT\n", "CONNECT \n", "CONNECT +1\n", "CONNECT 4294967296\n", "\n"] {
            let (mut stream, mut program) = pair();
            program.write_all(text.as_bytes()).unwrap();
            assert_eq!(stream.greeting(), Greeting::Wrong, "{text}");
        }
        let (mut stream, mut program) = pair();
        program.write_all(&[b'C'; GREETING_MAX]).unwrap();
        assert_eq!(stream.greeting(), Greeting::Wrong);
        let (mut stream, program) = pair();
        drop(program);
        assert_eq!(stream.greeting(), Greeting::Wrong);
    }

    #[test]
    fn a_path_must_leave_room_for_a_port() {
        let directory = tempfile::tempdir().unwrap();
        let long = directory.path().join("x".repeat(100));
        assert!(matches!(Host::bind(&long), Err(Error::Config(_))));
        assert!(Host::bind(Path::new("/")).is_err());
        let host = Host::bind(&directory.path().join("v")).unwrap();
        assert_eq!(host.connect(5).unwrap_err().kind(), ErrorKind::NotFound);
        let _listener = std::os::unix::net::UnixListener::bind(directory.path().join("v_5")).unwrap();
        assert!(host.connect(5).is_ok());
    }
}
