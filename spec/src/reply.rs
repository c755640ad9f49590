//! What a control socket answers, PID 1's as a VMM's.

use serde::{Deserialize, Serialize};

/// The answer to a request, a line of JSON: `{"v":1,"ok":{...}}` or `{"v":1,"error":"..."}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply<A> {
    /// The protocol's version.
    pub v: u32,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome<A>,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome<A> {
    /// It was done.
    Ok(A),
    /// It was not, and why: one sentence.
    Error(String),
}
