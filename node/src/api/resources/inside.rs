//! What a guest is like from the inside: its PID 1 is asked.

use hyper::{Method, Response, StatusCode};
use thimble_spec::api::guest::{Inside, State};
use thimble_spec::vmm::CONTROL_FILE;

use crate::api::answer::{self, Content};
use crate::api::call::{Call, Refusal};
use crate::api::peer::Role;
use crate::api::routes::{Gives, Route};
use crate::events::now_ms;
use crate::inside;
use crate::plan::Place;

/// Its routes.
pub const ROUTES: &[Route] = &[Route {
    method: Method::GET,
    path: "/v1/guests/{name}/inside",
    role: Role::Read,
    summary: "What a guest is like from the inside, as its PID 1 says",
    query: &[],
    gives: Gives::Json("Inside"),
    serve: |call| Box::pin(get(call)),
}];

async fn get(call: Call) -> Result<Response<Content>, Refusal> {
    let entry = call.api.guest(call.name())?;
    let name = &*entry.name;
    if entry.guest().boot.is_some() {
        return Err(Refusal::conflict(format!("guest {name} has a kernel of its own, and nothing of Thimble's in it")));
    }
    let state = entry.life.borrow().state;
    if state != State::Running {
        return Err(Refusal::conflict(format!("guest {name} is {state}: one that runs can be asked")));
    }
    let asked = inside::ask(&Place::of(name).file(CONTROL_FILE)).await;
    let said = asked.map_err(|error| Refusal::conflict(format!("guest {name} says nothing: {error:#}")))?;
    let ahead_s = (said.clock_ms as f64 - now_ms() as f64) / 1000.0;
    answer::json(StatusCode::OK, &Inside { name: name.to_owned(), ahead_s, said })
}
