//! Landlock (Linux `Documentation/userspace-api/landlock.rst`): no file can be opened, made or removed, no TCP port taken
//! or reached, no process outside signalled and no abstract socket of theirs connected to, should a path, an interface
//! or a name still lead somewhere. Sockets with a path, which a guest's socket device is for, are not its affair.

use std::io;

use landlock::{ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus, Scope};

use super::{Failure, failed};

/// The newest set of rights that is used; of those the kernel's part is. Version 9 would forbid sockets with a path too.
const NEWEST: ABI = ABI::V6;

/// Forbids every access that the kernel can forbid; false if it can forbid none. What stays open stays usable.
pub(super) fn forbid_all() -> Result<bool, Failure> {
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(NEWEST)))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(NEWEST)))
        .and_then(|ruleset| ruleset.create());
    let restricted = ruleset.and_then(|ruleset| ruleset.restrict_self());
    let status = restricted.map_err(io::Error::other).map_err(failed("forbid files and sockets (Landlock)"))?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::{TcpListener, TcpStream};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
    use std::os::unix::thread::JoinHandleExt;
    use std::thread;

    use nix::sys::signal::kill;
    use nix::unistd::Pid;

    use super::*;

    /// Version of the kernel's Landlock; 0 is none.
    fn version() -> i64 {
        // SAFETY: with these arguments the call only tells its version.
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0, 1) }.max(0)
    }

    #[test]
    fn nothing_outside_is_reached_but_sockets_with_a_path() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let with_path = UnixListener::bind(&path).unwrap();
        let name = SocketAddr::from_abstract_name(path.as_os_str().as_encoded_bytes()).unwrap();
        let abstract_one = UnixListener::bind_addr(&name).unwrap();
        let tcp = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = tcp.local_addr().unwrap();

        // The rules are a thread's, and of those that it starts: this one's alone here.
        let attempts = thread::spawn(move || {
            let forbidden = forbid_all().unwrap();
            let attempts = [
                (1, "open a file", File::open("/dev/null").map(drop)),
                (1, "make a file", File::create(directory.path().join("file")).map(drop)),
                (1, "remove a socket", std::fs::remove_file(&path)),
                (4, "take a port", TcpListener::bind(("127.0.0.1", 0)).map(drop)),
                (4, "reach a port", TcpStream::connect(port).map(drop)),
                (6, "reach an abstract socket", UnixStream::connect_addr(&name).map(drop)),
                (6, "signal another process", kill(Pid::parent(), None).map_err(io::Error::from)),
            ];
            // As the socket device does, and as vCPUs are interrupted.
            UnixStream::connect(&path).unwrap();
            let sibling = thread::spawn(thread::park);
            // SAFETY: the thread waits, and has yet to be joined; signal 0 does nothing.
            assert_eq!(unsafe { libc::pthread_kill(sibling.as_pthread_t(), 0) }, 0);
            sibling.thread().unpark();
            sibling.join().unwrap();
            (forbidden, attempts)
        });
        let (forbidden, attempts) = attempts.join().unwrap();
        assert_eq!(forbidden, version() > 0);
        for (since, what, outcome) in attempts {
            if version() < since {
                eprintln!("SKIPPED: {what}: this machine's kernel has version {} of Landlock", version());
                continue;
            }
            let refused = outcome.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
            assert!(refused, "{what}: {outcome:?}");
        }
        drop((with_path, abstract_one, tcp));
    }
}
