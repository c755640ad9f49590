//! What the guest's processors can do: all that the host and its KVM can, or a level of the x86-64 psABI (System V ABI,
//! AMD64 supplement, 3.1.1) and no more.
//!
//! A level holds for what programs see. What only a kernel uses stays as the host has it, for a guest would be the
//! weaker without: the interrupt controller's modes, the clock, execution prevention, and the controls against
//! speculation. Leaves as in the Intel SDM volume 2 and the AMD APM volume 3, appendix E.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};
use thimble_spec::vmm::{Cpu, CpuModel};

use crate::error::{Error, Result};

/// A register that CPUID fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Register {
    Ebx,
    Ecx,
    Edx,
}
use Register::{Ebx, Ecx, Edx};

impl Register {
    fn of(self, entry: &mut kvm_cpuid_entry2) -> &mut u32 {
        match self {
            Ebx => &mut entry.ebx,
            Ecx => &mut entry.ecx,
            Edx => &mut entry.edx,
        }
    }
}

/// Feature flags: leaf 1, leaf 7 and their extended likes.
const FEATURES: u32 = 1;
/// See [`FEATURES`].
const STRUCTURED: u32 = 7;
/// See [`FEATURES`].
const EXTENDED: u32 = 0x8000_0001;
/// Address sizes, and more flags.
const SIZES: u32 = 0x8000_0008;
/// Registers that XSAVE saves.
const XSAVE: u32 = 0xd;
/// How SVM is done.
const SVM: u32 = 0x8000_000a;

/// What each level adds to the one below: level, name, leaf, register, bit.
const LEVELS: [(u8, &str, u32, Register, u32); 23] = [
    (1, "SSE2", FEATURES, Edx, 26),
    (1, "long mode", EXTENDED, Edx, 29),
    (2, "SSE3", FEATURES, Ecx, 0),
    (2, "SSSE3", FEATURES, Ecx, 9),
    (2, "CMPXCHG16B", FEATURES, Ecx, 13),
    (2, "SSE4.1", FEATURES, Ecx, 19),
    (2, "SSE4.2", FEATURES, Ecx, 20),
    (2, "POPCNT", FEATURES, Ecx, 23),
    (2, "LAHF", EXTENDED, Ecx, 0),
    (3, "FMA", FEATURES, Ecx, 12),
    (3, "MOVBE", FEATURES, Ecx, 22),
    (3, "XSAVE", FEATURES, Ecx, 26),
    (3, "AVX", FEATURES, Ecx, 28),
    (3, "F16C", FEATURES, Ecx, 29),
    (3, "BMI1", STRUCTURED, Ebx, 3),
    (3, "AVX2", STRUCTURED, Ebx, 5),
    (3, "BMI2", STRUCTURED, Ebx, 8),
    (3, "LZCNT", EXTENDED, Ecx, 5),
    (4, "AVX512F", STRUCTURED, Ebx, 16),
    (4, "AVX512DQ", STRUCTURED, Ebx, 17),
    (4, "AVX512CD", STRUCTURED, Ebx, 28),
    (4, "AVX512BW", STRUCTURED, Ebx, 30),
    (4, "AVX512VL", STRUCTURED, Ebx, 31),
];

/// What stays at every level, if the host has it: leaf, register, bits.
const KEPT: [(u32, Register, u32); 9] = [
    // VMX (given or taken by another rule), x2APIC, TSC deadline, hypervisor.
    (FEATURES, Ecx, bits(&[5, 21, 24, 31])),
    // What every processor has had since the first with 64 bits, but for the debug store (21), ACPI throttling (22),
    // self-snoop (27) and others of Intel's; and the flag of several processors (28).
    (FEATURES, Edx, 0x178b_fbff | (1 << 28)),
    // Supervisor mode execution and access prevention.
    (STRUCTURED, Ebx, bits(&[7, 20])),
    // User mode instruction prevention.
    (STRUCTURED, Ecx, bits(&[2])),
    // MD_CLEAR, IBRS and IBPB, STIBP, L1D_FLUSH, ARCH_CAPABILITIES, SSBD.
    (STRUCTURED, Edx, bits(&[10, 26, 27, 28, 29, 31])),
    // SVM (given or taken by another rule) and, of AMD, the topology's extensions.
    (EXTENDED, Ecx, bits(&[1, 2, 22])),
    // SYSCALL, no-execute, long mode; AMD repeats flags of leaf 1 here.
    (EXTENDED, Edx, bits(&[11, 20, 29]) | 0x0183_f3ff),
    // AMD's IBPB, IBRS, STIBP and how they are best used, SSBD.
    (SIZES, Ebx, bits(&[12, 14, 15, 16, 17, 18, 19, 24, 25, 26])),
    // The time stamp counter's rate never changes.
    (0x8000_0007, Edx, bits(&[8])),
];

/// The registers that a level's programs use (XCR0): x87 and SSE, AVX; the three of AVX-512.
const XCR0: [(u8, u32); 2] = [(3, 0x7), (4, 0xe7)];
/// Bytes of the XSAVE area before its optional parts.
const XSAVE_BYTES: u32 = 576;

const fn bits(numbers: &[u32]) -> u32 {
    let (mut mask, mut index) = (0, 0);
    while index < numbers.len() {
        mask |= 1 << numbers[index];
        index += 1;
    }
    mask
}

/// A level, and its name; none for the host's own model.
fn level(model: CpuModel) -> Option<(u8, &'static str)> {
    match model {
        CpuModel::Host => None,
        CpuModel::V1 => Some((1, "x86-64-v1")),
        CpuModel::V2 => Some((2, "x86-64-v2")),
        CpuModel::V3 => Some((3, "x86-64-v3")),
        CpuModel::V4 => Some((4, "x86-64-v4")),
    }
}

/// Of the host's CPUID, what `cpu` is to have.
///
/// # Errors
/// The host lacks something of the level, or cannot nest.
pub fn apply(host: &CpuId, cpu: &Cpu) -> Result<CpuId> {
    let mut entries = host.as_slice().to_vec();
    nest(&mut entries, cpu.nested)?;
    if let Some((level, name)) = level(cpu.model) {
        check(&mut entries, level, name)?;
        let size = xsave_size(&entries, level);
        entries.retain_mut(|entry| reduce(entry, level, size));
    }
    CpuId::from_entries(&entries).map_err(|_| Error::Config("the host's CPUID is too long".to_owned()))
}

/// Gives or takes what runs guests: Intel's VMX, AMD's SVM.
fn nest(entries: &mut Vec<kvm_cpuid_entry2>, nested: bool) -> Result<()> {
    let mut can = false;
    for entry in entries.iter_mut() {
        let flag = match entry.function {
            FEATURES => 1 << 5,
            EXTENDED => 1 << 2,
            _ => continue,
        };
        can |= entry.ecx & flag != 0;
        if !nested {
            entry.ecx &= !flag;
        }
    }
    if !nested {
        entries.retain(|entry| entry.function != SVM);
    } else if !can {
        let sentence = "the host's KVM does not nest: load its module kvm-intel or kvm-amd with nested=1, or start the \
                        guest without nesting";
        return Err(Error::Config(sentence.to_owned()));
    }
    Ok(())
}

fn check(entries: &mut [kvm_cpuid_entry2], level: u8, name: &str) -> Result<()> {
    let mut has = |leaf, register: Register, bit: u32| {
        entries
            .iter_mut()
            .any(|entry| (entry.function, entry.index) == (leaf, 0) && *register.of(entry) & (1 << bit) != 0)
    };
    let lacks: Vec<&str> = LEVELS
        .iter()
        .filter(|(least, _, leaf, register, bit)| *least <= level && !has(*leaf, *register, *bit))
        .map(|(_, feature, ..)| *feature)
        .collect();
    if lacks.is_empty() {
        return Ok(());
    }
    let lacks = lacks.join(", ");
    Err(Error::Config(format!(
        "the host's processor, or its KVM, lacks {lacks}, which {name} has: choose another model"
    )))
}

/// The flags that a register may have.
fn mask(level: u8, leaf: u32, register: Register) -> u32 {
    let kept = KEPT.iter().filter(|(of, in_, _)| (*of, *in_) == (leaf, register)).map(|(.., bits)| *bits);
    let added = LEVELS.iter().filter(|(least, _, of, in_, _)| *least <= level && (*of, *in_) == (leaf, register));
    kept.chain(added.map(|(.., bit)| 1 << bit)).fold(0, |mask, bits| mask | bits)
}

fn xcr0(level: u8) -> u32 {
    XCR0.iter().rev().find(|(least, _)| *least <= level).map_or(0, |(_, mask)| *mask)
}

/// Bytes of the XSAVE area at a level: each part tells its size and its place.
fn xsave_size(entries: &[kvm_cpuid_entry2], level: u8) -> u32 {
    let parts = entries.iter().filter(|entry| entry.function == XSAVE && (2..32).contains(&entry.index));
    parts
        .filter(|part| xcr0(level) >> part.index & 1 != 0)
        .map(|part| part.ebx.saturating_add(part.eax))
        .fold(XSAVE_BYTES, u32::max)
}

/// Reduces a leaf to a level; false if there is nothing left of it.
fn reduce(entry: &mut kvm_cpuid_entry2, level: u8, xsave_size: u32) -> bool {
    let xcr0 = xcr0(level);
    let leaf = entry.function;
    match (leaf, entry.index) {
        // The last leaf that is there.
        (0, _) => entry.eax = entry.eax.min(if xcr0 == 0 { 0xb } else { XSAVE }),
        (0x8000_0000, _) => entry.eax = entry.eax.min(0x8000_001e),
        (FEATURES, _) => {
            entry.ecx &= mask(level, leaf, Ecx);
            entry.edx &= mask(level, leaf, Edx);
        }
        (STRUCTURED, 0) => {
            entry.eax = 0;
            for register in [Ebx, Ecx, Edx] {
                *register.of(entry) &= mask(level, leaf, register);
            }
        }
        (EXTENDED, _) => {
            entry.ecx &= mask(level, leaf, Ecx);
            entry.edx &= mask(level, leaf, Edx);
        }
        // The local APIC's timer runs in every power state.
        (6, _) => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (entry.eax & (1 << 2), 0, 0, 0),
        (XSAVE, 0) => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (entry.eax & xcr0, xsave_size, xsave_size, 0),
        (XSAVE, part @ 2..32) => return xcr0 >> part & 1 != 0,
        (0x8000_0007, _) => (entry.eax, entry.ebx, entry.ecx) = (0, 0, 0),
        (SIZES, _) => entry.ebx &= mask(level, leaf, Ebx),
        // Caches, topology, KVM's own, the processor's name, SVM.
        (2 | 4 | 0xb | 0x4000_0000..=0x4000_00ff | 0x8000_0002..=0x8000_0006 | SVM | 0x8000_001d | 0x8000_001e, _) => {}
        _ => return false,
    }
    if leaf == 0x8000_0007 {
        entry.edx &= mask(level, leaf, Edx);
    }
    xcr0 != 0 || leaf != XSAVE
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(function: u32, index: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
    }

    /// A host with every flag that there could be.
    fn host() -> CpuId {
        const ALL: [u32; 4] = [u32::MAX; 4];
        CpuId::from_entries(&[
            entry(0, 0, [0x1f, 1, 2, 3]),
            entry(1, 0, ALL),
            entry(4, 0, ALL),
            entry(5, 0, ALL),
            entry(6, 0, ALL),
            entry(7, 0, ALL),
            entry(7, 1, ALL),
            entry(0xa, 0, ALL),
            entry(0xb, 0, ALL),
            entry(0xd, 0, ALL),
            entry(0xd, 1, ALL),
            entry(0xd, 2, [256, 576, 0, 0]),
            entry(0xd, 5, [64, 1088, 0, 0]),
            entry(0xd, 6, [512, 1152, 0, 0]),
            entry(0xd, 7, [1024, 1664, 0, 0]),
            entry(0xd, 9, [8, 2688, 0, 0]),
            entry(0x1d, 0, ALL),
            entry(0x4000_0001, 0, ALL),
            entry(0x8000_0000, 0, [0x8000_0021, 0, 0, 0]),
            entry(0x8000_0001, 0, ALL),
            entry(0x8000_0008, 0, ALL),
            entry(0x8000_000a, 0, ALL),
            entry(0x8000_0021, 0, ALL),
        ])
        .unwrap()
    }

    fn model(model: CpuModel, nested: bool) -> CpuId {
        apply(&host(), &Cpu { model, nested, pins: Vec::new() }).unwrap()
    }

    fn leaf(cpuid: &CpuId, function: u32, index: u32) -> Option<kvm_cpuid_entry2> {
        cpuid.as_slice().iter().find(|entry| (entry.function, entry.index) == (function, index)).copied()
    }

    #[test]
    fn the_hosts_model_is_the_host_but_for_nesting() {
        let nested = model(CpuModel::Host, true);
        assert_eq!(nested.as_slice(), host().as_slice());
        let plain = model(CpuModel::Host, false);
        assert_eq!(leaf(&plain, 1, 0).unwrap().ecx, !(1 << 5));
        assert_eq!(leaf(&plain, EXTENDED, 0).unwrap().ecx, !(1 << 2));
        assert!(leaf(&plain, SVM, 0).is_none() && leaf(&plain, 0x1d, 0).is_some());
    }

    #[test]
    fn the_baseline_has_sse2_and_no_more() {
        let v1 = model(CpuModel::V1, false);
        let features = leaf(&v1, 1, 0).unwrap();
        assert_eq!(features.ecx, (1 << 21) | (1 << 24) | (1 << 31));
        assert_eq!(features.edx & 0x0780_0000, 0x0780_0000, "MMX, FXSR, SSE, SSE2");
        assert_eq!(features.edx & ((1 << 21) | (1 << 22) | (1 << 27)), 0);
        let structured = leaf(&v1, 7, 0).unwrap();
        assert_eq!((structured.eax, structured.ebx, structured.ecx), (0, (1 << 7) | (1 << 20), 4));
        for (function, index) in [(5, 0), (7, 1), (0xa, 0), (0xd, 0), (0xd, 2), (0x1d, 0), (0x8000_0021, 0)] {
            assert!(leaf(&v1, function, index).is_none(), "{function:#x}.{index}");
        }
        assert_eq!(leaf(&v1, 0, 0).unwrap().eax, 0xb);
        assert_eq!(leaf(&v1, 0x4000_0001, 0).unwrap().eax, u32::MAX);
        assert_eq!(leaf(&v1, 6, 0).unwrap().eax, 4);
    }

    #[test]
    fn levels_add_up() {
        let v2 = leaf(&model(CpuModel::V2, false), 1, 0).unwrap().ecx;
        assert_eq!(v2, (1 << 21) | (1 << 24) | (1 << 31) | bits(&[0, 9, 13, 19, 20, 23]));
        let v3 = model(CpuModel::V3, false);
        assert_eq!(leaf(&v3, 1, 0).unwrap().ecx, v2 | bits(&[12, 22, 26, 28, 29]));
        assert_eq!(leaf(&v3, 7, 0).unwrap().ebx, bits(&[3, 5, 7, 8, 20]));
        assert_eq!(leaf(&v3, EXTENDED, 0).unwrap().ecx & 0x21, 0x21);
        let area = leaf(&v3, 0xd, 0).unwrap();
        assert_eq!((area.eax, area.ebx, area.ecx, area.edx), (7, 832, 832, 0));
        assert!(leaf(&v3, 0xd, 1).is_none() && leaf(&v3, 0xd, 2).is_some() && leaf(&v3, 0xd, 5).is_none());
        let v4 = model(CpuModel::V4, false);
        assert_eq!(leaf(&v4, 7, 0).unwrap().ebx, bits(&[3, 5, 7, 8, 16, 17, 20, 28, 30, 31]));
        assert_eq!((leaf(&v4, 0xd, 0).unwrap().eax, leaf(&v4, 0xd, 0).unwrap().ecx), (0xe7, 2688));
        assert!(leaf(&v4, 0xd, 7).is_some() && leaf(&v4, 0xd, 9).is_none());
    }

    #[test]
    fn nesting_goes_with_every_model() {
        let v2 = model(CpuModel::V2, true);
        assert_ne!(leaf(&v2, 1, 0).unwrap().ecx & (1 << 5), 0);
        assert_ne!(leaf(&v2, EXTENDED, 0).unwrap().ecx & (1 << 2), 0);
        assert!(leaf(&v2, SVM, 0).is_some());
    }

    #[test]
    fn what_the_host_lacks_is_named() {
        let mut host = host();
        for entry in host.as_mut_slice() {
            match entry.function {
                1 => entry.ecx &= !((1 << 5) | (1 << 22)),
                7 => entry.ebx &= !(1 << 5),
                EXTENDED => entry.ecx &= !(1 << 2),
                _ => {}
            }
        }
        let refusal = |model, nested| apply(&host, &Cpu { model, nested, pins: Vec::new() }).unwrap_err().sentence();
        assert_eq!(
            refusal(CpuModel::V4, false),
            "the host's processor, or its KVM, lacks MOVBE, AVX2, which x86-64-v4 has: choose another model"
        );
        assert!(refusal(CpuModel::Host, true).contains("does not nest"));
        assert!(apply(&host, &Cpu { model: CpuModel::V2, ..Cpu::default() }).is_ok());
    }

    proptest! {
        #[test]
        fn nothing_is_made_up(
            leaves in prop::collection::vec((any::<u8>(), 0u32..10, any::<[u32; 4]>()), 0..40),
            level in 1u8..5,
        ) {
            for (function, index, registers) in leaves {
                // Leaf numbers near those that exist.
                let function = u32::from(function & 0x3f) | if function & 0x80 != 0 { 0x8000_0000 } else { 0 };
                let before = entry(function, index, registers);
                let mut after = before;
                if reduce(&mut after, level, 600) && function != XSAVE && function & 0x7fff_ffff != 0 {
                    prop_assert_eq!(after.eax & !before.eax, 0);
                    prop_assert_eq!(after.ebx & !before.ebx, 0);
                    prop_assert_eq!(after.ecx & !before.ecx, 0);
                    prop_assert_eq!(after.edx & !before.edx, 0);
                }
            }
        }
    }
}
