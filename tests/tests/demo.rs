//! The main job: the demonstration's `flash.img` boots by BIOS and by UEFI, its two guests answer, and each remembers
//! on its own disk how often it was started.

use std::time::Duration;

use thimble_tests::{BOOT_LIMIT, Boot, Machine, demo, free_port, get};

const READY: [&str; 3] =
    ["^thimble: host demo up [0-9.]+$", r"^thimble: guest web1 ready [0-9.]+$", r"^thimble: guest web2 ready [0-9.]+$"];
const FETCH_LIMIT: Duration = Duration::from_secs(60);
/// Shutting two guests and the host down, emulated.
const END_LIMIT: Duration = Duration::from_secs(90);

/// How often the guest behind the port says that it was started.
fn starts(port: u16) -> u32 {
    get(port, "/starts", FETCH_LIMIT).expect("the guest answers").trim().parse().expect("a number")
}

fn no_errors(machine: &Machine) {
    let errors: Vec<&String> = machine.seen().iter().filter(|line| line.starts_with("thimble: error")).collect();
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn by_bios_two_guests_answer_and_remember_across_a_reboot_of_the_host() {
    // Given the flash disk in a machine with a BIOS,
    let (web1, web2) = (free_port(), free_port());
    let forward = [(web1, "web1:80"), (web2, "web2:80")];
    let mut machine =
        Machine::boot(&Boot { forward: &forward, more: &["--cpus", "2"], ..Boot::new(demo(), "flash-bios") });
    // when both guests are ready,
    machine.wait_all(&READY, BOOT_LIMIT);
    // then each serves its own page, fetched through the bridge,
    for (port, name) in [(web1, "web1"), (web2, "web2")] {
        let page = get(port, "/", FETCH_LIMIT).expect("the guest answers");
        assert!(page.contains(&format!("<h1>{name}</h1>")), "{page}");
        assert!(page.contains("started <strong>1</strong> times"), "{page}");
    }
    // and when the host reboots,
    machine.press_ctrl_alt_del();
    machine
        .wait_all(&[r"^thimble: guest web1 exited power-off$", r"^thimble: guest web2 exited power-off$"], END_LIMIT);
    machine.wait_all(&READY, BOOT_LIMIT);
    // then both counters have advanced.
    assert_eq!((starts(web1), starts(web2)), (2, 2));
    // The power button ends it, guests first.
    machine.press_power_button();
    machine
        .wait_all(&[r"^thimble: guest web1 exited power-off$", r"^thimble: guest web2 exited power-off$"], END_LIMIT);
    assert!(machine.end(END_LIMIT).success());
    no_errors(&machine);
}

#[test]
fn by_uefi_two_guests_answer_and_ctrl_c_ends_it_cleanly() {
    let (web1, web2) = (free_port(), free_port());
    let forward = [(web1, "web1:80"), (web2, "web2:80")];
    let mut machine = Machine::boot(&Boot { forward: &forward, ..Boot::new(demo(), "flash-uefi") });
    machine.wait_all(&READY, BOOT_LIMIT);
    assert_eq!((starts(web1), starts(web2)), (1, 1));
    machine.interrupt();
    machine
        .wait_all(&[r"^thimble: guest web1 exited power-off$", r"^thimble: guest web2 exited power-off$"], END_LIMIT);
    assert!(machine.end(END_LIMIT).success());
    no_errors(&machine);
}
