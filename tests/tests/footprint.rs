//! What a host takes for itself.

use std::time::Duration;

use regex::Regex;
use thimble_tests::{BOOT_LIMIT, Boot, Machine, free_port, get, small};

const LIMIT: Duration = Duration::from_secs(60);
/// PID 1 and the daemon together, in KiB of proportional set size.
const PROCESSES_MAX: u64 = 12 << 10;

/// The proportional set size of a process, in KiB.
fn pss(machine: &mut Machine, pid: &str) -> u64 {
    machine.type_line(&format!("cat /proc/{pid}/smaps_rollup"));
    let line = machine.wait(r"^console: Pss: +\d+ kB$", LIMIT);
    let digits = Regex::new(r"\d+").expect("a pattern");
    digits.find(&line).and_then(|number| number.as_str().parse().ok()).expect("a number")
}

#[test]
fn in_256_mib_a_host_runs_a_guest_of_64_mib() {
    // Given a machine with 256 MiB and an appliance with one guest of 64 MiB,
    let web1 = free_port();
    let mut machine = Machine::boot(&Boot {
        forward: &[(web1, "web1:80")],
        append: "thimble.console-commands",
        more: &["--memory", "256MiB"],
        ..Boot::new(small(), "direct")
    });
    // when its guest is ready,
    machine.wait_all(&["^thimble: host demo up", "^thimble: guest web1 ready"], BOOT_LIMIT);
    // then it serves, and nothing had to be killed for memory.
    assert!(get(web1, "/", LIMIT).expect("web1 answers").contains("<h1>web1</h1>"));
    machine.type_line("cat /proc/vmstat");
    machine.wait("^console: oom_kill 0$", LIMIT);
    // PID 1 and the daemon are small.
    machine.type_line("ps");
    let line = machine.wait(r"^console: +\d+ /usr/bin/thimble-node$", LIMIT);
    let node = line.split_whitespace().nth(1).expect("a process").to_owned();
    let (init, node) = (pss(&mut machine, "1"), pss(&mut machine, &node));
    println!("PID 1: {init} KiB, daemon: {node} KiB");
    assert!(init + node <= PROCESSES_MAX, "PID 1: {init} KiB, daemon: {node} KiB");
    machine.type_line("poweroff");
    assert!(machine.end(LIMIT).success());
}
