//! What is asked of a guest: each is a task, which is followed to its end.

use hyper::{Method, Response, StatusCode};
use thimble_spec::api::guest::Verb;
use thimble_spec::api::task::{Job, State};

use crate::api::answer::{self, Content};
use crate::api::call::{Call, Refusal};
use crate::api::peer::Role;
use crate::api::routes::{Gives, Route};
use crate::life::Wish;

const fn route(path: &'static str, summary: &'static str, serve: fn(Call) -> crate::api::routes::Answered) -> Route {
    Route {
        method: Method::POST,
        path,
        role: Role::Operate,
        summary,
        query: &[],
        gives: Gives::Accepted("Task"),
        serve,
    }
}

/// Their routes.
pub const ROUTES: &[Route] = &[
    route("/v1/guests/{name}/start", "Start a guest", |call| Box::pin(order(call, Verb::Start))),
    route("/v1/guests/{name}/shutdown", "Ask a guest to power off", |call| Box::pin(order(call, Verb::Shutdown))),
    route("/v1/guests/{name}/destroy", "Cut a guest's power", |call| Box::pin(order(call, Verb::Destroy))),
    route("/v1/guests/{name}/reboot", "Ask a guest to power off, and start it again", |call| {
        Box::pin(order(call, Verb::Reboot))
    }),
    route("/v1/guests/{name}/reset", "Press a guest's reset button", |call| Box::pin(order(call, Verb::Reset))),
    route("/v1/guests/{name}/suspend", "Stop a guest's processors", |call| Box::pin(order(call, Verb::Suspend))),
    route("/v1/guests/{name}/resume", "Let a guest's processors go on", |call| Box::pin(order(call, Verb::Resume))),
];

async fn order(call: Call, verb: Verb) -> Result<Response<Content>, Refusal> {
    let entry = call.api.guest(call.name())?;
    let before = entry.life.borrow().clone();
    let begun = call.api.tasks.begin(&entry.name, Job::Verb(verb));
    let begun = begun.ok_or_else(|| Refusal::busy("too many tasks run: wait for some, or give them up"))?;
    if let Err(sentence) = entry.order(Wish::Verb(verb)).await {
        begun.end(State::Failed, &sentence);
        return Err(Refusal::conflict(sentence));
    }
    let task = begun.clone();
    let follow = begun.follow(verb, before, entry.life.clone());
    if matches!(verb, Verb::Suspend | Verb::Resume) {
        // They are done already.
        follow.await;
    } else {
        tokio::spawn(follow);
    }
    answer::json(StatusCode::ACCEPTED, &task.task())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_verb_has_its_path() {
        for (verb, route) in Verb::ALL.into_iter().zip(ROUTES) {
            assert_eq!(route.path, format!("/v1/guests/{{name}}/{}", verb.name()));
        }
        assert_eq!(ROUTES.len(), Verb::ALL.len());
    }
}
