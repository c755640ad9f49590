//! Twenty guests on one host, of one kernel, one initrd and one image.

use std::time::Duration;

use tempfile::TempDir;
use thimble_tests::crowd::{GUESTS, build, name};
use thimble_tests::{Boot, Machine, free_port, get, ssh};

/// Twenty guests start at once on a processor that is emulated.
const START_LIMIT: Duration = Duration::from_secs(900);
const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn twenty_guests_of_one_host_all_answer() {
    let directory = TempDir::new().expect("a temporary directory");
    let (key, public) = ssh::key(directory.path(), "key");
    let out = build(directory.path(), &public, GUESTS, GUESTS);
    let port = free_port();
    let guests: Vec<(u16, String)> = (1..=GUESTS).map(|number| (free_port(), format!("{}:80", name(number)))).collect();
    let mut forward: Vec<(u16, &str)> = guests.iter().map(|(port, to)| (*port, to.as_str())).collect();
    forward.push((port, "host:22"));
    let mut machine = Machine::boot(&Boot { forward: &forward, more: &["--cpus", "2"], ..Boot::new(&out, "direct") });
    let ready: Vec<String> = (1..=GUESTS).map(|number| format!("^thimble: guest {} ready", name(number))).collect();
    machine.wait_all(&ready.iter().map(String::as_str).collect::<Vec<_>>(), START_LIMIT);
    for (port, to) in &guests {
        let name = to.trim_end_matches(":80");
        let page = get(*port, "/", LIMIT).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        assert!(page.contains(&format!("<h1>{name}</h1>")), "{name}: {page}");
    }
    ssh::wait(port);
    let list = ssh::said(port, &key, "thimblectl list; thimblectl nodeinfo");
    println!("{list}");
    assert_eq!(list.matches(" running ").count(), GUESTS as usize, "{list}");
    // None was killed for want of memory, or started twice.
    assert!(ssh::said(port, &key, "cat /proc/vmstat").contains("oom_kill 0\n"));
    let again =
        machine.seen().iter().filter(|line| line.ends_with(" running") && line.starts_with("thimble: guest")).count();
    assert_eq!(again, GUESTS as usize);
    // One more than may run is not started, and says why.
    let output = ssh::run(port, Some(&key), "thimblectl start late --wait");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    machine.wait(r"^thimble: error guest late is not started: .* 21 vCPUs, and \[node.overcommit\] allows 20", LIMIT);
    // When the processes of the last two are killed, one is started again, and one is not to be.
    let [again, never] = [GUESTS - 1, GUESTS].map(name);
    let kill = format!(
        "for guest in {again} {never}; do kill -9 $(thimblectl list | busybox awk -v g=$guest '$2 == g {{ print $1 }}'); done"
    );
    ssh::said(port, &key, &kill);
    machine
        .wait_all(&[&format!("^thimble: guest {again} running"), &format!("^thimble: guest {never} exited ")], LIMIT);
    machine.wait(&format!("^thimble: guest {again} ready"), LIMIT);
    let state = ssh::said(port, &key, &format!("thimblectl domstate --reason {never}"));
    assert!(state.starts_with("shut off") || state.starts_with("off"), "{state}");
    println!("{never}: {state}");
    // Its place is free.
    ssh::said(port, &key, "thimblectl start late --wait");
    ssh::run(port, Some(&key), "thimble-node power off");
    assert!(machine.end(START_LIMIT).success());
}
