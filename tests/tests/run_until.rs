//! `thimble run --until` in a script: the exit code tells how it ended.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;
use thimble_tests::{demo, execute, thimble};

fn run(arguments: &[&str]) -> Command {
    let mut command = thimble();
    command.arg("run").arg(demo()).args(["--boot", "direct"]).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn end(mut process: Child, limit: Duration) -> ExitStatus {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if let Some(status) = process.try_wait().expect("it is our child") {
            return status;
        }
        thread::sleep(Duration::from_millis(50));
    }
    let _ = process.kill();
    panic!("thimble run does not end");
}

#[test]
fn a_line_that_comes_is_success_and_the_console_is_in_the_file() {
    let directory = TempDir::new().expect("a temporary directory");
    let serial = directory.path().join("serial");
    let process = run(&["--until", "^thimble: host demo up", "--timeout", "200", "--serial"]).arg(&serial).spawn();
    assert_eq!(end(process.expect("thimble starts"), Duration::from_secs(220)).code(), Some(0));
    let console = std::fs::read_to_string(serial).expect("the console is there");
    assert!(console.lines().any(|line| line.starts_with("thimble: host demo up")), "{console}");
}

#[test]
fn time_that_is_up_is_three() {
    let process = run(&["--until", "this line never comes", "--timeout", "2"]).spawn().expect("thimble starts");
    assert_eq!(end(process, Duration::from_secs(30)).code(), Some(3));
}

#[test]
fn a_machine_that_ends_first_is_four() {
    let directory = TempDir::new().expect("a temporary directory");
    let qmp = directory.path().join("qmp");
    let arguments = ["--until", "this line never comes", "--timeout", "60", "--qmp"];
    let process = run(&arguments).arg(&qmp).spawn().expect("thimble starts");
    quit(&qmp);
    assert_eq!(end(process, Duration::from_secs(30)).code(), Some(4));
}

#[test]
fn what_cannot_be_run_is_two() {
    for arguments in [&["--until", "("][..], &["--forward", "8081:nobody:80"], &["--boot", "floppy"]] {
        let output = thimble().arg("run").arg(demo()).args(arguments).stdin(Stdio::null()).output();
        let output = output.expect("thimble starts");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Pulls the plug as soon as QEMU listens.
fn quit(qmp: &Path) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while execute(qmp, "quit", json!({})).is_err() {
        assert!(Instant::now() < deadline, "QEMU does not listen on its monitor");
        thread::sleep(Duration::from_millis(100));
    }
}
