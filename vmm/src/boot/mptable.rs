//! Processors and interrupts for a kernel without ACPI: an MP table (Intel MultiProcessor Specification 1.4).
//!
//! One ISA bus, one IOAPIC behind the processors, and each ISA interrupt at the IOAPIC's pin of the same number, as
//! KVM routes them. Pins beyond 15 are ISA interrupts too, for there is no other bus; Linux takes them.

use crate::layout::{IOAPIC, IOAPIC_PINS, LOCAL_APIC, MP_TABLE};

/// Bytes of the floating pointer (section 4.1).
const POINTER_BYTES: usize = 16;
/// Bytes of the table's header (section 4.2).
const HEADER_BYTES: usize = 44;
/// Version 1.4 of the specification, in the pointer and in the table.
const REVISION: u8 = 4;
/// Version of the local APICs and the IOAPIC: integrated APIC (section 4.3.1).
const APIC_VERSION: u8 = 0x14;
/// The number of the only bus.
const ISA_BUS: u8 = 0;
/// All local APICs (section 4.3.5).
const ALL_APICS: u8 = 0xff;

/// Entry types (section 4.3).
mod entry {
    pub const PROCESSOR: u8 = 0;
    pub const BUS: u8 = 1;
    pub const IOAPIC: u8 = 2;
    pub const IO_INTERRUPT: u8 = 3;
    pub const LOCAL_INTERRUPT: u8 = 4;
}

/// Interrupt types (section 4.3.4).
mod interrupt {
    pub const INT: u8 = 0;
    pub const NMI: u8 = 1;
    pub const EXT_INT: u8 = 3;
}

/// The floating pointer, for [`MP_TABLE`], and the table behind it.
pub fn build(vcpus: u8) -> Vec<u8> {
    let ioapic_id = vcpus;
    let mut entries = Vec::new();
    let mut count = 0u16;
    let mut add = |bytes: &[u8]| {
        entries.extend_from_slice(bytes);
        count += 1;
    };
    for id in 0..vcpus {
        // Usable, and the first is the boot processor; signature and features are read from CPUID.
        let flags = if id == 0 { 3 } else { 1 };
        let mut processor = [0; 20];
        processor[..4].copy_from_slice(&[entry::PROCESSOR, id, APIC_VERSION, flags]);
        // CPUID signature of a P6, with an on-chip APIC.
        processor[4..6].copy_from_slice(&0x600u16.to_le_bytes());
        processor[8..10].copy_from_slice(&0x201u16.to_le_bytes());
        add(&processor);
    }
    add(&[entry::BUS, ISA_BUS, b'I', b'S', b'A', b' ', b' ', b' ']);
    let [a, b, c, d] = IOAPIC.to_le_bytes();
    add(&[entry::IOAPIC, ioapic_id, APIC_VERSION, 1, a, b, c, d]);
    for pin in 0..IOAPIC_PINS {
        // Polarity and trigger as usual for the bus: active high, at the edge.
        add(&[entry::IO_INTERRUPT, interrupt::INT, 0, 0, ISA_BUS, pin, ioapic_id, pin]);
    }
    // LINT0 takes the legacy controller's interrupts on the boot processor, LINT1 non-maskable ones on all.
    add(&[entry::LOCAL_INTERRUPT, interrupt::EXT_INT, 0, 0, ISA_BUS, 0, 0, 0]);
    add(&[entry::LOCAL_INTERRUPT, interrupt::NMI, 0, 0, ISA_BUS, 0, ALL_APICS, 1]);
    [pointer().as_slice(), &header(&entries, count), &entries].concat()
}

fn pointer() -> [u8; POINTER_BYTES] {
    let mut pointer = [0; POINTER_BYTES];
    pointer[..4].copy_from_slice(b"_MP_");
    pointer[4..8].copy_from_slice(&(MP_TABLE as u32 + POINTER_BYTES as u32).to_le_bytes());
    // Its own length, in 16 bytes.
    pointer[8] = 1;
    pointer[9] = REVISION;
    pointer[10] = checksum(&pointer);
    pointer
}

fn header(entries: &[u8], count: u16) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(b"PCMP");
    header[4..6].copy_from_slice(&((HEADER_BYTES + entries.len()) as u16).to_le_bytes());
    header[6] = REVISION;
    header[8..28].copy_from_slice(b"THIMBLE VMM         ");
    header[34..36].copy_from_slice(&count.to_le_bytes());
    header[36..40].copy_from_slice(&LOCAL_APIC.to_le_bytes());
    header[7] = checksum(&[&header, entries].concat());
    header
}

/// The byte that makes the sum of all zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    proptest! {
        #[test]
        fn sums_are_zero_and_lengths_right(vcpus in 1u8..=254) {
            let table = build(vcpus);
            prop_assert_eq!(sum(&table[..POINTER_BYTES]), 0);
            let body = &table[POINTER_BYTES..];
            prop_assert_eq!(sum(body), 0);
            prop_assert_eq!(usize::from(u16::from_le_bytes([body[4], body[5]])), body.len());
            let count = u16::from_le_bytes([body[34], body[35]]);
            prop_assert_eq!(count, u16::from(vcpus) + 2 + 24 + 2);
            prop_assert_eq!(body.len(), HEADER_BYTES + usize::from(vcpus) * 20 + 28 * 8);
            // It stays below 1 MiB.
            prop_assert!(table.len() < 0x1_0000);
        }
    }
}
