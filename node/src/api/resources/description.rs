//! The description of all this, for programs that make clients of it.

use hyper::{Method, Response, StatusCode};

use crate::api::answer::{self, Content};
use crate::api::call::{Call, Refusal};
use crate::api::peer::Role;
use crate::api::routes::{Gives, Route};

/// The document, made by `node/src/api/openapi.rs`.
pub const OPENAPI: &str = include_str!("../../../../docs/openapi.json");

/// Its routes.
pub const ROUTES: &[Route] = &[Route {
    method: Method::GET,
    path: "/openapi.json",
    role: Role::Read,
    summary: "This description",
    query: &[],
    gives: Gives::Kind("application/json"),
    serve: |call| Box::pin(async move { get(&call) }),
}];

fn get(_: &Call) -> Result<Response<Content>, Refusal> {
    Ok(answer::whole(StatusCode::OK, "application/json", OPENAPI))
}
