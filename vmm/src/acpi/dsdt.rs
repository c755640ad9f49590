//! The table of what is there beside the fixed hardware: serial ports, virtio devices, and how to sleep for ever.

use acpi_tables::Aml;
use acpi_tables::aml::{Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, Path, ResourceTemplate, Scope};
use acpi_tables::sdt::Sdt;

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, power};
use crate::bus::port;
use crate::layout;

/// Revision from which on integers have 64 bits (5.2.11.1).
const REVISION: u8 = 2;
/// Bytes of a table's header (5.2.6).
const HEADER_BYTES: u32 = 36;

/// The table, for `virtio` devices.
pub fn build(virtio: usize) -> Vec<u8> {
    let mut aml = Vec::new();
    // The sleep types of PM1a and PM1b, of which there is none (7.4.2).
    let off = (power::SLEEP_TYPE_OFF, 0u8);
    Name::new(Path::new("_S5_"), &Package::new(vec![&off.0, &off.1])).to_aml_bytes(&mut aml);
    let mut devices = Vec::new();
    serial_port(0, port::COM1, layout::CONSOLE_IRQ).to_aml_bytes(&mut devices);
    serial_port(1, port::COM2, layout::AGENT_IRQ).to_aml_bytes(&mut devices);
    (0..virtio).for_each(|index| virtio_device(index, &mut devices));
    Scope::new(Path::new("_SB_"), vec![&Raw(devices)]).to_aml_bytes(&mut aml);
    let mut table = Sdt::new(*b"DSDT", HEADER_BYTES, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.append_slice(&aml);
    table.as_slice().to_vec()
}

/// AML that is written already.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

/// A 16550A (its identifier is Microsoft's, as all that begin with PNP).
fn serial_port(index: u8, base: u16, irq: u32) -> Raw {
    let registers = IO::new(base, base, 1, port::SERIAL_REGISTERS as u8);
    let interrupt = Interrupt::new(true, true, false, false, irq);
    let resources = ResourceTemplate::new(vec![&registers, &interrupt]);
    let mut aml = Vec::new();
    Device::new(
        Path::new(&format!("COM{}", index + 1)),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0501")),
            &Name::new(Path::new("_UID"), &index),
            &Name::new(Path::new("_CRS"), &resources),
        ],
    )
    .to_aml_bytes(&mut aml);
    Raw(aml)
}

/// A virtio device behind registers in memory (Linux `drivers/virtio/virtio_mmio.c`). Its interrupt is at the edge, and
/// may be another's too: each driver looks whether it was its device.
fn virtio_device(index: usize, sink: &mut Vec<u8>) {
    let base = layout::VIRTIO_BASE + index as u64 * layout::VIRTIO_SIZE;
    let registers = Memory32Fixed::new(true, base as u32, layout::VIRTIO_SIZE as u32);
    let interrupt = Interrupt::new(true, true, false, true, layout::virtio_irq(index));
    let resources = ResourceTemplate::new(vec![&registers, &interrupt]);
    Device::new(
        Path::new(&format!("V{index:03}")),
        vec![
            &Name::new(Path::new("_HID"), &"LNRO0005"),
            &Name::new(Path::new("_UID"), &(index as u32)),
            &Name::new(Path::new("_CRS"), &resources),
        ],
    )
    .to_aml_bytes(sink);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(table: &[u8], what: &[u8]) -> usize {
        table.windows(what.len()).filter(|window| *window == what).count()
    }

    #[test]
    fn every_device_is_there_once() {
        for virtio in [0, 1, layout::VIRTIO_MAX] {
            let table = build(virtio);
            assert_eq!(table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
            assert_eq!(u32::from_le_bytes([table[4], table[5], table[6], table[7]]) as usize, table.len());
            assert_eq!(count(&table, b"LNRO0005\0"), virtio);
            assert_eq!(count(&table, &EISA_SERIAL), 2);
            // Name (_S5_, Package (2) { 5, 0 })
            assert_eq!(count(&table, b"\x08_S5_\x12\x05\x02\x0a\x05\x00"), 1);
        }
    }

    /// `PNP0501` in compressed form.
    const EISA_SERIAL: [u8; 4] = [0x41, 0xd0, 0x05, 0x01];

    #[test]
    fn a_device_says_where_it_is() {
        let table = build(2);
        // Memory32Fixed (ReadWrite, 0xd0001000, 0x1000); Interrupt (ResourceConsumer, Edge, ActiveHigh, Shared) {6}
        let resources = b"\x86\x09\x00\x01\x00\x10\x00\xd0\x00\x10\x00\x00\x89\x06\x00\x0b\x01\x06\x00\x00\x00\x79\x00";
        assert_eq!(count(&table, resources), 1);
    }
}
