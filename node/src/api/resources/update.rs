//! A newer release for the node, from whoever may everything: what comes as the body is read by `thimble-node update -`, which knows
//! whose signature it must have, and what that says is the answer, as it says it.

use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Method, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::api::answer::{self, Content};
use crate::api::call::{self, Call, Refusal};
use crate::api::peer::Role;
use crate::api::routes::{Gives, Route};
use crate::say;

/// How long a client may send nothing in the middle of it.
const PIECE_TIME: Duration = Duration::from_secs(60);
/// Lines that wait for a client.
const LINES: usize = 64;
/// The longest line.
const LINE_MAX: usize = 64 << 10;

/// Its routes.
pub const ROUTES: &[Route] = &[Route {
    method: Method::PUT,
    path: "/v1/node/update",
    role: Role::Admin,
    summary: "Install a release into the slot of the flash disk that is not in use: the body is a thimble.update. The answer is lines \
              of JSON: `err` and `out` are what is said of it, `code` is the end: 0 done or nothing to do, 1 failed, 3 refused",
    query: &[
        ("reboot", "true: start it now; else it starts with the host's next boot"),
        ("live", "true: guests take its kernel and initramfs, if nothing else is new"),
        ("json", "true: `out` is one JSON object, and there is no progress"),
    ],
    gives: Gives::Kind("application/x-ndjson"),
    serve: |call| Box::pin(async move { put(call) }),
}];

fn put(call: Call) -> Result<Response<Content>, Refusal> {
    let flag = |name: &str| Ok::<bool, Refusal>(call.query(name)?.unwrap_or(false));
    let (reboot, live, json) = (flag("reboot")?, flag("live")?, flag("json")?);
    if reboot && live {
        return Err(Refusal::wrong("reboot and live exclude each other".to_owned()));
    }
    let flags = [(reboot, "--reboot"), (live, "--live"), (json, "--json")];
    let words = flags.into_iter().filter_map(|(set, word)| set.then_some(word));
    let turn = call.api.updates.clone().try_lock_owned();
    let turn = turn.map_err(|_| Refusal::conflict("another update is being installed: wait for that".to_owned()))?;
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["update", "-"])
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let child = command.spawn().map_err(|error| Refusal::broken(format!("starting the update: {error}")))?;
    let (tell, lines) = mpsc::channel(LINES);
    tokio::spawn(async move {
        let code = install(child, call.request.into_body(), &tell).await;
        drop(turn);
        if let Err(error) = call.api.audit.remember(&call.peer.who, &format!("update: exit code {code}"), None) {
            say::error(&format!("{error:#}"));
        }
        // Who asked may be gone.
        let _ = tell.send(line("code", &json!(code))).await;
    });
    Ok(answer::stream("application/x-ndjson", lines))
}

/// Lets the process have the body, and tells what it says; gives its exit code.
async fn install(mut child: Child, body: Incoming, tell: &mpsc::Sender<Bytes>) -> i32 {
    let (Some(input), Some(output), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return 1;
    };
    let ((), (), ()) = tokio::join!(feed(body, input), relay("out", output, tell), relay("err", errors, tell));
    let ended = child.wait().await;
    ended.ok().and_then(|status| status.code()).unwrap_or(1)
}

/// What comes is written until it ends or nobody reads it any more. One that is cut off is not whole, and refused for that.
async fn feed(mut body: Incoming, mut input: ChildStdin) {
    while let Ok(Some(Ok(piece))) = timeout(PIECE_TIME, call::piece(&mut body)).await {
        if input.write_all(&piece).await.is_err() {
            // Refused: what still comes is nobody's.
            return;
        }
    }
}

async fn relay(key: &str, from: impl AsyncRead + Unpin, tell: &mpsc::Sender<Bytes>) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(text)) = lines.next_line().await {
        let line = line(key, &json!(text[..text.floor_char_boundary(LINE_MAX)]));
        if key == "out" {
            // Who asked may be gone.
            let _ = tell.send(line).await;
        } else {
            // A client that reads nothing yet, for it still sends, misses what is only progress.
            let _ = tell.try_send(line);
        }
    }
}

fn line(key: &str, value: &Value) -> Bytes {
    Bytes::from(format!("{}\n", json!({ key: value })))
}
