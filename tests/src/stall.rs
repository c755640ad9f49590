//! Whether it is the emulator that stands still.
//!
//! Now and then a machine of two processors hangs in QEMU 7.2's translator when Linux changes its own code, which KVM makes
//! it do as it starts the first guest: both processors go through a breakpoint's exception for ever, with their interrupts
//! off. No hardware does that, and nothing of ours runs then. Such a machine is not waited for, and its test says why.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use serde_json::json;

use crate::qmp;

/// What a failure of this kind says.
pub const NOTE: &str = "THE EMULATOR HANGS: all processors run with their interrupts off";
/// How often it is looked, and how long between.
const LOOKS: usize = 20;
const PAUSE: Duration = Duration::from_millis(100);
/// The interrupt flag (`IF`, Intel SDM volume 1, 3.4.3.3).
const INTERRUPTS: u64 = 1 << 9;
/// Where Linux runs, and no boot loader (Documentation/arch/x86/x86_64/mm.rst).
const KERNEL: u64 = 0xffff_8000_0000_0000;

/// [`NOTE`], if it is so; else nothing.
pub fn note(socket: &Path) -> &'static str {
    let hangs = (0..LOOKS).all(|_| {
        sleep(PAUSE);
        all_masked(&registers(socket))
    });
    if hangs { NOTE } else { "" }
}

/// Where each processor is, a line each: for whoever reads of a machine that says nothing.
pub fn places(socket: &Path) -> String {
    let registers = registers(socket);
    let lines = registers.lines().filter(|line| line.contains("IP="));
    lines.map(|line| format!("processor at {}", line.trim())).collect::<Vec<_>>().join("\n")
}

fn registers(socket: &Path) -> String {
    let words = json!({ "command-line": "info registers -a" });
    let told = qmp::execute(socket, "human-monitor-command", words).unwrap_or_default();
    told.as_str().unwrap_or_default().to_owned()
}

/// Whether each processor that is listed is in Linux with its interrupts off: boot loaders always have them off.
fn all_masked(registers: &str) -> bool {
    let values = |name: &str| -> Vec<u64> {
        let rest = registers.split(name).skip(1);
        let word = rest.map(|rest| rest.split_ascii_whitespace().next().unwrap_or_default());
        word.map(|word| u64::from_str_radix(word, 16).unwrap_or(INTERRUPTS)).collect()
    };
    let (flags, places) = (values("RFL="), values("RIP="));
    !flags.is_empty()
        && flags.iter().all(|flags| flags & INTERRUPTS == 0)
        && places.iter().all(|place| *place >= KERNEL)
}
