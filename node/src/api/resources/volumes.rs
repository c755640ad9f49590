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
        method: Method::DELETE,
        path: "/v1/volumes/{name}",
        role: Role::Admin,
        summary: "Delete a disk that no guest has",
        query: &[],
        gives: Gives::Json("Volume"),
        serve: |call| Box::pin(delete(call)),
    },
];

async fn delete(call: Call) -> Result<Response<Content>, Refusal> {
    answer::json(StatusCode::OK, &call.api.delete_volume(call.name(), &call.peer.who).await?)
}
