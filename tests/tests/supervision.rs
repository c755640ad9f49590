//! What the host does when its own parts die.

use std::time::Duration;

use thimble_spec::units::MIB;
use thimble_tests::{BOOT_LIMIT, Boot, Machine, demo, free_port, get};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn guests_outlive_the_node_daemon_and_are_adopted() {
    // Given a host with both guests ready, whose console takes commands,
    let web1 = free_port();
    let mut machine = Machine::boot(&Boot {
        forward: &[(web1, "web1:80")],
        append: "thimble.console-commands",
        ..Boot::new(demo(), "direct")
    });
    let ready = [r"^thimble: guest web1 ready", r"^thimble: guest web2 ready"];
    machine.wait_all(&ready, BOOT_LIMIT);
    let page = get(web1, "/", LIMIT).expect("web1 answers");
    // each of them in a cgroup with the limits that its definition asks for: 96 MiB, 1/128 of it and 64 MiB; 64 tasks, a
    // vCPU, a disk's lane and its four workers, a network's lane and its worker.
    for (file, limit) in [("memory.max", (96 + 64) * MIB + 96 * MIB / 128), ("pids.max", 72), ("memory.swap.max", 0)] {
        machine.type_line(&format!("cat /sys/fs/cgroup/thimble/web1/{file}"));
        machine.wait(&format!("^console: {limit}$"), LIMIT);
    }
    // What it uses leaves room,
    machine.type_line("cat /sys/fs/cgroup/thimble/web1/pids.current");
    let tasks = machine.wait(r"^console: \d+$", LIMIT);
    let tasks: u32 = tasks["console: ".len()..].parse().expect("a number");
    assert!((5..=36).contains(&tasks), "{tasks} of 72");
    // and nothing was refused it.
    for (file, line) in [("pids.events", "max 0"), ("memory.events", "oom_kill 0")] {
        machine.type_line(&format!("cat /sys/fs/cgroup/thimble/web1/{file}"));
        machine.wait(&format!("^console: {line}$"), LIMIT);
    }
    for _ in 0..2 {
        // when the daemon is killed,
        machine.type_line("kill-node");
        // then another one adopts both guests,
        machine.wait_all(&[r"^node: guest web1 adopted", r"^node: guest web2 adopted"], LIMIT);
        // which went on all the time: the same start, the same page.
        assert_eq!(get(web1, "/", LIMIT).expect("web1 answers"), page);
    }
    // No guest was started a second time,
    let running = |name: &str| {
        let line = format!("thimble: guest {name} running");
        machine.seen().iter().filter(|seen| **seen == line).count()
    };
    assert_eq!((running("web1"), running("web2")), (1, 1));
    // and when the host is told to stop in the moment in which there is no daemon, the next one shuts them down in order.
    machine.type_line("kill-node\npoweroff");
    machine.wait_all(&[r"^thimble: guest web1 exited power-off$", r"^thimble: guest web2 exited power-off$"], LIMIT);
    assert!(machine.end(LIMIT).success());
}
