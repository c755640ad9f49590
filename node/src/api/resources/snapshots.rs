//! Snapshots of a guest's disk.

use hyper::{Method, Response, StatusCode};

use crate::api::answer::{self, Content};
use crate::api::call::{Call, Refusal};
use crate::api::peer::Role;
use crate::api::routes::{Gives, Route};

const ONE: &str = "/v1/guests/{name}/snapshots/{snapshot}";

/// Their routes.
pub const ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "/v1/guests/{name}/snapshots",
        role: Role::Read,
        summary: "The snapshots of a guest's disk, oldest first",
        query: &[],
        gives: Gives::Json("Snapshots"),
        serve: |call| Box::pin(async move { answer::json(StatusCode::OK, &call.api.snapshots(call.name()).await?) }),
    },
    Route {
        method: Method::POST,
        path: ONE,
        role: Role::Operate,
        summary: "Make a snapshot of a guest's disk; a guest that runs freezes its file system, and stands still meanwhile",
        query: &[],
        gives: Gives::Accepted("Task"),
        serve: |call| Box::pin(take(call)),
    },
    Route {
        method: Method::POST,
        path: "/v1/guests/{name}/snapshots/{snapshot}/revert",
        role: Role::Admin,
        summary: "Make the disk of a guest, which is off, what it was; what was written since is lost",
        query: &[],
        gives: Gives::Accepted("Task"),
        serve: |call| Box::pin(revert(call)),
    },
    Route {
        method: Method::DELETE,
        path: ONE,
        role: Role::Admin,
        summary: "Delete a snapshot",
        query: &[],
        gives: Gives::Json("Snapshot"),
        serve: |call| Box::pin(delete(call)),
    },
];

fn snapshot(call: &Call) -> &str {
    call.parameters.get(1).map_or("", String::as_str)
}

async fn take(call: Call) -> Result<Response<Content>, Refusal> {
    let task = call.api.take_snapshot(call.name(), snapshot(&call), &call.peer.who).await?;
    answer::json(StatusCode::ACCEPTED, &task)
}

async fn revert(call: Call) -> Result<Response<Content>, Refusal> {
    answer::json(StatusCode::ACCEPTED, &call.api.revert(call.name(), snapshot(&call), &call.peer.who).await?)
}

async fn delete(call: Call) -> Result<Response<Content>, Refusal> {
    answer::json(StatusCode::OK, &call.api.delete_snapshot(call.name(), snapshot(&call), &call.peer.who).await?)
}
