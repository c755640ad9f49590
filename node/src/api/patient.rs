//! A connection whose other end must take what it asked for, and has the time to.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// How long a client may take nothing.
pub const STILL: Duration = Duration::from_secs(60);
/// How long a client that is still sending when it has its answer may take to see that, and to close. If the connection were
/// closed before, the kernel would reset it for what nobody has read (RFC 1122, section 4.2.2.13), and the answer with it.
const LINGER: Duration = Duration::from_secs(5);
/// What is thrown away at a time.
const THROWN: usize = 16 << 10;

/// The connection: a write that waits for [`STILL`] fails, and its end waits for the other end's for [`LINGER`].
#[derive(Debug)]
pub struct Patient<S> {
    stream: S,
    /// Since a write waits.
    limit: Option<Pin<Box<Sleep>>>,
    /// Since nothing more is written.
    linger: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    /// Of this stream.
    pub fn new(stream: S) -> Self {
        Self { stream, limit: None, linger: None }
    }

    fn hold<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.limit = None;
            return written;
        }
        let limit = self.limit.get_or_insert_with(|| Box::pin(sleep(STILL)));
        ready!(limit.as_mut().poll(context));
        limit.as_mut().reset(Instant::now() + STILL);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.hold(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
        }
        let Self { stream, linger, .. } = &mut *self;
        let linger = linger.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        while linger.as_mut().poll(context).is_pending() {
            let mut thrown = [MaybeUninit::uninit(); THROWN];
            let mut thrown = ReadBuf::uninit(&mut thrown);
            match ready!(Pin::new(&mut *stream).poll_read(context, &mut thrown)) {
                Ok(()) if !thrown.filled().is_empty() => {}
                // It has closed, or is gone.
                Ok(()) | Err(_) => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_left_and_who_is_slow_is_not() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut ours = Patient::new(ours);
        let writing = tokio::spawn(async move {
            let error = ours.write_all(&vec![0; 4 << 20]).await.unwrap_err();
            (ours, error.kind())
        });
        sleep(STILL / 2).await;
        theirs.read_exact(&mut vec![0; 1 << 20]).await.unwrap();
        sleep(STILL / 2).await;
        assert!(!writing.is_finished());
        let (_ours, kind) = writing.await.unwrap();
        assert_eq!(kind, io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn who_still_sends_has_its_answer_before_the_end() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut ours = Patient::new(ours);
        let ending = tokio::spawn(async move {
            ours.write_all(b"no").await.unwrap();
            ours.shutdown().await.unwrap();
        });
        // Far more than the sockets hold.
        theirs.write_all(&vec![0; 4 << 20]).await.unwrap();
        let mut answer = Vec::new();
        theirs.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"no");
        assert!(!ending.is_finished());
        drop(theirs);
        ending.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_never_closes_is_left() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let begun = Instant::now();
        Patient::new(ours).shutdown().await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), LINGER.as_secs());
        drop(theirs);
    }
}
