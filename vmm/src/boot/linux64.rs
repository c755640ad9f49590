//! What a kernel finds that is entered at its 64-bit entry (Linux `Documentation/arch/x86/boot.rst`).

use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{Area, Initrd};
use crate::layout;
use crate::vcpu::registers::GDT;

/// `type_of_loader`: one without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;
/// A page table's entry: present and writable (Intel SDM volume 3, 4.5).
const PRESENT_WRITABLE: u64 = 3;
/// The entry maps a large page.
const LARGE: u64 = 1 << 7;
/// Bytes of a large page.
const LARGE_PAGE: u64 = 2 << 20;
/// Bytes that a page directory maps.
const GIB: u64 = 1 << 30;
/// Page directories: 4 GiB are mapped.
const DIRECTORIES: u64 = 4;
/// Entries of a table.
const ENTRIES: u64 = 512;

/// Writes boot parameters, page tables and descriptors. `rsdp` is where ACPI's tables begin, or 0.
///
/// # Errors
/// There is no memory where they belong.
pub fn write(
    memory: &GuestMemoryMmap,
    areas: &[Area],
    initrd: Option<Initrd>,
    rsdp: u64,
    header: &setup_header,
    cmdline_bytes: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut params =
        boot_params { hdr: *header, e820_entries: areas.len() as u8, acpi_rsdp_addr: rsdp, ..Default::default() };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.cmd_line_ptr = layout::CMDLINE as u32;
    params.hdr.cmdline_size = cmdline_bytes as u32;
    if let Some(initrd) = initrd {
        // Below 2 GiB, so that 32 bits hold both.
        params.hdr.ramdisk_image = initrd.address as u32;
        params.hdr.ramdisk_size = initrd.size as u32;
    }
    for (entry, area) in params.e820_table.iter_mut().zip(areas) {
        *entry = boot_e820_entry { addr: area.address, size: area.bytes, r#type: area.kind as u32 };
    }
    let params = BootParams::new(&params, GuestAddress(layout::BOOT_PARAMS));
    LinuxBootConfigurator::write_bootparams(&params, memory)?;
    for (index, descriptor) in GDT.iter().enumerate() {
        memory.write_obj(*descriptor, GuestAddress(layout::GDT + index as u64 * 8))?;
    }
    write_page_tables(memory)
}

/// Maps the first 4 GiB to themselves, in pages of 2 MiB.
fn write_page_tables(memory: &GuestMemoryMmap) -> Result<(), Box<dyn std::error::Error>> {
    let table = |index: u64| layout::PAGE_TABLES + index * super::PAGE;
    memory.write_obj(table(1) | PRESENT_WRITABLE, GuestAddress(table(0)))?;
    for directory in 0..DIRECTORIES {
        memory.write_obj(table(2 + directory) | PRESENT_WRITABLE, GuestAddress(table(1) + directory * 8))?;
        for entry in 0..ENTRIES {
            let page = directory * GIB + entry * LARGE_PAGE;
            memory.write_obj(page | PRESENT_WRITABLE | LARGE, GuestAddress(table(2 + directory) + entry * 8))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_map_to_themselves() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        write_page_tables(&memory).unwrap();
        let read = |at: u64| memory.read_obj::<u64>(GuestAddress(at)).unwrap();
        for address in [0u64, 0x1234_5678, 0xd000_0000, 0xffff_ffff] {
            let pointers = read(layout::PAGE_TABLES) & !0xfff;
            let directory = read(pointers + (address >> 30) * 8) & !0xfff;
            let page = read(directory + ((address >> 21) & 511) * 8);
            assert_eq!((page & !0x1f_ffff) | (address & 0x1f_ffff), address);
            assert_eq!(page & 0x83, 0x83);
        }
        const { assert!(layout::PAGE_TABLES + 6 * 4096 <= layout::CMDLINE) };
    }
}
