//! Every mistake in a definition gets one sentence with file, line and key, and exit code 2, before anything is fetched
//! or compiled.

use std::fs;
use std::path::Path;
use std::process::Output;

use tempfile::TempDir;
use thimble_tests::{repository, thimble};

/// Builds the demonstration with one thing replaced, with an empty cache and no way to make one: whoever fetches or
/// compiles something fails in another way than by the sentence.
fn build_with(from: &str, to: &str) -> Built {
    let demo = fs::read_to_string(repository().join("configs/demo.toml")).expect("the demonstration");
    let at = demo.find(from).unwrap_or_else(|| panic!("configs/demo.toml has no {from:?}"));
    let line = 1 + demo[..at].matches('\n').count();
    Built { line, ..build(&demo.replacen(from, to, 1)) }
}

struct Built {
    output: Output,
    /// The definition, and the line that was replaced.
    file: String,
    line: usize,
}

fn build(text: &str) -> Built {
    let directory = TempDir::new().expect("a temporary directory");
    let file = directory.path().join("bad.toml");
    fs::write(&file, text).expect("the definition");
    let out = directory.path().join("out");
    let output = thimble()
        .arg("build")
        .arg(&file)
        .arg("--out")
        .arg(&out)
        .arg("--library")
        .arg(repository())
        .env("THIMBLE_CACHE", "/proc/no-cache-here")
        .output()
        .expect("thimble starts");
    assert!(!out.exists(), "nothing is left behind");
    Built { output, file: file.display().to_string(), line: 1 }
}

fn refused(from: &str, to: &str, key: &str, message: &str) {
    let Built { output, file, line } = build_with(from, to);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{to}: {told}");
    let start = format!("{file}:{line}: {key}: ");
    let found = told.lines().any(|told| told.starts_with(&start) && told.contains(message));
    assert!(found, "{to}: expected `{start}...{message}...`, got:\n{told}");
}

#[test]
fn mistakes_inside_the_definition() {
    for (from, to, key, message) in [
        ("memory = \"96MiB\"", "memroy = \"96MiB\"", "guest[0].memroy", "unknown field"),
        ("memory = \"96MiB\"", "memory = \"lots\"", "guest[0].memory", "is not a size"),
        ("10.1.1.11/24", "10.1.1.0/24", "guest[0].network.address", "the network's own"),
        ("gateway = \"10.1.1.1\"", "gateway = \"10.7.1.1\"", "guest[0].network.gateway", "lies outside the network"),
        ("bridge = \"br0\"", "bridge = \"br7\"", "guest[0].network.bridge", "there is no bridge"),
        ("budget = \"64MiB\"", "budget = \"1MiB\"", "appliance.budget", "too small"),
    ] {
        refused(from, to, key, message);
    }
}

#[test]
fn names_of_things_that_do_not_exist() {
    refused("image = \"page\"", "image = \"pge\"", "guest[0].image", "pge");
    refused("\"usb\"]", "\"usx\"]", "kernel.host.hardware[3]", "usx");
    refused("\"guest/virtio\"", "\"guest/virtix\"", "kernel.guest.fragments[1]", "virtix");
}

#[test]
fn things_that_are_there_twice_or_too_large() {
    for (from, to, expected) in [
        ("10.1.1.12/24", "10.1.1.11/24", "guest[1].network.address: address 10.1.1.11 is used twice"),
        ("name = \"web2\"", "name = \"web1\"", "guest[1].name: guest web1 is used twice"),
        ("memory = \"768MiB\"", "memory = \"320MiB\"", "guest[1].memory: 96MiB does not fit after 96MiB"),
    ] {
        let Built { output, file, .. } = build_with(from, to);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.lines().any(|line| line.starts_with(&file) && line.contains(expected)), "{told}");
    }
}

#[test]
fn a_file_that_is_not_there_or_no_toml() {
    let missing = thimble().args(["build", "/no/such/file.toml", "--out", "/no/such/out"]).output().expect("it starts");
    let told = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert_eq!(missing.status.code(), Some(2), "{told}");
    assert!(told.contains("/no/such/file.toml"), "{told}");
    assert!(!Path::new("/no").exists());

    let Built { output, file, .. } = build("[appliance\nname = 1\n");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.starts_with(&format!("{file}:1: ")), "{told}");
}
