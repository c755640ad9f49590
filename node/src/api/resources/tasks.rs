//! What takes its time.

use std::time::Duration;

use hyper::{Method, Response, StatusCode};
use thimble_spec::api::task::{State, Tasks};
use tokio::time::timeout;

use crate::api::answer::{self, Content};
use crate::api::call::{Call, Refusal};
use crate::api::peer::Role;
use crate::api::routes::{Gives, Route};

/// How long a request may wait for a task.
const WAIT_MAX_S: u64 = 60;

/// Its routes.
pub const ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "/v1/tasks",
        role: Role::Read,
        summary: "All tasks",
        query: &[],
        gives: Gives::Json("Tasks"),
        serve: |call| Box::pin(async move { list(&call) }),
    },
    Route {
        method: Method::GET,
        path: "/v1/tasks/{id}",
        role: Role::Read,
        summary: "A task",
        query: &[("wait_s", "wait so many seconds for its end, 60 at most")],
        gives: Gives::Json("Task"),
        serve: |call| Box::pin(get(call)),
    },
    Route {
        method: Method::DELETE,
        path: "/v1/tasks/{id}",
        role: Role::Operate,
        summary: "Give a task up: what the guest was asked before stays asked",
        query: &[],
        gives: Gives::Json("Task"),
        serve: |call| Box::pin(async move { cancel(&call) }),
    },
];

fn list(call: &Call) -> Result<Response<Content>, Refusal> {
    answer::json(StatusCode::OK, &Tasks { tasks: call.api.tasks.all() })
}

fn missing() -> Refusal {
    Refusal::missing("there is no task of that name: it is forgotten, or the node daemon was started again since")
}

async fn get(call: Call) -> Result<Response<Content>, Refusal> {
    let wait_s = call.query("wait_s")?.unwrap_or(0).min(WAIT_MAX_S);
    let mut task = call.api.tasks.find(call.name()).ok_or_else(missing)?;
    let ended = task.wait_for(|task| task.state != State::Running);
    // How it is then is answered, whatever it is.
    let _ = timeout(Duration::from_secs(wait_s), ended).await.is_ok();
    let task = task.borrow().clone();
    answer::json(StatusCode::OK, &task)
}

fn cancel(call: &Call) -> Result<Response<Content>, Refusal> {
    answer::json(StatusCode::OK, &call.api.tasks.cancel(call.name()).ok_or_else(missing)?)
}
