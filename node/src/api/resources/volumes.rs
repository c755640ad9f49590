//! Disks that the node has made.

use hyper::{Method, Response, StatusCode};

use crate::api::answer::{self, Content};
use crate::api::call::{Call, Refusal};
use crate::api::peer::Role;
use crate::api::routes::{Gives, Route};

/// Their routes.
pub const ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "/v1/volumes",
        role: Role::Read,
        summary: "The disks that the node has made for guests, those of guests that are no more too",
        query: &[],
        gives: Gives::Json("Volumes"),
        serve: |call| Box::pin(async move { answer::json(StatusCode::OK, &call.api.volumes()) }),
    },
    Route {
        method: Method::POST,
        path: "/v1/volumes/{name}",
        role: Role::Admin,
        summary: "Make a disk for a guest of this name, which it has as soon as it is defined with one",
        query: &[("size", "how large, with its unit: 2GiB")],
        gives: Gives::Json("Volume"),
        serve: |call| Box::pin(create(call)),
    },
    Route {
        method: Method::DELETE,
        path: "/v1/volumes/{name}",
        role: Role::Admin,
        summary: "Delete a disk that no guest has, and its snapshots",
        query: &[],
        gives: Gives::Json("Volume"),
        serve: |call| Box::pin(delete(call)),
    },
];

async fn create(call: Call) -> Result<Response<Content>, Refusal> {
    let size =
        call.query("size")?.ok_or_else(|| Refusal::wrong("size: say how large, with its unit: 2GiB".to_owned()))?;
    answer::json(StatusCode::OK, &call.api.create_volume(call.name(), size, &call.peer.who).await?)
}

async fn delete(call: Call) -> Result<Response<Content>, Refusal> {
    answer::json(StatusCode::OK, &call.api.delete_volume(call.name(), &call.peer.who).await?)
}
