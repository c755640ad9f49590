//! What somebody sends as the definition of a guest: JSON, as `thimblectl dumpconfig` prints it.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use thimble_spec::appliance::Guest;
use thimble_spec::console::one_line;
use thimble_spec::json::Json;
use thimble_spec::names::Mac;

/// The longest text.
pub const TEXT_MAX: usize = 64 << 10;
/// The longest list of differences, in bytes.
const DIFFERENCES_MAX: usize = 400;
/// The keys whose values differences do not show.
const SECRETS: [&str; 2] = ["parameters.environment", "boot.user_data"];
/// What stands in their place.
const NOT_SHOWN: &str = "(not shown)";

/// Reads the definition of the guest `name`. A MAC that is not given is made from the two names, as the build does.
///
/// # Errors
/// It is none, or another guest's, or has a key that is none: a sentence.
pub fn parse(appliance: &str, name: &str, text: &[u8]) -> Result<Guest, String> {
    let wrong = |error: serde_json::Error| format!("this is no definition of a guest: {error}");
    let mut given: Value = serde_json::from_slice(text).map_err(wrong)?;
    let network = given.get_mut("network").and_then(Value::as_object_mut);
    let guest = match network.filter(|network| network.get("mac").is_none_or(Value::is_null)) {
        Some(network) => {
            network.insert("mac".to_owned(), Mac::derived(appliance, name).to_string().into());
            Guest::from_json(given.to_string().as_bytes())
        }
        None => Guest::from_json(text),
    };
    let guest = guest.map_err(wrong)?;
    if let Some(key) = unknown(&given, &value(&guest), "") {
        return Err(format!("{}: there is no such key in the definition of a guest", one_line(&key, 100)));
    }
    if guest.name != name {
        let other = one_line(&guest.name, 100);
        return Err(format!("name: this is the definition of `{other}`, and what is to be defined is `{name}`"));
    }
    Ok(guest)
}

/// A guest as JSON.
pub fn value(guest: &Guest) -> Value {
    // A definition has nothing in it that JSON could not say.
    guest.to_json().ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

/// The guest as those see it who may not change it: the values of its variables and what its cloud-init is told, of which some
/// are passwords, are left out.
pub fn without_secrets(guest: &Guest) -> Guest {
    let mut guest = guest.clone();
    let user_data = guest.boot.as_mut().and_then(|boot| boot.user_data.as_mut());
    guest.parameters.environment.values_mut().chain(user_data).for_each(|value| NOT_SHOWN.clone_into(value));
    guest
}

/// What tells two definitions apart: the beginning of the SHA-256 of their JSON.
pub fn revision(guest: &Guest) -> String {
    let hash = Sha256::digest(guest.to_json().unwrap_or_default());
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The first key of `given` that `known` does not have.
fn unknown(given: &Value, known: &Value, path: &str) -> Option<String> {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => given.iter().find_map(|(key, value)| {
            let path = join(path, key);
            match known.get(key) {
                Some(known) => unknown(value, known, &path),
                // What says nothing may be left out when it is written.
                None if [json!(null), json!([]), json!({})].contains(value) => None,
                None => Some(path),
            }
        }),
        (Value::Array(given), Value::Array(known)) => {
            given.iter().zip(known).find_map(|(given, known)| unknown(given, known, path))
        }
        _ => None,
    }
}

/// What is different in `after`, in one line: `autostart: true -> false`.
pub fn differences(before: &Value, after: &Value) -> String {
    let mut found = Vec::new();
    differ(before, after, "", &mut found);
    one_line(&found.join(", "), DIFFERENCES_MAX)
}

fn differ(before: &Value, after: &Value, path: &str, found: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(one), Value::Object(other)) => {
            for (key, value) in one {
                differ(value, other.get(key).unwrap_or(&Value::Null), &join(path, key), found);
            }
            for (key, value) in other.iter().filter(|(key, _)| !one.contains_key(*key)) {
                differ(&Value::Null, value, &join(path, key), found);
            }
        }
        _ if before == after => {}
        // Passwords are among them, and differences are told to whoever reads the log.
        _ if SECRETS.iter().any(|secret| path.starts_with(secret)) => found.push(format!("{path}: changed")),
        _ => found.push(format!("{path}: {before} -> {after}")),
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use proptest::prelude::*;

    fn web1() -> Guest {
        testing::guest("memory = \"64MiB\"\nnetwork = { bridge = \"br0\" }\ndisk = { size = \"16MiB\" }")
    }

    fn refused(change: impl FnOnce(&mut Value)) -> String {
        let mut given = value(&web1());
        change(&mut given);
        parse("demo", "web1", given.to_string().as_bytes()).unwrap_err()
    }

    #[test]
    fn what_is_printed_is_read() {
        assert_eq!(parse("demo", "web1", &web1().to_json().unwrap()), Ok(web1()));
        let short = r#"{"name":"web1","image":"web","memory":"64MiB","network":{"bridge":"br0"},"disk":{"source":{"size":"16MiB"}}}"#;
        assert_eq!(parse("demo", "web1", short.as_bytes()), Ok(web1()), "what is left out is as the build has it");
    }

    #[test]
    fn what_is_none_is_refused() {
        assert_eq!(
            refused(|it| it["memroy"] = json!("64MiB")),
            "memroy: there is no such key in the definition of a guest"
        );
        assert!(refused(|it| it["disk"]["limits"]["x"] = json!(1)).contains("unknown field `x`"));
        assert!(refused(|it| it["disk"]["cache"] = json!("none")).starts_with("disk.cache: "));
        assert!(refused(|it| it["name"] = json!("web2")).starts_with("name: this is the definition of `web2`"));
        assert!(refused(|it| it["memory"] = json!("many")).contains("`many` is not a size"));
        assert!(refused(|it| it["network"]["mac"] = json!("ff:ff:ff:ff:ff:ff")).contains("is not a MAC address"));
        for text in ["", "{", "[]", "null", "{\"name\":", "\"web1\"", &"[".repeat(5000)] {
            assert!(parse("demo", "web1", text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn what_says_nothing_is_no_key_that_is_not_there() {
        let mut given = value(&web1());
        given["parameters"] = json!({ "ssh_keys": [], "role": null, "environment": {} });
        assert_eq!(parse("demo", "web1", given.to_string().as_bytes()), Ok(web1()));
        given["parameters"]["rule"] = json!("db");
        assert!(parse("demo", "web1", given.to_string().as_bytes()).unwrap_err().starts_with("parameters.rule: "));
    }

    #[test]
    fn differences_tell_no_secrets() {
        let mut other = web1();
        other.parameters.environment.insert("PASSWORD".to_owned(), "xyzzy".to_owned());
        let told = differences(&value(&web1()), &value(&other));
        assert_eq!(told, "parameters.environment: changed");
        let another = Guest { autostart: false, ..web1() };
        let mut third = other.clone();
        third.parameters.environment.insert("PASSWORD".to_owned(), "plugh".to_owned());
        assert_eq!(differences(&value(&other), &value(&third)), "parameters.environment.PASSWORD: changed");
        assert!(!differences(&value(&other), &value(&another)).contains("xyzzy"));
    }

    #[test]
    fn a_revision_is_of_the_content() {
        let other = Guest { autostart: false, ..web1() };
        assert_eq!(revision(&web1()), revision(&web1()));
        assert_ne!(revision(&web1()), revision(&other));
        assert_eq!(revision(&other).len(), 16);
        assert_eq!(differences(&value(&web1()), &value(&other)), "autostart: true -> false");
        assert_eq!(differences(&json!({"a": {"b": 1}}), &json!({"a": {"c": 2}})), "a.b: 1 -> null, a.c: null -> 2");
    }

    /// JSON that is nearly a definition: one with pieces of it replaced.
    fn nearly() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(json!(null)),
            any::<i64>().prop_map(|number| json!(number)),
            ".{0,20}".prop_map(|text| json!(text)),
            Just(json!({})),
            Just(json!([[1], {}])),
            Just(json!("18446744073709551615TiB")),
        ];
        static KEYS: [&str; 10] =
            ["name", "image", "vcpus", "cpu", "memory", "balloon", "network", "disk", "vsock", "autostart"];
        let changes = prop::collection::vec((prop::sample::select(&KEYS[..]), piece), 0..4);
        (changes, prop::collection::vec((0..600usize, any::<u8>()), 0..3)).prop_map(|(changes, bytes)| {
            let mut given = value(&web1());
            for (key, piece) in changes {
                given[key] = piece;
            }
            let mut text = given.to_string().into_bytes();
            for (place, byte) in bytes {
                let length = text.len();
                text[place % length] = byte;
            }
            text
        })
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse("demo", "web1", &bytes);
        }

        /// Whatever is read is read again from what it is written as, and is of the guest that was asked for.
        #[test]
        fn what_is_read_stays_the_same(text in nearly()) {
            match parse("demo", "web1", &text) {
                Ok(guest) => {
                    prop_assert_eq!(&guest.name, "web1");
                    prop_assert_eq!(parse("demo", "web1", &guest.to_json().unwrap()), Ok(guest));
                }
                Err(sentence) => prop_assert!(!sentence.is_empty() && sentence.len() < 4096),
            }
        }
    }
}
