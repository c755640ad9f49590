//! The way to the PID 1 of a guest that runs commands ([`thimble_spec::exec`]): its VMM's socket device, where programs of the
//! host are passed on.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use thimble_spec::exec::PORT;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long a guest may take to let somebody in.
const WELCOME_LIMIT: Duration = Duration::from_secs(10);
/// The longest answer of a VMM: `OK`, a space, a port, a newline ([`thimble_spec::vmm::Vsock`]).
const ANSWER_MAX: usize = 32;

/// Connects to the PID 1 of the guest whose socket device is there.
///
/// # Errors
/// There is no such device, or nobody listens in the guest.
pub async fn connect(socket: &Path) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(socket).await.context("it has no socket device")?;
    let welcome = async {
        stream.write_all(format!("CONNECT {PORT}\n").as_bytes()).await?;
        let mut answer = Vec::new();
        // Byte by byte: what follows is the guest's own.
        while !answer.ends_with(b"\n") {
            ensure!(answer.len() < ANSWER_MAX, "its VMM says something else");
            // Who is refused is closed.
            let byte = stream.read_u8().await.context("its PID 1 does not listen for them")?;
            answer.push(byte);
        }
        ensure!(answer.starts_with(b"OK "), "its VMM says something else");
        Ok(())
    };
    timeout(WELCOME_LIMIT, welcome).await.context("its PID 1 does not answer")??;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    /// What comes of a VMM that answers so.
    async fn answered(answer: &'static [u8]) -> Result<Vec<u8>> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("guest");
        let listener = UnixListener::bind(&path).unwrap();
        let vmm = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 10];
            stream.read_exact(&mut asked).await.unwrap();
            assert_eq!(asked, *b"CONNECT 1\n");
            stream.write_all(answer).await.unwrap();
        });
        let mut stream = connect(&path).await?;
        vmm.await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        Ok(rest)
    }

    #[tokio::test]
    async fn a_guest_lets_in_or_not() {
        assert_eq!(answered(b"OK 1073741824\no\x01\0x").await.unwrap(), b"o\x01\0x");
        for (answer, wanted) in [
            (b"".as_slice(), "does not listen"),
            (b"OK", "does not listen"),
            (b"NO 1\n", "says something else"),
            (&[b'1'; 99], "says something else"),
        ] {
            let told = answered(answer).await.unwrap_err().to_string();
            assert!(told.contains(wanted), "{told}");
        }
        assert!(connect(Path::new("/nonexistent")).await.unwrap_err().to_string().contains("no socket device"));
    }
}
