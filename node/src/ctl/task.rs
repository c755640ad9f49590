//! Something that takes its time on the node, followed to its end.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use hyper::Method;
use thimble_spec::api::task::{State, Task};
use tokio::signal::ctrl_c;
use tokio::time::{Instant, sleep_until};

use super::client::Client;
use super::failure::Failure;

/// Seconds after which the node is asked how far it is.
const LOOK_S: u64 = 1;

/// Follows it; gives back how it ended, and the same as the node has it. Ctrl-C gives it up.
///
/// # Errors
/// It failed or was given up; the node is not there; it takes longer than to the deadline: then it goes on.
pub async fn follow(
    client: &Client,
    (task, text): (Task, String),
    deadline: Option<Instant>,
    json: bool,
) -> Result<(Task, String), Failure> {
    let id = task.id.clone();
    let late = async {
        match deadline {
            Some(deadline) => sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    let (task, text) = tokio::select! {
        ended = to_the_end(client, task, text, !json && stderr().is_terminal()) => ended?,
        _ = ctrl_c() => client.json(Method::DELETE, &format!("/v1/tasks/{id}")).await?,
        () = late => return Err(Failure::late("it takes longer, and goes on: thimblectl tasks")),
    };
    match task.state {
        State::Done | State::Running => Ok((task, text)),
        State::Failed => Err(Failure::failed(task.progress)),
        State::Cancelled => Err(Failure::failed("given up: nothing is left of it".to_owned())),
    }
}

/// When a wait that begins now is over.
pub fn deadline(limit: Option<Duration>) -> Option<Instant> {
    limit.map(|limit| Instant::now() + limit)
}

async fn to_the_end(client: &Client, mut task: Task, mut text: String, shows: bool) -> Result<(Task, String), Failure> {
    while task.state == State::Running {
        let path = format!("/v1/tasks/{}?wait_s={LOOK_S}", task.id);
        (task, text) = client.json(Method::GET, &path).await?;
        if shows {
            // The line before is gone from the terminal.
            let end = if task.state == State::Running { "" } else { "\r\x1b[K" };
            eprint!("\r\x1b[K{}{end}", task.progress);
        }
    }
    Ok((task, text))
}
