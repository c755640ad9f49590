//! From a path to who answers for it: a table, of which each resource has its own part.

use std::pin::Pin;

use hyper::{Method, Response, StatusCode};

use super::answer::Content;
use super::call::{Call, Refusal};
use super::peer::Role;
use super::resources;

/// What an answer comes to.
pub type Answered = Pin<Box<dyn Future<Output = Result<Response<Content>, Refusal>> + Send>>;

/// One thing that can be asked.
#[derive(Debug)]
pub struct Route {
    /// How.
    pub method: Method,
    /// Where; names in braces stand for one part each.
    pub path: &'static str,
    /// Who may.
    pub role: Role,
    /// What it does, for the description.
    #[cfg_attr(not(test), expect(dead_code, reason = "the description is made by a test"))]
    pub summary: &'static str,
    /// What its query may say, with an explanation each.
    #[cfg_attr(not(test), expect(dead_code, reason = "the description is made by a test"))]
    pub query: &'static [(&'static str, &'static str)],
    /// What it answers with.
    #[cfg_attr(not(test), expect(dead_code, reason = "the description is made by a test"))]
    pub gives: Gives,
    /// Who answers.
    pub serve: fn(Call) -> Answered,
}

/// What an answer is.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(test), expect(dead_code, reason = "the description is made by a test"))]
pub enum Gives {
    /// JSON of this type.
    Json(&'static str),
    /// The definition of a guest.
    Definition,
    /// This media type.
    Kind(&'static str),
    /// The connection speaks this protocol from then on.
    Connection(&'static str),
    /// JSON of this type, of something that goes on.
    Accepted(&'static str),
}

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Route> {
    resources::ALL.iter().copied().flatten()
}

/// What stands in `path` for the names in braces of `pattern`, if it is one of its kind. Nothing is escaped in a name.
fn matches(pattern: &str, path: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(names),
            (Some(wanted), Some(given)) if wanted.starts_with('{') && !given.is_empty() => names.push(given.to_owned()),
            (Some(wanted), Some(given)) if wanted == given => {}
            _ => return None,
        }
    }
}

/// The methods by which something at a path can be asked, as `Allow` has them (RFC 9110, 10.2.1).
pub fn allowed(path: &str) -> String {
    let methods = all().filter(|route| matches(route.path, path).is_some()).map(|route| route.method.as_str());
    methods.collect::<Vec<_>>().join(", ")
}

/// Who answers, and the names in the path.
///
/// # Errors
/// Nobody, or not to this method.
pub fn find(method: &Method, path: &str) -> Result<(&'static Route, Vec<String>), Refusal> {
    let mut known = false;
    for route in all() {
        let Some(names) = matches(route.path, path) else { continue };
        if route.method == method {
            return Ok((route, names));
        }
        known = true;
    }
    if known {
        let sentence = format!("this cannot be asked by {method}: /openapi.json says how");
        return Err(Refusal { status: StatusCode::METHOD_NOT_ALLOWED, sentence });
    }
    Err(Refusal::missing("there is nothing at this path: /openapi.json says what there is"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_lead_to_routes() {
        let found =
            |method, path| find(&method, path).map(|(route, names)| (route.path, names)).map_err(|it| it.status);
        assert_eq!(found(Method::GET, "/v1/guests"), Ok(("/v1/guests", vec![])));
        assert_eq!(found(Method::GET, "/v1/guests/web1"), Ok(("/v1/guests/{name}", vec!["web1".to_owned()])));
        assert_eq!(found(Method::POST, "/v1/guests"), Err(StatusCode::METHOD_NOT_ALLOWED));
        for path in ["", "/v1/guests/", "/v1//guests", "/v1/guests/web1/start/x", "/v2/guests"] {
            assert_eq!(found(Method::GET, path), Err(StatusCode::NOT_FOUND), "{path}");
        }
        assert_eq!(allowed("/v1/guests/web1/definition"), "GET, PUT, DELETE");
        assert_eq!(allowed("/v2/guests"), "");
    }

    #[test]
    fn nobody_changes_anything_who_may_only_look() {
        for route in all() {
            assert_eq!(route.role == Role::Read, route.method == Method::GET, "{}", route.path);
        }
    }

    proptest! {
        #[test]
        fn any_path_is_safe(path in ".*") {
            let _ = find(&Method::GET, &path);
        }
    }
}
