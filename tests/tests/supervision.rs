//! What the host does when its own parts die.

use std::time::Duration;

use thimble_tests::{BOOT_LIMIT, Boot, Machine, demo, free_port, get};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn guests_outlive_the_node_daemon_and_are_adopted() {
    // Given a host with both guests ready, whose console takes commands,
    let web1 = free_port();
    let mut machine = Machine::boot(&Boot {
        artefacts: demo(),
        by: "direct",
        forward: &[(web1, "web1:80")],
        append: "thimble.console-commands",
    });
    let ready = [r"^thimble: guest web1 ready", r"^thimble: guest web2 ready"];
    machine.wait_all(&ready, BOOT_LIMIT);
    let page = get(web1, "/", LIMIT).expect("web1 answers");
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
