//! A guest's definition, which its next start goes by: read, replaced, and given back to the image. `ETag` says which one it is,
//! and `If-Match` which one is to be replaced (RFC 9110, 8.8.3 and 13.1.1).

use std::sync::Arc;

use hyper::header::{ETAG, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use hyper::{Method, Response, StatusCode};

use crate::api::answer::{self, Content};
use crate::api::call::{Call, Refusal};
use crate::api::change::Condition;
use crate::api::peer::Role;
use crate::api::routes::{Gives, Route};
use crate::definitions::{TEXT_MAX, revision};

const PATH: &str = "/v1/guests/{name}/definition";

/// Its routes.
pub const ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: PATH,
        role: Role::Read,
        summary: "A guest's definition, which its next start goes by; `ETag` says which one it is",
        query: &[],
        gives: Gives::Definition,
        serve: |call| Box::pin(async move { get(&call) }),
    },
    Route {
        method: Method::PUT,
        path: PATH,
        role: Role::Admin,
        summary: "Define a guest, or another definition of it, if the one that is there is that of `If-Match`; with \
                  `If-None-Match: *`, if there is none",
        query: &[],
        gives: Gives::Json("Definition"),
        serve: |call| Box::pin(put(call)),
    },
    Route {
        method: Method::DELETE,
        path: PATH,
        role: Role::Admin,
        summary: "Forget what was defined here: a guest is what the image says, or no more",
        query: &[],
        gives: Gives::Json("Definition"),
        serve: |call| Box::pin(change(call, None)),
    },
];

fn get(call: &Call) -> Result<Response<Content>, Refusal> {
    let guest = &call.api.guest(call.name())?.defined().guest;
    tagged(answer::json(StatusCode::OK, &*call.shown(guest))?, Some(&revision(guest)))
}

async fn put(mut call: Call) -> Result<Response<Content>, Refusal> {
    let text = call.body(TEXT_MAX).await?;
    change(call, Some(text)).await
}

/// It goes to its end, whether or not somebody waits for it.
async fn change(call: Call, text: Option<Vec<u8>>) -> Result<Response<Content>, Refusal> {
    let condition = condition(&call)?;
    let (api, name, who) = (Arc::clone(&call.api), call.name().to_owned(), call.peer.who.clone());
    let change = tokio::spawn(async move {
        match text {
            Some(text) => api.define(&name, &text, &condition, &who).await,
            None => api.undefine(&name, &condition, &who).await,
        }
    });
    let definition = change.await.map_err(|_| Refusal::busy("the node daemon ends"))??;
    tagged(answer::json(StatusCode::OK, &definition)?, definition.revision.as_deref())
}

fn tagged(mut response: Response<Content>, revision: Option<&str>) -> Result<Response<Content>, Refusal> {
    if let Some(revision) = revision {
        let tag = HeaderValue::try_from(format!("\"{revision}\""));
        response.headers_mut().insert(ETAG, tag.map_err(|error| Refusal::broken(error.to_string()))?);
    }
    Ok(response)
}

fn condition(call: &Call) -> Result<Condition, Refusal> {
    match (call.header(&IF_MATCH)?, call.header(&IF_NONE_MATCH)?) {
        ("", "") => Ok(Condition::Any),
        ("", "*") => Ok(Condition::New),
        (tag, "") => match tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')) {
            Some(revision) => Ok(Condition::Is(revision.to_owned())),
            None => Err(Refusal::wrong("If-Match takes one tag in quotation marks: what ETag said".to_owned())),
        },
        _ => Err(Refusal::wrong("If-None-Match takes an asterisk, without If-Match".to_owned())),
    }
}
