//! A connection whose other end must take what it asked for.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// How long a client may take nothing.
pub const STILL: Duration = Duration::from_secs(60);

/// The connection: a write that waits for [`STILL`] fails.
#[derive(Debug)]
pub struct Patient<S> {
    stream: S,
    /// Since a write waits.
    limit: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    /// Of this stream.
    pub fn new(stream: S) -> Self {
        Self { stream, limit: None }
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

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.hold(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
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
}
