//! Whether QEMU can use the processor's own virtualization, and why; else which processor it emulates.

use std::fs::{self, OpenOptions};
use std::process::Command;

use clap::ValueEnum;

/// How QEMU runs the machine's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// By the processor, through /dev/kvm.
    Kvm,
    /// By translation.
    Tcg,
}

/// What the user asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Wish {
    /// KVM if it can run an unmodified kernel, else TCG.
    #[default]
    Auto,
    /// The processor's virtualization.
    Kvm,
    /// Translation: slow, and runs everywhere.
    Tcg,
}

/// A decision and its reason, the end of a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The decision.
    pub accel: Accel,
    /// Why.
    pub reason: &'static str,
}

/// Decides for this machine.
pub fn choose(wish: Wish) -> Choice {
    match wish {
        Wish::Kvm => Choice { accel: Accel::Kvm, reason: "as asked" },
        Wish::Tcg => Choice { accel: Accel::Tcg, reason: "as asked" },
        Wish::Auto => {
            let opens = OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
            decide(opens, &fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
        }
    }
}

/// A /dev/kvm that opens is not enough: some hosts offer a software KVM, which cannot run an unmodified kernel. The CPU
/// flags tell (`vmx`: Intel VT-x, `svm`: AMD-V).
fn decide(kvm_opens: bool, cpuinfo: &str) -> Choice {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let hardware = flags.split_ascii_whitespace().any(|flag| matches!(flag, "vmx" | "svm"));
    match (hardware, kvm_opens) {
        (true, true) => Choice { accel: Accel::Kvm, reason: "/dev/kvm opens and the CPU has vmx or svm" },
        (true, false) => Choice {
            accel: Accel::Tcg,
            reason: "the CPU has vmx or svm, but /dev/kvm does not open: load kvm, and join the group kvm",
        },
        (false, true) => Choice {
            accel: Accel::Tcg,
            reason: "/dev/kvm opens, but the CPU has neither vmx nor svm: it cannot run an unmodified kernel",
        },
        (false, false) => Choice { accel: Accel::Tcg, reason: "there is no usable /dev/kvm" },
    }
}

/// The processor that a QEMU which translates emulates, as `-cpu` takes it: one with SVM, for the guests.
pub fn emulated_cpu(qemu: &str) -> &'static str {
    let told = Command::new(qemu).arg("--version").output();
    told.map_or(FLAT, |output| cpu_of(&String::from_utf8_lossy(&output.stdout)))
}

/// Without nested paging. QEMU 7.2 emulates that with faults: now and then a guest's registers are its host's, and the guest
/// ends by a triple fault or never goes on.
const FLAT: &str = "max,npt=off";

/// With QEMU 10.0 it is the other way round: with nested paging guests run, and without they stand still.
fn cpu_of(version: &str) -> &'static str {
    const MENDED: u32 = 10;
    let number = version.split_ascii_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    let major = number.and_then(|number| number.split('.').next()?.parse::<u32>().ok());
    if major.is_some_and(|major| major >= MENDED) { "max" } else { FLAT }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_tells_whether_nested_paging_works() {
        assert_eq!(cpu_of("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright"), FLAT);
        assert_eq!(cpu_of("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)\n"), "max");
        assert_eq!(cpu_of("nonsense"), FLAT);
    }

    #[test]
    fn a_kvm_without_hardware_is_not_used() {
        assert_eq!(decide(true, "flags\t\t: fpu vmx sse\n").accel, Accel::Kvm);
        assert_eq!(decide(true, "flags\t\t: fpu svm\n").accel, Accel::Kvm);
        assert_eq!(decide(true, "flags\t\t: fpu svm_lock xvmx\nbugs\t: svm\n").accel, Accel::Tcg);
        assert_eq!(decide(false, "flags\t\t: fpu vmx\n").accel, Accel::Tcg);
        assert_eq!(decide(false, "").accel, Accel::Tcg);
    }
}
