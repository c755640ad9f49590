//! What happens, as server-sent events (HTML Living Standard, 9.2).

use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, Response};
use thimble_spec::api::event::{Event, What};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::api::answer::{self, Content};
use crate::api::call::{Call, Refusal};
use crate::api::peer::Role;
use crate::api::routes::{Gives, Route};
use crate::events::{Events, now_ms};

/// Pieces that wait for a slow reader; what comes then stays in the ring.
const AHEAD: usize = 4;
/// Events in a piece, at most.
const TOGETHER: usize = 64;
/// Time between two signs of life where nothing happens.
const SIGN: Duration = Duration::from_secs(15);

/// Its routes.
pub const ROUTES: &[Route] = &[Route {
    method: Method::GET,
    path: "/v1/events",
    role: Role::Read,
    summary: "What happens from now on; with the header Last-Event-ID, what came after that event",
    query: &[("after", "the same as Last-Event-ID; `begin` is the oldest event that is known")],
    gives: Gives::Kind("text/event-stream"),
    serve: |call| Box::pin(async move { get(&call) }),
}];

fn get(call: &Call) -> Result<Response<Content>, Refusal> {
    let events = call.api.events.clone();
    let header = call.request.headers().get("last-event-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    let after: Option<String> = header.or(call.query("after")?);
    let (number, lost) = match after.as_deref() {
        None => (events.newest(), false),
        Some("begin") => (events.oldest(), false),
        // Of another daemon: what is left of this one's is all new.
        Some(id) => events.number(id).map_or((0, true), |number| (number, false)),
    };
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(send(events, number, lost, sender));
    Ok(answer::stream("text/event-stream", receiver))
}

/// Sends what comes after an event, for ever.
async fn send(events: Events, mut number: u64, mut lost: bool, sender: mpsc::Sender<Bytes>) {
    // Where the reader is, before anything happens: a comment would not be remembered by it.
    let begin = format!("id: {}\nretry: 1000\n\n", events.id(number));
    if sender.send(begin.into()).await.is_err() {
        return;
    }
    loop {
        let after = events.after(number, TOGETHER);
        let mut text = String::new();
        if std::mem::take(&mut lost) || after.lost {
            let first = after.number - after.events.len() as u64;
            text.push_str(&shown(&Event { id: events.id(first), time_ms: now_ms(), what: What::Lost }));
        }
        after.events.iter().for_each(|event| text.push_str(&shown(event)));
        number = after.number;
        if text.is_empty() {
            let waited = tokio::select! {
                waited = timeout(SIGN, events.wait(number)) => waited,
                () = sender.closed() => return,
            };
            if waited.is_ok() {
                continue;
            }
            text.push_str(":\n\n");
        }
        if sender.send(text.into()).await.is_err() {
            return;
        }
    }
}

fn shown(event: &Event) -> String {
    // A structure with string keys, which is all that JSON asks for; on one line.
    let data = serde_json::to_string(event).unwrap_or_default();
    format!("id: {}\nevent: {}\ndata: {data}\n\n", event.id, event.what.kind())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Epoch;
    use thimble_spec::api::guest::State;

    #[tokio::test]
    async fn a_stream_begins_after_an_event_and_tells_of_a_gap() {
        let events = Events::new(Epoch::now());
        for name in ["web1", "web2"] {
            events.tell(What::Guest { guest: name.to_owned(), state: State::Off, reason: "a\nb".to_owned() });
        }
        let text = async |number, lost| {
            let (sender, mut receiver) = mpsc::channel(AHEAD);
            tokio::spawn(send(events.clone(), number, lost, sender));
            let begin = receiver.recv().await.unwrap();
            assert!(begin.starts_with(b"id: "));
            String::from_utf8(receiver.recv().await.unwrap().to_vec()).unwrap()
        };
        let one = text(1, false).await;
        assert!(one.contains("event: guest\ndata: {") && !one.contains("web1") && one.ends_with("}\n\n"), "{one}");
        assert_eq!(one.lines().count(), 4, "{one}");
        let all = text(0, true).await;
        assert!(all.starts_with("id: ") && all.contains("event: lost\n"), "{all}");
        assert!(all.find("lost").unwrap() < all.find("web1").unwrap(), "{all}");
    }
}
