//! `thimble inspect --diff`, and what a build over its budget says.

use std::fs;
use std::path::Path;
use std::process::Output;

use tempfile::TempDir;
use thimble_tests::{demo, repository, thimble};

/// Builds the demonstration with these changes of its definition.
fn build(dir: &Path, changes: &[(&str, &str)]) -> Output {
    let mut text = fs::read_to_string(repository().join("configs/demo.toml")).expect("the definition");
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    let definition = dir.join("demo.toml");
    fs::write(&definition, text).expect("a definition");
    let mut command = thimble();
    command.arg("build").arg(&definition).args(["--quiet", "--library"]).arg(repository());
    command.arg("--out").arg(dir.join("out")).output().expect("thimble starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn what_grew_and_what_went_is_told() {
    let demo = demo();
    let dir = TempDir::new().expect("a temporary directory");
    // Given a build without RAID controllers and server cards,
    let few = [("\"raid\", \"nic-server\", ", "")];
    let output = build(dir.path(), &few);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let out = dir.path().join("out");

    // when the two are compared,
    let diff = |options: &[&str]| {
        let output =
            thimble().args(["inspect", "--diff"]).arg(&out).arg(demo.join("manifest.json")).args(options).output();
        let output = output.expect("thimble starts");
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    // then what came is named, the largest first,
    let told = diff(&[]);
    assert!(told.contains("host-modules") && told.contains("mlx5_core.ko (came)"), "{told}");
    let json: serde_json::Value = serde_json::from_str(&diff(&["--json"])).expect("JSON");
    let changes: Vec<i64> = json["objects"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|object| {
            let bytes = |key: &str| object["bytes"][key].as_i64().expect("bytes");
            (bytes("new") - bytes("old")).abs()
        })
        .collect();
    assert!(changes.len() > 20 && changes.is_sorted_by(|a, b| a >= b), "{changes:?}");
    assert_eq!(json["packages"].as_array().map(Vec::len), Some(0), "{json:#}");

    // and a build that is too large for its budget says, with the ledger, what grew since the one in its directory.
    let output = build(dir.path(), &[("\"64MiB\"", "\"32MiB\"")]);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("bytes too many") && told.contains("together"), "{told}");
    assert!(told.contains("since the build in") && told.contains("mlx5_core.ko"), "{told}");
}
