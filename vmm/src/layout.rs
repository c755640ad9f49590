//! Guest physical addresses that the VMM chooses, and those that the PC fixes.
//!
//! ```text
//! 0x0000_0500  GDT (bzImage only)          0x000e_0000  ACPI tables, or
//! 0x0000_6000  hvm_start_info, modules     0x000f_0000  MP table (where a BIOS would be)
//! 0x0000_7000  boot_params or memory map   0x0010_0000  RAM: kernel; initrd at the top, below 2 GiB
//! 0x0000_9000  page tables (bzImage only)  0xc000_0000  end of RAM below 4 GiB
//! 0x0002_0000  kernel command line         0xd000_0000  virtio devices, a page each
//! 0x0009_fc00  end of conventional memory  0xfec0_0000  IOAPIC, local APIC, TSS: KVM's
//!                                          1_0000_0000  RAM beyond 3 GiB
//! ```

/// Global descriptor table for the 64-bit entry.
pub const GDT: u64 = 0x500;
/// PVH `hvm_start_info` (Xen `public/arch-x86/hvm/start_info.h`).
pub const PVH_START_INFO: u64 = 0x6000;
/// PVH module list: behind the start info.
pub const PVH_MODULES: u64 = 0x6040;
/// PVH memory map.
pub const PVH_MEMORY_MAP: u64 = 0x7000;
/// `boot_params`, also called the zero page (Linux `Documentation/arch/x86/zero-page.rst`).
pub const BOOT_PARAMS: u64 = 0x7000;
/// Page map level 4; the page directory pointers and four page directories follow, a page each.
pub const PAGE_TABLES: u64 = 0x9000;
/// Kernel command line, zero-terminated.
pub const CMDLINE: u64 = 0x2_0000;
/// Where conventional memory ends and the extended BIOS data area would begin.
pub const CONVENTIONAL_END: u64 = 0x9_fc00;
/// ACPI's tables; the first of them is the RSDP, where a kernel that is not told would search too (ACPI 6.5, 5.2.5.1).
pub const ACPI_TABLES: u64 = 0xe_0000;
/// Bytes kept for them.
pub const ACPI_BYTES: u64 = 0x1_0000;
/// MP floating pointer and table: the BIOS area that an operating system searches (Intel MultiProcessor
/// Specification 1.4, section 4).
pub const MP_TABLE: u64 = 0xf_0000;
/// RAM above the first megabyte.
pub const HIGH_RAM: u64 = 0x10_0000;
/// An initrd ends below this: what every kernel's `initrd_addr_max` allows (Linux boot protocol, 2.03).
pub const INITRD_LIMIT: u64 = 0x8000_0000;
/// Below 4 GiB, RAM ends here at the latest.
pub const LOW_RAM_END: u64 = 0xc000_0000;
/// RAM that does not fit below [`LOW_RAM_END`] goes on here.
pub const FOUR_GIB: u64 = 0x1_0000_0000;

/// First virtio device.
pub const VIRTIO_BASE: u64 = 0xd000_0000;
/// Bytes of a virtio device's registers and configuration space.
pub const VIRTIO_SIZE: u64 = 0x1000;

/// The IOAPIC (Intel MultiProcessor Specification 1.4, section 3.6.5).
pub const IOAPIC: u32 = 0xfec0_0000;
/// The local APICs.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// A page for `KVM_SET_IDENTITY_MAP_ADDR`.
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages for `KVM_SET_TSS_ADDR`, which must not overlap the one above.
pub const KVM_TSS: usize = 0xfffb_d000;

/// Interrupt of the console, ttyS0 (PC/AT).
pub const CONSOLE_IRQ: u32 = 4;
/// Interrupt of the agent's channel, ttyS1 (PC/AT).
pub const AGENT_IRQ: u32 = 3;
/// ACPI's interrupt (PC/AT): the only one at a level, and nobody else's.
pub const SCI_IRQ: u32 = 9;
/// Interrupts for virtio devices. 0 is the timer, 2 the cascade, 3 and 4 the serial ports, 8 the clock, 9 ACPI; 23 is
/// the IOAPIC's last pin.
pub const VIRTIO_IRQS: [u32; 17] = [5, 6, 7, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23];
/// Most virtio devices of a guest.
pub const VIRTIO_MAX: usize = 40;
/// Pins of KVM's IOAPIC (`KVM_IOAPIC_NUM_PINS`).
pub const IOAPIC_PINS: u8 = 24;

/// The interrupt of virtio device `index`. When all lines are taken, devices share them: they interrupt at the edge, and
/// a driver that is called looks in its device's `InterruptStatus` whether it is meant.
pub fn virtio_irq(index: usize) -> u32 {
    VIRTIO_IRQS[index % VIRTIO_IRQS.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_share_their_own_lines_only() {
        let irqs: Vec<u32> = (0..VIRTIO_MAX).map(virtio_irq).collect();
        for taken in [0, 2, CONSOLE_IRQ, AGENT_IRQ, 8, SCI_IRQ] {
            assert!(!irqs.contains(&taken));
        }
        assert!(irqs.iter().all(|irq| *irq < IOAPIC_PINS.into()));
        assert_eq!(irqs[0], irqs[VIRTIO_IRQS.len()]);
        const { assert!(VIRTIO_BASE + VIRTIO_MAX as u64 * VIRTIO_SIZE <= IOAPIC as u64) };
        const { assert!(ACPI_TABLES + ACPI_BYTES <= MP_TABLE) };
    }
}
