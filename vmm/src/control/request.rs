//! A client's line, understood or refused.

use serde_json::Value;
use thimble_spec::vmm::{Outcome, Reply, Request, VERSION, Verb};

/// What a line asks for.
///
/// # Errors
/// One sentence: it is no request of this version.
pub fn parse(line: &[u8]) -> Result<Verb, String> {
    let request = serde_json::from_slice::<Request>(line).map_err(|error| match version(line) {
        // A newer client is told of its version, not of the words that are new.
        Some(other) if other != u64::from(VERSION) => wrong_version(other),
        _ => format!("this is not a request: {error}"),
    })?;
    if request.v == VERSION { Ok(request.verb) } else { Err(wrong_version(request.v.into())) }
}

fn version(line: &[u8]) -> Option<u64> {
    serde_json::from_slice::<Value>(line).ok()?.get("v")?.as_u64()
}

fn wrong_version(other: u64) -> String {
    format!("this VMM speaks version {VERSION} of the control protocol, not {other}")
}

/// `outcome` as a line.
pub fn reply(outcome: Outcome) -> Vec<u8> {
    line(&Reply { v: VERSION, outcome })
}

/// Any message as a line.
pub fn line(message: &impl serde::Serialize) -> Vec<u8> {
    // Our messages are structures with string keys, which is all that JSON asks for.
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests_are_understood_and_others_refused_in_words() {
        assert_eq!(parse(br#"{"v":1,"verb":"watch"}"#), Ok(Verb::Watch));
        assert!(parse(br#"{"v":1,"verb":"explode"}"#).unwrap_err().starts_with("this is not a request"));
        assert!(parse(br#"{"v":2,"verb":"status"}"#).unwrap_err().contains("version 1"));
        assert!(parse(br#"{"v":2,"verb":"newer"}"#).unwrap_err().contains("not 2"));
        assert!(parse(b"").is_err());
    }

    proptest! {
        #[test]
        fn no_line_is_too_strange(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&text);
        }
    }
}
