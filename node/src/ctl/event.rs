//! `thimblectl event`: what happens, as it happens. When the daemon goes away and comes back, it goes on after the last event
//! that it saw.

use std::io::{Write, stdout};
use std::time::Duration;

use hyper::Method;
use thimble_spec::api::event::{Event, What};
use tokio::time::sleep;

use super::client::{self, Client};
use super::failure::Failure;
use super::table::state;
use crate::syslog::format::timestamp;

/// The pause before the daemon is asked again.
const AGAIN: Duration = Duration::from_secs(1);
/// So often a daemon that is away is asked again.
const TRIES: u32 = 30;

/// Prints them.
///
/// # Errors
/// The node refuses, is not there, or stays away.
pub async fn run(client: &Client, after: Option<&str>, count: Option<u64>, json: bool) -> Result<(), Failure> {
    let mut last = after.map(str::to_owned);
    let mut left = count.unwrap_or(u64::MAX);
    let mut away = 0;
    while left > 0 {
        let before = last.clone();
        if let Err(failure) = follow(client, &mut last, &mut left, json).await {
            away = if last == before { away + 1 } else { 0 };
            // The first time there must be somebody.
            if !failure.is_nobody() || last.is_none() || away > TRIES {
                return Err(failure);
            }
        }
        if left > 0 {
            sleep(AGAIN).await;
        }
    }
    Ok(())
}

/// Until the connection ends, or as many as are wanted have come.
async fn follow(client: &Client, last: &mut Option<String>, left: &mut u64, json: bool) -> Result<(), Failure> {
    let header = last.clone();
    let headers: Vec<(&str, &str)> =
        header.iter().filter(|id| *id != "begin").map(|id| ("last-event-id", id.as_str())).collect();
    let path = if last.as_deref() == Some("begin") { "/v1/events?after=begin" } else { "/v1/events" };
    let mut body = client.ask(Method::GET, path, &headers, None).await?.into_body();
    let mut text = Lines::default();
    while let Some(bytes) = client::next(&mut body).await? {
        for line in text.feed(&bytes) {
            if let Some(id) = line.strip_prefix("id: ") {
                *last = Some(id.to_owned());
            }
            let Some(data) = line.strip_prefix("data: ") else { continue };
            let shown = if json { data.to_owned() } else { shown(data)? };
            let mut out = stdout().lock();
            if writeln!(out, "{shown}").and_then(|()| out.flush()).is_err() {
                // Whoever closes the pipe has seen enough.
                *left = 0;
            }
            *left = left.saturating_sub(1);
            if *left == 0 {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Bytes as they come, lines as they are whole.
#[derive(Debug, Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        self.0.extend_from_slice(bytes);
        let Some(end) = self.0.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
        let rest = self.0.split_off(end + 1);
        let whole = std::mem::replace(&mut self.0, rest);
        String::from_utf8_lossy(&whole).lines().map(str::to_owned).collect()
    }
}

fn shown(data: &str) -> Result<String, Failure> {
    let event: Event =
        serde_json::from_str(data).map_err(|error| Failure::failed(format!("an event is not understood: {error}")))?;
    let what = match &event.what {
        What::Guest { guest, state, reason } => format!("guest {guest}: {state} ({reason})"),
        What::Ready { guest, seconds } => format!("guest {guest}: ready {seconds:.2}"),
        What::Defined { guest, revision: Some(revision) } => format!("guest {guest}: defined, revision {revision}"),
        What::Defined { guest, revision: None } => format!("guest {guest}: is no more"),
        What::Task { task } => {
            format!("task {}: {} {}: {}: {}", task.id, task.verb.name(), task.guest, state(task), task.progress)
        }
        What::Lost => "events are missing here".to_owned(),
    };
    Ok(format!("{} {} {what}", timestamp(Duration::from_millis(event.time_ms)), event.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_in_any_pieces() {
        let mut lines = Lines::default();
        assert!(lines.feed(b"id: a").is_empty());
        assert_eq!(lines.feed(b"-1\nevent: x\nda"), ["id: a-1", "event: x"]);
        assert_eq!(lines.feed(b"ta: {}\n\n"), ["data: {}", ""]);
    }

    #[test]
    fn an_event_is_read_by_people() {
        let data = r#"{"id":"e-7","time_ms":1000,"kind":"guest","guest":"web1","state":"off","reason":"power-off"}"#;
        assert!(shown(data).unwrap().ends_with(" e-7 guest web1: shut off (power-off)"));
        assert!(shown("{}").is_err());
    }
}
