//! What a kernel finds that is entered by its PVH note (Xen `public/arch-x86/hvm/start_info.h`).

use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams, Result};
use linux_loader::loader::elf::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::{Area, Initrd};
use crate::layout;

/// Version 1 has the memory map.
const VERSION: u32 = 1;

/// Writes start info, memory map and module list. `rsdp` is where ACPI's tables begin, or 0.
///
/// # Errors
/// There is no memory where they belong.
pub fn write(memory: &GuestMemoryMmap, areas: &[Area], initrd: Option<Initrd>, rsdp: u64) -> Result<()> {
    let map: Vec<_> = areas
        .iter()
        .map(|area| hvm_memmap_table_entry {
            addr: area.address,
            size: area.bytes,
            type_: area.kind as u32,
            reserved: 0,
        })
        .collect();
    let modules: Vec<_> = initrd
        .iter()
        .map(|initrd| hvm_modlist_entry { paddr: initrd.address, size: initrd.size, ..Default::default() })
        .collect();
    let start_info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: VERSION,
        nr_modules: modules.len() as u32,
        modlist_paddr: layout::PVH_MODULES,
        cmdline_paddr: layout::CMDLINE,
        rsdp_paddr: rsdp,
        memmap_paddr: layout::PVH_MEMORY_MAP,
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    let mut params = BootParams::new(&start_info, GuestAddress(layout::PVH_START_INFO));
    params.set_sections(&map, GuestAddress(layout::PVH_MEMORY_MAP));
    params.set_modules(&modules, GuestAddress(layout::PVH_MODULES));
    PvhBootConfigurator::write_bootparams(&params, memory)
}
