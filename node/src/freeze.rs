//! The file system of a guest's disk, frozen for a moment by its PID 1 (see [`thimble_spec::vmm::Verb::Freeze`]). A guest that
//! does not answer, for it has another PID 1 or is busy, is not waited for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, anyhow};
use thimble_spec::vmm::{Event, FREEZE_LIMIT_S, Verb};
use tokio::time::{Instant, timeout};

use crate::control::Control;
use crate::guest::command;

/// How long a guest may take to write out what it has in memory.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// A guest that was asked.
#[derive(Debug)]
pub struct Freeze {
    socket: PathBuf,
    asked: Instant,
    outcome: Result<()>,
}

impl Freeze {
    /// Asks the guest whose VMM listens there, and waits for its answer.
    pub async fn ask(socket: &Path) -> Self {
        let asked = Instant::now();
        let outcome = match timeout(ANSWER_LIMIT, freeze(socket)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow!("its PID 1 did not answer within {} s", ANSWER_LIMIT.as_secs())),
        };
        Self { socket: socket.to_owned(), asked, outcome }
    }

    /// Why it is not frozen now; none if it is.
    pub fn fault(&self) -> Option<String> {
        match &self.outcome {
            Err(error) => Some(format!("{error:#}")),
            // By its own clock it was asked later than by this one.
            Ok(()) if self.asked.elapsed() < Duration::from_secs(FREEZE_LIMIT_S) => None,
            Ok(()) => Some(format!("it was frozen for {FREEZE_LIMIT_S} s, and no longer")),
        }
    }

    /// Lets it go on.
    pub async fn thaw(self) {
        // One that is gone needs it no more, and one that does not hear it does so by itself.
        let _ = command(&self.socket, Verb::Thaw).await;
    }
}

async fn freeze(socket: &Path) -> Result<()> {
    let frozen = |event| match event {
        Event::Frozen { done: true } => Some(Ok(())),
        Event::Frozen { done: false } => Some(Err(anyhow!("it could not freeze its file system"))),
        _ => None,
    };
    Control::hear(socket, Verb::Freeze, frozen).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::UnixListener;

    /// Asks a VMM whose guest says this to it.
    async fn asked(refusal: Option<&'static str>, event: &'static str) -> Option<String> {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let vmm = tokio::spawn(async move {
            let mut heard = Vec::new();
            let mut watcher = None;
            while let Ok((stream, _)) = listener.accept().await {
                let (mut stream, mut line) = (BufReader::new(stream), String::new());
                stream.read_line(&mut line).await.unwrap();
                let ok = "{\"v\":1,\"ok\":\"done\"}\n".to_owned();
                let is_freeze = line.contains("freeze");
                let answer =
                    refusal.filter(|_| is_freeze).map(|it| format!("{{\"v\":1,\"error\":\"{it}\"}}\n")).unwrap_or(ok);
                stream.get_mut().write_all(answer.as_bytes()).await.unwrap();
                if line.contains("watch") {
                    watcher = Some(stream);
                } else if is_freeze && let Some(watcher) = &mut watcher {
                    watcher.get_mut().write_all(event.as_bytes()).await.unwrap();
                }
                heard.push(line);
                if heard.len() == 3 {
                    break;
                }
            }
            heard
        });
        let freeze = Freeze::ask(&socket).await;
        let fault = freeze.fault();
        freeze.thaw().await;
        assert!(vmm.await.unwrap()[2].contains("thaw"), "whatever it answered");
        fault
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_answers_or_is_not_waited_for() {
        let other = "{\"event\":\"ready\",\"seconds\":1.5}\n";
        assert_eq!(asked(None, "{\"event\":\"frozen\",\"done\":true}\n").await, None);
        for (refusal, event, wanted) in [
            (None, "{\"event\":\"frozen\",\"done\":false}\n", "could not freeze"),
            (None, other, "did not answer within 20 s"),
            (Some("this guest is not ready"), other, "is not ready"),
        ] {
            let fault = asked(refusal, event).await.unwrap();
            assert!(fault.contains(wanted), "{fault}");
        }
        assert!(Freeze::ask(Path::new("/nonexistent")).await.fault().is_some());
    }
}
