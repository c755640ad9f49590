//! The static tables, one behind the other from [`layout::ACPI_TABLES`] on.

use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use thimble_spec::vmm::POWER_PORT;

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, dsdt, power};
use crate::bus::port;
use crate::layout;

/// The strictest alignment of a table: the FACS's (5.2.10).
const ALIGNMENT: usize = 64;

/// `IAPC_BOOT_ARCH` (5.2.9.3): there are devices on the ISA bus; no VGA, no CMOS clock, and no keyboard controller,
/// which would be bit 1.
const BOOT_ARCHITECTURE: u16 = 1 | (1 << 2) | (1 << 5);
/// A latency, in microseconds, that says that there is no C2 or C3 state (5.2.9).
const NO_SUCH_STATE: u16 = 0xfff;

/// Bytes of the MADT before its first structure: a header, the local APICs' address and flags (5.2.12).
const MADT_BYTES: u32 = 44;
/// `PCAT_COMPAT`: there are two 8259s too, to be turned off.
const PCAT_COMPAT: u32 = 1;
/// Flags of an interrupt that is active high and at a level (5.2.12.5).
const HIGH_LEVEL: u16 = 0b1101;
/// All processors (5.2.12.7).
const ALL_PROCESSORS: u8 = 0xff;

/// Structures of the MADT (5.2.12).
mod structure {
    pub const LOCAL_APIC: u8 = 0;
    pub const IOAPIC: u8 = 1;
    pub const OVERRIDE: u8 = 2;
    pub const LOCAL_NMI: u8 = 4;
}

/// All tables, as they lie from [`layout::ACPI_TABLES`] on; the first is the one that points at the others.
pub fn build(vcpus: u8, virtio: usize) -> Vec<u8> {
    let mut tables = Tables(vec![0; Rsdp::len()]);
    let dsdt = tables.add(&dsdt::build(virtio));
    let facs = tables.add(&bytes(&FACS::new()));
    let fadt = tables.add(&bytes(&fadt(dsdt, facs)));
    let madt = tables.add(madt(vcpus).as_slice());
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = tables.add(&bytes(&xsdt));
    let mut all = tables.0;
    all[..Rsdp::len()].copy_from_slice(&bytes(&Rsdp::new(OEM_ID, xsdt)));
    all
}

/// Tables that lie one behind the other.
struct Tables(Vec<u8>);

impl Tables {
    /// Adds one; its address.
    fn add(&mut self, table: &[u8]) -> u64 {
        self.0.resize(self.0.len().next_multiple_of(ALIGNMENT), 0);
        let address = layout::ACPI_TABLES + self.0.len() as u64;
        self.0.extend_from_slice(table);
        address
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// The fixed hardware (5.2.9): PM1a events and control, the reset register. ACPI is always on: there is no command
/// port, whose other side would be a BIOS.
fn fadt(dsdt: u64, facs: u64) -> acpi_tables::fadt::FADT {
    let ports =
        |address: u16, bits: u8| GAS::new(AddressSpace::SystemIo, bits, 0, AccessSize::Undefined, address.into());
    let mut table = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .firmware_ctrl_32(facs as u32)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        // No sleep button, and no alarm in fixed hardware; that the power button has no flag says that it has.
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup);
    table.dsdt = (dsdt as u32).into();
    table.sci_int = (layout::SCI_IRQ as u16).into();
    table.pm1a_evt_blk = u32::from(power::EVENT_PORT).into();
    table.pm1_evt_len = 4;
    table.x_pm1a_evt_blk = ports(power::EVENT_PORT, 32);
    table.pm1a_cnt_blk = u32::from(POWER_PORT).into();
    table.pm1_cnt_len = 2;
    table.x_pm1a_cnt_blk = ports(POWER_PORT, 16);
    table.p_lvl2_lat = NO_SUCH_STATE.into();
    table.p_lvl3_lat = NO_SUCH_STATE.into();
    table.iapc_boot_arch = BOOT_ARCHITECTURE.into();
    table.reset_reg = ports(port::RESET, 8);
    table.reset_value = port::RESET_NOW;
    table.finalize()
}

/// Processors and interrupts (5.2.12). Interrupts of the ISA bus are at the IOAPIC's pins of the same numbers, as KVM
/// routes them; only ACPI's own is at a level.
fn madt(vcpus: u8) -> Sdt {
    let mut table = Sdt::new(*b"APIC", MADT_BYTES, 5, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.write_u32(36, layout::LOCAL_APIC);
    table.write_u32(40, PCAT_COMPAT);
    let mut structures = Vec::new();
    for id in 0..vcpus {
        structures.extend_from_slice(&[structure::LOCAL_APIC, 8, id, id, 1, 0, 0, 0]);
    }
    structures.extend_from_slice(&[structure::IOAPIC, 12, 0, 0]);
    structures.extend_from_slice(&layout::IOAPIC.to_le_bytes());
    structures.extend_from_slice(&0u32.to_le_bytes());
    structures.extend_from_slice(&[structure::OVERRIDE, 10, 0, layout::SCI_IRQ as u8]);
    structures.extend_from_slice(&layout::SCI_IRQ.to_le_bytes());
    structures.extend_from_slice(&HIGH_LEVEL.to_le_bytes());
    structures.extend_from_slice(&[structure::LOCAL_NMI, 6, ALL_PROCESSORS, 0, 0, 1]);
    table.append_slice(&structures);
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(bytes: &[u8]) -> u64 {
        bytes.iter().rev().fold(0, |value, byte| (value << 8) | u64::from(*byte))
    }

    /// The table at `address`, whose sum is zero.
    fn table(all: &[u8], address: u64, signature: &[u8; 4]) -> Vec<u8> {
        let table = &all[(address - layout::ACPI_TABLES) as usize..];
        let table = &table[..number(&table[4..8]) as usize];
        assert_eq!(&table[..4], signature);
        if signature != b"FACS" {
            assert_eq!(table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        }
        table.to_vec()
    }

    proptest! {
        #[test]
        fn the_tables_lead_to_each_other(vcpus in 1u8..=254, virtio in 0usize..=layout::VIRTIO_MAX) {
            let all = build(vcpus, virtio);
            prop_assert!(all.len() as u64 <= layout::ACPI_BYTES);
            prop_assert_eq!(&all[..8], b"RSD PTR ");
            let xsdt = table(&all, number(&all[24..32]), b"XSDT");
            let fadt = table(&all, number(&xsdt[36..44]), b"FACP");
            let madt = table(&all, number(&xsdt[44..52]), b"APIC");
            prop_assert_eq!(xsdt.len(), 52);
            let dsdt = table(&all, number(&fadt[140..148]), b"DSDT");
            prop_assert_eq!(dsdt, dsdt::build(virtio));
            let facs = number(&fadt[36..40]);
            prop_assert_eq!(facs % 64, 0);
            table(&all, facs, b"FACS");
            prop_assert_eq!(madt.len(), 44 + usize::from(vcpus) * 8 + 12 + 10 + 6);
        }
    }

    #[test]
    fn the_fixed_hardware_is_where_the_bus_has_it() {
        let fadt = bytes(&fadt(0xe_1000, 0xe_2000));
        assert_eq!(number(&fadt[46..48]), 9, "SCI_INT");
        assert_eq!(number(&fadt[48..52]), 0, "SMI_CMD");
        assert_eq!(number(&fadt[56..60]), 0x600, "PM1a_EVT_BLK");
        assert_eq!(number(&fadt[64..68]), 0x604, "PM1a_CNT_BLK");
        assert_eq!((fadt[88], fadt[89]), (4, 2), "their lengths");
        assert_eq!(fadt[116..129], [1, 8, 0, 0, 0xf9, 0x0c, 0, 0, 0, 0, 0, 0, 6], "RESET_REG, RESET_VALUE");
        assert_eq!(number(&fadt[109..111]) & 2, 0, "no 8042");
        assert_eq!(number(&fadt[112..116]) & (1 << 4), 0, "a power button in fixed hardware");
    }
}
