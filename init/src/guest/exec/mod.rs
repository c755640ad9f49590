//! Commands that the host sends ([`thimble_spec::exec`]), where the guest's definition lets them in. They come by the guest's
//! socket device; PID 1 only opens the door: what follows, for each command, is a process of its own ([`session`]).

mod session;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, VsockAddr, accept4, bind, getpeername, listen, send, socket,
};
use nix::unistd::{ForkResult, Pid, fork};
use thimble_spec::exec::{Frame, NOT_RUN, PORT};

use crate::console;
use crate::error::{Doing, Result};

/// Commands at a time.
const SESSIONS_MAX: usize = 8;

/// Where commands come in.
pub struct Door {
    listener: OwnedFd,
    /// For `HOSTNAME`.
    host: String,
    sessions: Vec<Pid>,
}

impl Door {
    /// Opens it, if the guest's definition says so. A guest without it is a guest all the same.
    pub fn open(wanted: bool, host: &str) -> Option<Self> {
        if !wanted {
            return None;
        }
        let listener = bound().map_err(|error| console::failed(&error)).ok()?;
        Some(Self { listener, host: host.to_owned(), sessions: Vec::new() })
    }

    /// Lets in who is there.
    pub fn welcome(&mut self) {
        // Who waits for the next look has not long to wait.
        for _ in 0..SESSIONS_MAX {
            match accept4(self.listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
                // SAFETY: the kernel made the descriptor just now, and nobody else has it.
                Ok(connection) => self.receive(unsafe { OwnedFd::from_raw_fd(connection) }),
                Err(Errno::EINTR | Errno::ECONNABORTED) => {}
                Err(_) => return,
            }
        }
    }

    fn receive(&mut self, connection: OwnedFd) {
        let host = libc::VMADDR_CID_HOST;
        if getpeername::<VsockAddr>(connection.as_raw_fd()).map(|address| address.cid()) != Ok(host) {
            return;
        }
        if self.sessions.len() >= SESSIONS_MAX {
            let sentence = format!("{SESSIONS_MAX} commands run in this guest already: wait for one to end");
            // Who does not take a word at once has ended.
            if let Ok(frame) = Frame::Refused(NOT_RUN, sentence).write() {
                let _ = send(connection.as_raw_fd(), &frame, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
            }
            return;
        }
        // SAFETY: this process has no other threads, so the child may do whatever it likes.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => {
                // PID 1 has its signals from a descriptor; this process ends by them.
                let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
                session::run(&connection, &self.host);
                // SAFETY: ends the process, and nothing else of PID 1's.
                unsafe { libc::_exit(0) }
            }
            Ok(ForkResult::Parent { child }) => self.sessions.push(child),
            Err(errno) => console::error(&format!("cannot run what the host sends: {errno}")),
        }
    }

    /// A child has ended.
    pub fn ended(&mut self, child: Pid) {
        self.sessions.retain(|session| *session != child);
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

fn bound() -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let made = || -> nix::Result<OwnedFd> {
        let listener = socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
        bind(listener.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_ANY, PORT))?;
        listen(&listener, Backlog::new(SESSIONS_MAX as i32)?)?;
        Ok(listener)
    };
    made().doing(|| "listen for what the host sends".to_owned())
}
