//! A guest ends as itself: what it chose is what the host says, and what the host does next. And it is what its
//! definition says.

use std::time::Duration;

use thimble_tests::{BOOT_LIMIT, Boot, Machine, repository, thimble};

const LIMIT: Duration = Duration::from_secs(90);

#[test]
fn reboot_and_power_off_end_as_themselves_and_a_guest_is_what_its_definition_says() {
    // Given an appliance whose guests end themselves, and one with everything that a definition can ask for,
    let library = repository().join("tests/library");
    let out = repository().join("target/trouble");
    let built = thimble()
        .args(["build", "--quiet", "tests/library/trouble.toml", "--library"])
        .arg(&library)
        .arg("--out")
        .arg(&out)
        .status();
    assert!(built.expect("thimble starts").success());
    let mut machine = Machine::boot(&Boot::new(&out, "direct"));
    // then each end is told by its name,
    machine.wait_all(
        &[
            r"^thimble: host trouble up",
            r"^\[three\] processors 3",
            r"^\[three\] sse4_2 3$",
            r"^thimble: guest three ready",
            r"^thimble: guest powers-off exited power-off$",
            // a guest that reboots is started again and finds its disk as it left it,
            r"^\[reboots\] start 1",
            r"^thimble: guest reboots exited reboot$",
            r"^\[reboots\] start 3",
            // one that is always to run is started again after it has powered itself off,
            r"^\[comes-back\] start 2",
            // and a guest finds in its machine what its definition says.
            r"^\[tuned\] mtu 1400$",
            r"^\[tuned\] queues 2 2$",
            r"^\[tuned\] sse4_2 0$",
            r"^\[tuned\] vsock and hvc0$",
            r"^\[tuned\] wrote$",
            r"^\[tuned\] pinged$",
            r"^thimble: guest tuned ready",
        ],
        BOOT_LIMIT,
    );
    // One that powered itself off stays off.
    let starts = machine.seen().iter().filter(|line| *line == "thimble: guest powers-off running").count();
    assert_eq!(starts, 1);
    // The one that starts after others did so.
    let at = |line: &str| machine.seen().iter().position(|seen| seen.starts_with(line)).expect(line);
    let before = ["reboots", "powers-off"].map(|name| at(&format!("thimble: guest {name} ready")));
    let began = at("thimble: guest comes-back running");
    assert!(before.iter().all(|ready| *ready < began), "{before:?} {began}");
    // The VMM of the one that says most says the same: the limits made it wait, the packets went by the VMM, the balloon is held.
    let status = machine.ask("tuned", "status", LIMIT);
    assert_eq!((&status["state"], &status["vcpus"]), (&"running".into(), &2.into()), "{status:#}");
    let stats = machine.ask("tuned", "stats", LIMIT);
    let count = |pointer: &str| stats.pointer(pointer).and_then(serde_json::Value::as_u64).unwrap_or(0);
    assert_eq!(stats["nets"][0]["vhost"], false, "{stats:#}");
    for counted in
        ["/balloon/reported_bytes", "/disks/1/throttled", "/disks/1/written_bytes", "/nets/0/received", "/nets/0/sent"]
    {
        assert!(count(counted) > 0, "{counted}: {stats:#}");
    }
    assert_eq!((count("/balloon/target_mib"), count("/balloon/actual_mib")), (8, 8), "{stats:#}");
    assert!(stats["vsock"].is_object(), "{stats:#}");
    machine.type_line("poweroff");
    machine.wait_all(
        &[
            r"^thimble: guest reboots exited power-off$",
            r"^thimble: guest comes-back exited power-off$",
            r"^thimble: guest three exited power-off$",
            r"^thimble: guest tuned exited power-off$",
        ],
        LIMIT,
    );
    assert!(machine.end(LIMIT).success());
    let errors: Vec<&String> = machine.seen().iter().filter(|line| line.starts_with("thimble: error")).collect();
    assert!(errors.is_empty(), "{errors:?}");
}
