//! A new guest on a copy of another's disk.

use std::sync::Arc;

use hyper::{Method, Response, StatusCode};
use thimble_spec::names::check_name;

use crate::api::answer::{self, Content};
use crate::api::call::{Call, Refusal};
use crate::api::peer::Role;
use crate::api::routes::{Gives, Route};
use crate::definitions::TEXT_MAX;

/// Its route.
pub const ROUTES: &[Route] = &[Route {
    method: Method::PUT,
    path: "/v1/guests/{name}/clone",
    role: Role::Admin,
    summary: "Define a new guest, whose disk begins as a copy of that of `of`, which is off and stays so meanwhile",
    query: &[("of", "the guest whose disk is copied")],
    gives: Gives::Accepted("Task"),
    serve: |call| Box::pin(put(call)),
}];

async fn put(mut call: Call) -> Result<Response<Content>, Refusal> {
    let of = call.query::<String>("of")?.unwrap_or_default();
    check_name(&of).map_err(|error| Refusal::wrong(format!("of: {error}")))?;
    let text = call.body(TEXT_MAX).await?;
    let api = Arc::clone(&call.api);
    answer::json(StatusCode::ACCEPTED, &api.clone_guest(&of, call.name(), &text, &call.peer.who).await?)
}
