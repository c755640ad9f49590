//! The listening socket.

use std::fs;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, umask};

use crate::error::{Error, Result};

/// A listening socket.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
}

/// The socket's name in the file system, which goes away with its owner: the minder, for its VMM sees no files.
#[derive(Debug)]
pub struct Name(Option<PathBuf>);

impl Socket {
    /// Listens at `path`, for this user alone. A socket that a dead VMM left there is replaced, one at which somebody
    /// listens is not.
    ///
    /// # Errors
    /// Somebody listens there; something else is there; the host refuses.
    pub fn bind(path: &Path) -> Result<(Self, Name)> {
        let error = |source| Error::File { action: "listen at", path: path.to_owned(), source };
        match UnixStream::connect(path) {
            Ok(_) => {
                let message = format!("a VMM listens at {} already: stop it, or use another socket", path.display());
                return Err(Error::Config(message));
            }
            Err(failure) if failure.kind() == io::ErrorKind::ConnectionRefused => {
                use std::os::unix::fs::FileTypeExt;
                if !fs::symlink_metadata(path).map_err(error)?.file_type().is_socket() {
                    return Err(error(io::Error::from_raw_os_error(libc::EEXIST)));
                }
                fs::remove_file(path).map_err(error)?;
            }
            // Nothing is there, or something that `bind` has a word for.
            Err(_) => {}
        }
        // The mode must be right from the first moment; no other thread makes files yet.
        let before = umask(Mode::from_bits_truncate(0o177));
        let bound = UnixListener::bind(path);
        umask(before);
        let listener = bound.map_err(error)?;
        listener.set_nonblocking(true).map_err(error)?;
        Ok((Self { listener }, Name(Some(path.to_owned()))))
    }

    /// The next connection, if there is one.
    pub fn accept(&self) -> Option<UnixStream> {
        self.listener.accept().ok().map(|(stream, _)| stream)
    }

    /// To be watched for connections.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Name {
    /// Leaves it where it is: somebody else removes it.
    pub fn leave(mut self) {
        self.0 = None;
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // Somebody who removed it already did our work.
            let _ = fs::remove_file(path);
        }
    }
}

/// Removes the socket at `path` if nobody listens there.
pub fn remove_dead(path: &Path) {
    let dead = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if UnixStream::connect(path).err().is_some_and(dead) {
        // What cannot be removed is replaced by the next one who listens there.
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        drop(UnixListener::bind(&path).unwrap());
        let (socket, name) = Socket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(Socket::bind(&path).unwrap_err().sentence().contains("listens at"));
        drop(name);
        assert!(!path.exists());
        drop(socket);
    }

    #[test]
    fn a_file_in_the_way_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("precious");
        fs::write(&path, "data").unwrap();
        assert!(Socket::bind(&path).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"data");
    }
}
