//! Whether QEMU can use the processor's own virtualization, and why.

use std::fs::{self, OpenOptions};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kvm_without_hardware_is_not_used() {
        assert_eq!(decide(true, "flags\t\t: fpu vmx sse\n").accel, Accel::Kvm);
        assert_eq!(decide(true, "flags\t\t: fpu svm\n").accel, Accel::Kvm);
        assert_eq!(decide(true, "flags\t\t: fpu svm_lock xvmx\nbugs\t: svm\n").accel, Accel::Tcg);
        assert_eq!(decide(false, "flags\t\t: fpu vmx\n").accel, Accel::Tcg);
        assert_eq!(decide(false, "").accel, Accel::Tcg);
    }
}
