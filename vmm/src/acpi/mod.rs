//! What a kernel with ACPI finds (ACPI 6.5; the sections below are that document's).
//!
//! | file | what |
//! | --- | --- |
//! | [`tables`] | the static tables: where the rest is, processors and interrupts, fixed hardware |
//! | [`dsdt`] | the devices and the sleep state, in AML |
//! | [`power`] | the fixed hardware: power button and power-off |

pub mod dsdt;
pub mod power;
pub mod tables;

/// Who made the tables.
const OEM_ID: [u8; 6] = *b"THIMBL";
/// Which tables these are.
const OEM_TABLE_ID: [u8; 8] = *b"THIMBLE ";
/// Their revision.
const OEM_REVISION: u32 = 1;
