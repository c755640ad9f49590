//! What holds whatever a client sends and a file on the data partition has in it. Nothing of this is in the daemon: fuzz
//! targets call it.

use std::path::Path;
use std::sync::LazyLock;

use hyper::{Method, Uri};
use thimble_spec::admission::{self, Beside};
use thimble_spec::appliance::Appliance;

use crate::api::{call, routes};
use crate::definitions::{self, TEXT_MAX};

/// A host with a network, a guest and a place for another.
const HOST: &str = r#"
    [appliance]
    name = "demo"
    [kernel.host]
    package = "linux-image-amd64"
    hardware = ["virtio"]
    [kernel.guest]
    source = "linux-source-6.12"
    fragments = ["guest/base"]
    [network.bridges.br0]
    ports = ["eth0"]
    address = "10.1.1.2/24"
    [[guest]]
    name = "web1"
    image = "page"
    memory = "64MiB"
    network = { bridge = "br0", address = "10.1.1.11/24" }
    disk = { size = "16MiB" }
"#;

static APPLIANCE: LazyLock<Appliance> = LazyLock::new(|| {
    let definition = thimble_spec::definition::parse("host.toml", HOST);
    definition.unwrap_or_else(|mistakes| panic!("{mistakes}")).appliance
});

/// The line of a request, `METHOD TARGET`: it leads to one resource whose names are parts of the path, or to a refusal.
///
/// # Panics
/// It does not.
pub fn request(line: &[u8]) {
    let mut words = line.splitn(2, |byte| *byte == b' ');
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return };
    let (Ok(method), Ok(target)) = (Method::from_bytes(method), Uri::try_from(target)) else { return };
    match routes::find(&method, target.path()) {
        Ok((route, names)) => {
            assert_eq!(names.len(), route.path.matches('{').count());
            assert!(names.iter().all(|name| !name.is_empty() && !name.contains('/')), "{names:?}");
            assert!(routes::allowed(target.path()).split(", ").any(|allowed| allowed == method.as_str()));
            let mut names = names.iter();
            for (wanted, given) in route.path.split('/').zip(target.path().split('/')) {
                let is = if wanted.starts_with('{') { names.next().map_or("", String::as_str) } else { wanted };
                assert_eq!(is, given, "nothing of the path is lost");
            }
        }
        Err(refusal) => assert!(refusal.status.is_client_error()),
    }
    let query = target.query().unwrap_or_default();
    for key in ["after", "of", "wait_s", "write"] {
        let told = [call::query::<u64>(query, key).err(), call::query::<bool>(query, key).err()];
        for refusal in told.into_iter().flatten() {
            assert!(refusal.status.is_client_error() && !refusal.sentence.contains('\n'));
        }
    }
}

/// The definition of a guest: what is taken is what it says, written as the daemon writes it, and judged in words.
///
/// # Panics
/// It is not.
pub fn definition(text: &[u8]) {
    if text.len() > TEXT_MAX {
        return;
    }
    let appliance = &*APPLIANCE;
    let Ok(guest) = definitions::parse(&appliance.name, "web2", text) else { return };
    assert_eq!(guest.name, "web2");
    let value = definitions::value(&guest);
    let again = definitions::parse(&appliance.name, "web2", value.to_string().as_bytes());
    let again = again.unwrap_or_else(|why| panic!("what it writes it reads: {why}"));
    assert_eq!(again, guest);
    assert_eq!(definitions::revision(&again), definitions::revision(&guest));
    assert_eq!(definitions::differences(&value, &value), "");
    let others: Vec<_> = appliance.guests.iter().collect();
    for objection in admission::objections(&guest, Beside { appliance, others: &others }) {
        assert!(!objection.to_string().is_empty());
    }
}

/// A file of the data partition, with the definition of a guest: it is one, or it is damaged.
///
/// # Panics
/// It is neither.
pub fn kept(text: &[u8]) {
    match definitions::read(Path::new("/data/web2.json"), text) {
        Ok(kept) => assert_eq!(kept.guest.name, "web2"),
        Err((why, _)) => assert!(!format!("{why:#}").is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_right_is_taken_for_that() {
        let guest = br#"{ "name": "web2", "image": "page", "memory": "64MiB", "network": { "bridge": "br0" } }"#;
        definition(guest);
        assert!(definitions::parse("demo", "web2", guest).is_ok());
        request(b"GET /v1/guests/{a}/console?write=true");
        request(b"DELETE /v1/guests/web1/snapshots/{}");
    }

    proptest! {
        #[test]
        fn any_line_is_safe(line in "(GET|PUT) /v1/(guests|volumes)/[^ ]{0,20}/(console|start|snapshots/[^ ]*)") {
            request(line.as_bytes());
        }
    }
}
