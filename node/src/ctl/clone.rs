//! `clone`: a new guest on a copy of another's disk, which makes host keys and a machine id of its own.

use std::io::Read;
use std::time::Duration;

use serde_json::{Value, json};

use super::client::Client;
use super::define::path;
use super::failure::Failure;
use super::task;
use super::words::CloneOf;

/// Has it made, and follows it to its end. Ctrl-C gives it up.
///
/// # Errors
/// The node refuses or is not there, or it takes longer than `limit`: then it goes on.
pub async fn run(client: &Client, clone: &CloneOf, limit: Option<Duration>, json: bool) -> Result<(), Failure> {
    let deadline = task::deadline(limit);
    let (mut definition, _) = client.tagged(&path(&clone.guest)).await?;
    change(&mut definition, clone, &random_word()?)?;
    let at = format!("/v1/guests/{}/clone?of={}", clone.name, clone.guest);
    let begun = client.put(&at, &[], definition.to_string().into_bytes()).await?;
    let (_, text) = task::follow(client, begun, deadline, json).await?;
    println!("{}", if json { text } else { format!("guest {} is a copy of {}", clone.name, clone.guest) });
    Ok(())
}

/// What is the one guest's alone becomes the other's.
fn change(definition: &mut Value, clone: &CloneOf, identity: &str) -> Result<(), Failure> {
    definition["name"] = json!(clone.name);
    // No two guests have one.
    definition["vsock"] = Value::Null;
    if let Some(network) = definition.get_mut("network").and_then(Value::as_object_mut) {
        let before = network.get("address").cloned().unwrap_or_default();
        if let (Some(address), None) = (before.as_str(), &clone.address) {
            return Err(Failure::usage(format!(
                "guest {} has the address {address}: say that of its copy, --address ADDRESS/PREFIX",
                clone.guest
            )));
        }
        network.insert("address".to_owned(), json!(clone.address));
        network.insert("mac".to_owned(), json!(clone.mac));
    } else if clone.address.is_some() || clone.mac.is_some() {
        return Err(Failure::usage(format!("guest {} has no network interface: neither has its copy", clone.guest)));
    }
    if !definition["disk"].is_null() {
        definition["parameters"]["identity"] = json!(identity);
    }
    Ok(())
}

/// A word that no other guest has seen.
fn random_word() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|error| Failure::failed(format!("reading /dev/urandom: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clone(address: Option<&str>) -> CloneOf {
        CloneOf { guest: "web1".to_owned(), name: "web3".to_owned(), address: address.map(str::to_owned), mac: None }
    }

    #[test]
    fn a_copy_is_another_guest() {
        let web1 = json!({
            "name": "web1", "vsock": 3, "disk": { "source": { "size": "16MiB" } }, "parameters": { "role": "web" },
            "network": { "bridge": "br0", "address": "10.1.1.11/24", "mac": "02:00:00:00:00:01" },
        });
        let mut copy = web1.clone();
        change(&mut copy, &clone(Some("10.1.1.13/24")), "abc").unwrap();
        let wanted = json!({
            "name": "web3", "vsock": null, "disk": { "source": { "size": "16MiB" } },
            "parameters": { "role": "web", "identity": "abc" },
            "network": { "bridge": "br0", "address": "10.1.1.13/24", "mac": null },
        });
        assert_eq!(copy, wanted);
        let told = change(&mut web1.clone(), &clone(None), "abc").unwrap_err().to_string();
        assert!(told.contains("guest web1 has the address 10.1.1.11/24"), "{told}");
        // One that is given its address needs none, and one without an interface can have none.
        let mut copy = json!({ "name": "web1", "network": { "address": null }, "disk": null });
        change(&mut copy, &clone(None), "abc").unwrap();
        assert!(copy["parameters"].is_null(), "what has no disk remembers nothing");
        assert!(change(&mut json!({ "name": "web1" }), &clone(Some("10.1.1.13/24")), "abc").is_err());
        assert_ne!(random_word().unwrap(), random_word().unwrap());
    }
}
