//! Who changed what.

use hyper::{Method, Response, StatusCode};
use thimble_spec::api::audit::Audit;

use crate::api::answer::{self, Content};
use crate::api::call::{Call, Refusal};
use crate::api::peer::Role;
use crate::api::routes::{Gives, Route};

/// Its routes.
pub const ROUTES: &[Route] = &[Route {
    method: Method::GET,
    path: "/v1/audit",
    role: Role::Read,
    summary: "Who changed what",
    query: &[],
    gives: Gives::Json("Audit"),
    serve: |call| Box::pin(async move { get(&call) }),
}];

fn get(call: &Call) -> Result<Response<Content>, Refusal> {
    answer::json(StatusCode::OK, &Audit { entries: call.api.audit.entries() })
}
