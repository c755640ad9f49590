//! What is asked of guests: `start`, `shutdown`, `destroy`, `reboot`, `reset`, `suspend`, `resume`.

use std::time::Duration;

use hyper::Method;
use thimble_spec::api::guest::Verb;
use thimble_spec::api::task::{State, Task};
use tokio::time::{Instant, timeout_at};

use super::client::Client;
use super::failure::Failure;
use super::words::Guests;

/// How long one request waits for a task's end.
const WAIT_S: u64 = 20;

/// Asks all of them, then waits for each if that is wanted. What one refuses does not keep the others from it.
///
/// # Errors
/// The first failure; the others are told.
pub async fn run(client: &Client, verb: Verb, guests: &Guests, limit: Duration, json: bool) -> Result<(), Failure> {
    let deadline = Instant::now() + limit;
    let late = || Failure::late(&format!("{} has not come about within {} s", verb.name(), limit.as_secs()));
    let mut tasks = Vec::new();
    for guest in &guests.names {
        let path = format!("/v1/guests/{guest}/{}", verb.name());
        let asked = timeout_at(deadline, client.json::<Task>(Method::POST, &path)).await;
        tasks.push(asked.unwrap_or_else(|_| Err(late())));
    }
    let mut first = None;
    for asked in tasks {
        let outcome = match asked {
            Ok((task, text)) if guests.wait => {
                timeout_at(deadline, wait(client, task, text)).await.unwrap_or_else(|_| Err(late()))
            }
            other => other,
        };
        let outcome = outcome.and_then(|(task, text)| {
            if json {
                println!("{text}");
            } else {
                println!("guest {}: {}: {}", task.guest, verb.name(), task.progress);
            }
            match task.state {
                State::Failed => Err(Failure::failed(format!("guest {}: {}", task.guest, task.progress))),
                State::Cancelled => Err(Failure::failed(format!("guest {}: somebody gave it up", task.guest))),
                State::Running | State::Done => Ok(()),
            }
        });
        if let Err(failure) = outcome
            && let Some(before) = first.replace(failure)
        {
            eprintln!("thimblectl: {before}");
        }
    }
    first.map_or(Ok(()), Err)
}

async fn wait(client: &Client, mut task: Task, mut text: String) -> Result<(Task, String), Failure> {
    while task.state == State::Running {
        let path = format!("/v1/tasks/{}?wait_s={WAIT_S}", task.id);
        (task, text) = client.json(Method::GET, &path).await?;
    }
    Ok((task, text))
}
