//! What there is to know of the QEMU of this machine.

use std::process::Command;
use std::sync::OnceLock;

/// The processor that a translating QEMU is to emulate for a host that runs guests: nested paging works in QEMU 10, and loses
/// guests in 7.2, where `thimble run` does without it too.
pub fn cpu() -> &'static str {
    static CPU: OnceLock<&'static str> = OnceLock::new();
    CPU.get_or_init(|| {
        let told = Command::new("qemu-system-x86_64").arg("--version").output().expect("QEMU is there: scripts/setup");
        let text = String::from_utf8_lossy(&told.stdout).into_owned();
        let major = text.split("version ").nth(1).and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
        if major.expect("QEMU tells its version") >= 10 { "max" } else { "max,npt=off" }
    })
}
