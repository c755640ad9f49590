//! The host's network: every kind of link on a whole kernel.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use thimble_tests::repository;
use thimble_tests::rig::{Clock, Rig};

/// PID 1's own tests of links, on a kernel that has every kind of them.
#[test]
fn every_link_is_applied_changed_and_removed_on_a_whole_kernel() {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(repository()).args(["test", "--package", "thimble-init", "--bin", "init", "--no-run"]);
    command.args(["--message-format", "json"]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let output = command.output().expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let messages = String::from_utf8_lossy(&output.stdout);
    let program = messages.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        (message["target"]["name"] == "init").then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
    });
    let payload = TempDir::new().expect("a temporary directory");
    fs::copy(program.expect("cargo names what it made"), payload.path().join("tests")).expect("it can be copied");
    let mut rig = Rig::boot(payload.path(), Clock::Wall);
    rig.run("modprobe -a bonding 8021q dummy veth; ip link delete bond0 2>/dev/null; true");
    let output = rig.run_within(
        "THIMBLE_WHOLE_KERNEL=1 RUST_BACKTRACE=0 /payload/tests --test-threads 1 --color never --skip plans_lead --skip any_bytes reconcile",
        Duration::from_secs(240),
    );
    assert_eq!(output.status, 0, "{}", output.text);
    assert!(output.text.contains("test net::reconcile::tests::the_kernel_does_as_the_model ... ok"), "{}", output.text);
}
