//! A guest ends as itself: what it chose is what the host says, and what the host does next.

use std::time::Duration;

use thimble_tests::{BOOT_LIMIT, Boot, Machine, repository, thimble};

const LIMIT: Duration = Duration::from_secs(90);

#[test]
fn reboot_and_power_off_end_as_themselves_and_a_guest_has_the_processors_that_it_was_given() {
    // Given an appliance whose guests end themselves,
    let library = repository().join("tests/library");
    let out = repository().join("target/trouble");
    let built = thimble()
        .args(["build", "--quiet", "tests/library/trouble.toml", "--library"])
        .arg(&library)
        .arg("--out")
        .arg(&out)
        .status();
    assert!(built.expect("thimble starts").success());
    let mut machine = Machine::boot(&Boot { artefacts: &out, by: "flash-bios", forward: &[], append: "" });
    // then each end is told by its name,
    machine.wait_all(
        &[
            r"^thimble: host trouble up",
            r"^\[three\] processors 3",
            r"^thimble: guest three ready",
            r"^thimble: guest powers-off exited power-off$",
            // a guest that reboots is started again and finds its disk as it left it,
            r"^\[reboots\] start 1",
            r"^thimble: guest reboots exited reboot$",
            r"^\[reboots\] start 3",
        ],
        BOOT_LIMIT,
    );
    // and one that powered itself off stays off.
    let starts = machine.seen().iter().filter(|line| *line == "thimble: guest powers-off running").count();
    assert_eq!(starts, 1);
    machine.type_line("poweroff");
    machine
        .wait_all(&[r"^thimble: guest reboots exited power-off$", r"^thimble: guest three exited power-off$"], LIMIT);
    assert!(machine.end(LIMIT).success());
    let errors: Vec<&String> = machine.seen().iter().filter(|line| line.starts_with("thimble: error")).collect();
    assert!(errors.is_empty(), "{errors:?}");
}
