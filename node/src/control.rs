//! The daemon's side of a VMM's control socket (see [`thimble_spec::vmm`]).

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use thimble_spec::vmm::{Answer, Event, LINE_MAX, Outcome, Reply, Request, VERSION, Verb};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long a VMM may take to answer. It answers from memory; this is for a host whose CPUs are all busy.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// A connection to a VMM.
#[derive(Debug)]
pub struct Control {
    stream: BufReader<UnixStream>,
}

impl Control {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens.
    pub async fn connect(socket: &Path) -> std::io::Result<Self> {
        Ok(Self { stream: BufReader::new(UnixStream::connect(socket).await?) })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// The VMM refuses, is gone, or does not answer in time.
    pub async fn ask(&mut self, verb: Verb) -> Result<Answer> {
        let mut line = serde_json::to_vec(&Request { v: VERSION, verb })?;
        line.push(b'\n');
        let answer = async {
            self.stream.get_mut().write_all(&line).await?;
            let line = self.line().await?.context("the VMM closed the control socket")?;
            Ok::<Reply, anyhow::Error>(serde_json::from_str(&line)?)
        };
        let reply = timeout(ANSWER_LIMIT, answer).await.context("the VMM does not answer")??;
        match reply.outcome {
            Outcome::Ok(answer) => Ok(answer),
            Outcome::Error(sentence) => bail!(sentence),
        }
    }

    /// After [`Verb::Watch`]: waits for the next event; `None` when the VMM is gone.
    ///
    /// # Errors
    /// It says something that is no event.
    pub async fn event(&mut self) -> Result<Option<Event>> {
        match self.line().await {
            Ok(Some(line)) => Ok(Some(serde_json::from_str(&line).context("not an event")?)),
            // A VMM that is killed resets its connections: that is its end, like any other.
            Ok(None) => Ok(None),
            Err(error) if error.is::<std::io::Error>() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// After [`Verb::Console`]: the raw stream.
    pub fn into_stream(self) -> BufReader<UnixStream> {
        self.stream
    }

    /// Asks a VMM for something that its guest answers by an event, and waits for that: `answer` knows it.
    ///
    /// # Errors
    /// The VMM refuses, or is gone; what `answer` makes of the event.
    pub async fn hear<T>(socket: &Path, verb: Verb, answer: impl Fn(Event) -> Option<Result<T>>) -> Result<T> {
        // First, so that the answer is not missed.
        let mut watch = Self::connect(socket).await?;
        watch.ask(Verb::Watch).await?;
        Self::connect(socket).await?.ask(verb).await?;
        while let Some(event) = watch.event().await? {
            if let Some(answer) = answer(event) {
                return answer;
            }
        }
        bail!("it has ended")
    }

    async fn line(&mut self) -> Result<Option<String>> {
        let mut line = String::new();
        let count = (&mut self.stream).take(LINE_MAX as u64).read_line(&mut line).await?;
        ensure!(count == 0 || line.ends_with('\n'), "the VMM's line is cut off or longer than {LINE_MAX} bytes");
        Ok((count > 0).then_some(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    /// A VMM that says `text` to the first line that it is sent, and closes.
    async fn says(text: &'static [u8]) -> Control {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("s")).unwrap();
        let control = Control::connect(&directory.path().join("s")).await.unwrap();
        let (peer, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let mut peer = BufReader::new(peer);
            peer.read_line(&mut String::new()).await.unwrap();
            peer.get_mut().write_all(text).await.unwrap();
        });
        control
    }

    #[tokio::test]
    async fn answers_events_and_the_end() {
        let mut control = says(b"{\"v\":1,\"ok\":\"done\"}\n{\"event\":\"ready\",\"seconds\":1.5}\n").await;
        assert_eq!(control.ask(Verb::Watch).await.unwrap(), Answer::Done);
        assert_eq!(control.event().await.unwrap(), Some(Event::Ready { seconds: 1.5 }));
        assert_eq!(control.event().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_refusal_is_the_error() {
        let mut control = says(b"{\"v\":1,\"error\":\"no such verb\"}\n").await;
        assert_eq!(control.ask(Verb::Status).await.unwrap_err().to_string(), "no such verb");
    }

    #[tokio::test]
    async fn nonsense_and_half_lines_are_errors() {
        assert!(says(b"nonsense\n").await.ask(Verb::Status).await.is_err());
        assert!(says(b"{\"v\":1,\"ok\":\"do").await.ask(Verb::Status).await.is_err());
    }
}
