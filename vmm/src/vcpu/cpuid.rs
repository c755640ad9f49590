//! CPUID: what the host can give, with each vCPU's place in the topology written in.
//!
//! The guest sees one package of as many single-threaded cores as it has vCPUs, and APIC ids that count from 0, as the
//! MP table says. Leaves as in the Intel SDM volume 2 and the AMD APM volume 3, appendix E.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

/// Writes the topology, as vCPU `index` of `count` sees it, into the host's CPUID.
pub fn for_vcpu(host: &CpuId, index: u8, count: u8, tsc_deadline: bool) -> CpuId {
    let mut cpuid = host.clone();
    for entry in cpuid.as_mut_slice() {
        write_topology(entry, index.into(), count.into());
        if entry.function == 1 && tsc_deadline {
            // KVM leaves it to us to offer the timer mode of its local APIC.
            entry.ecx |= 1 << 24;
        }
    }
    cpuid
}

/// Bits that hold `count` ids.
fn id_bits(count: u32) -> u32 {
    count.next_power_of_two().trailing_zeros()
}

fn set_bits(register: &mut u32, low: u32, width: u32, value: u32) {
    let mask = ((1u32 << width) - 1) << low;
    *register = (*register & !mask) | ((value << low) & mask);
}

fn write_topology(entry: &mut kvm_cpuid_entry2, index: u32, count: u32) {
    match entry.function {
        1 => {
            set_bits(&mut entry.ebx, 24, 8, index);
            set_bits(&mut entry.ebx, 16, 8, 1 << id_bits(count));
            set_bits(&mut entry.edx, 28, 1, u32::from(count > 1));
            // There is a hypervisor.
            entry.ecx |= 1 << 31;
        }
        // Deterministic cache parameters: ids in the package; the first two levels belong to a core, others to all.
        4 if entry.eax & 0x1f != 0 => {
            let level = (entry.eax >> 5) & 7;
            set_bits(&mut entry.eax, 26, 6, ((1 << id_bits(count)) - 1).min(63));
            set_bits(&mut entry.eax, 14, 12, if level < 3 { 0 } else { (1 << id_bits(count)) - 1 });
        }
        // Extended topology: a level of threads, one of cores, then nothing.
        0xb | 0x1f => {
            let (shift, logical, kind) = match entry.index {
                0 => (0, 1, 1),
                1 => (id_bits(count), count, 2),
                _ => (0, 0, 0),
            };
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (shift, logical, (kind << 8) | entry.index, index);
        }
        // AMD: cores of the package, and the bits of their ids.
        0x8000_0008 => {
            set_bits(&mut entry.ecx, 0, 8, count - 1);
            set_bits(&mut entry.ecx, 12, 4, id_bits(count));
        }
        // AMD: caches, as leaf 4.
        0x8000_001d if entry.eax & 0x1f != 0 => {
            let level = (entry.eax >> 5) & 7;
            set_bits(&mut entry.eax, 14, 12, if level < 3 { 0 } else { (1 << id_bits(count)) - 1 });
        }
        // AMD: APIC id, core id, and the one node.
        0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (index, index, 0),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> CpuId {
        let entry = |function, index| kvm_cpuid_entry2 { function, index, ..Default::default() };
        CpuId::from_entries(&[entry(1, 0), entry(0xb, 0), entry(0xb, 1), entry(0xb, 2), entry(0x8000_0008, 0)]).unwrap()
    }

    #[test]
    fn each_vcpu_finds_its_apic_id() {
        for index in [0, 2] {
            let cpuid = for_vcpu(&host(), index, 3, true);
            let leaves = cpuid.as_slice();
            assert_eq!(leaves[0].ebx >> 24, u32::from(index));
            assert_eq!((leaves[0].ebx >> 16) & 0xff, 4);
            assert_eq!(leaves[0].ecx, (1 << 31) | (1 << 24));
            assert_eq!(leaves[0].edx, 1 << 28);
            assert!(leaves[1..4].iter().all(|leaf| leaf.edx == u32::from(index)));
            assert_eq!((leaves[2].eax, leaves[2].ebx, leaves[2].ecx), (2, 3, 0x201));
            assert_eq!((leaves[3].eax, leaves[3].ebx, leaves[3].ecx), (0, 0, 2));
            assert_eq!(leaves[4].ecx, 0x2002);
        }
    }

    #[test]
    fn one_vcpu_is_no_package_of_threads() {
        let cpuid = for_vcpu(&host(), 0, 1, false);
        assert_eq!(cpuid.as_slice()[0].edx & (1 << 28), 0);
        assert_eq!(cpuid.as_slice()[0].ecx, 1 << 31);
    }
}
