//! A vCPU's registers at a kernel's entry.

use kvm_bindings::{Msrs, kvm_msr_entry, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;

use crate::error::{Error, Result};
use crate::layout;

/// How the boot processor enters the kernel. The others wait in their reset state for the kernel's start-up signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// 32-bit protected mode, no paging, EBX points at the start info (Xen `docs/misc/pvh.pandoc`).
    Pvh {
        /// The address in the kernel's `XEN_ELFNOTE_PHYS32_ENTRY`.
        at: u64,
    },
    /// 64-bit mode, identity mapped, RSI points at the boot parameters (Linux `Documentation/arch/x86/boot.rst`,
    /// "64-bit Boot Protocol").
    Linux64 {
        /// 0x200 behind the loaded protected-mode kernel.
        at: u64,
    },
}

/// Protected mode (CR0).
const CR0_PE: u64 = 1;
/// Extension type: always one.
const CR0_ET: u64 = 1 << 4;
/// Paging.
const CR0_PG: u64 = 1 << 31;
/// Physical address extension (CR4).
const CR4_PAE: u64 = 1 << 5;
/// Long mode enabled, and active.
const EFER_LME_LMA: u64 = (1 << 8) | (1 << 10);
/// The flag that is always one (RFLAGS).
const RFLAGS_FIXED: u64 = 1 << 1;
/// `IA32_MISC_ENABLE`: fast string operations.
const MSR_MISC_ENABLE: (u32, u64) = (0x1a0, 1);
/// `IA32_MTRR_DEF_TYPE`: enabled, write-back. A kernel that finds them off does without the page attribute table.
const MSR_MTRR_DEF_TYPE: (u32, u64) = (0x2ff, (1 << 11) | 6);

/// `__BOOT_CS` (Linux arch/x86/include/asm/segment.h).
const BOOT_CS: u16 = 0x10;
/// `__BOOT_DS`.
const BOOT_DS: u16 = 0x18;
/// Descriptors for the selectors above: flat, code 64-bit, data writable; in front of them two empty ones.
pub const GDT: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

fn flat(selector: u16, kind: u8, long: bool) -> kvm_segment {
    kvm_segment {
        limit: u32::MAX,
        selector,
        type_: kind,
        present: 1,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        ..Default::default()
    }
}

/// Sets what every vCPU has when it starts.
///
/// # Errors
/// KVM refuses.
pub fn set_common(vcpu: &VcpuFd) -> Result<()> {
    let entries = [MSR_MISC_ENABLE, MSR_MTRR_DEF_TYPE].map(|(index, data)| kvm_msr_entry { index, data, reserved: 0 });
    let Ok(msrs) = Msrs::from_entries(&entries) else { return Ok(()) };
    // KVM stops at the first that the processor does not have, and such a processor's kernels do not ask for it.
    vcpu.set_msrs(&msrs).map_err(Error::kvm("set a vCPU's model-specific registers"))?;
    Ok(())
}

/// Puts the boot processor at the kernel's entry.
///
/// # Errors
/// KVM refuses.
pub fn set_entry(vcpu: &VcpuFd, entry: Entry) -> Result<()> {
    let mut special = vcpu.get_sregs().map_err(Error::kvm("read a vCPU's special registers"))?;
    let mut regs = kvm_regs { rflags: RFLAGS_FIXED, ..Default::default() };
    let long = matches!(entry, Entry::Linux64 { .. });
    // Types: code, executed and read; data, read and written; both accessed (Intel SDM volume 3, 3.4.5.1).
    special.cs = flat(BOOT_CS, 0xb, long);
    let data = flat(BOOT_DS, 0x3, false);
    (special.ds, special.es, special.fs, special.gs, special.ss) = (data, data, data, data, data);
    // A busy 32-bit or 64-bit task state segment, of the least size.
    special.tr = kvm_segment { limit: 0x67, type_: 0xb, present: 1, ..Default::default() };
    special.cr0 = CR0_PE | CR0_ET;
    match entry {
        Entry::Pvh { at } => {
            regs.rip = at;
            regs.rbx = layout::PVH_START_INFO;
        }
        Entry::Linux64 { at } => {
            regs.rip = at;
            regs.rsi = layout::BOOT_PARAMS;
            special.gdt.base = layout::GDT;
            special.gdt.limit = (size_of_val(&GDT) - 1) as u16;
            special.cr0 |= CR0_PG;
            special.cr3 = layout::PAGE_TABLES;
            special.cr4 = CR4_PAE;
            special.efer = EFER_LME_LMA;
        }
    }
    vcpu.set_sregs(&special).map_err(Error::kvm("set a vCPU's special registers"))?;
    vcpu.set_regs(&regs).map_err(Error::kvm("set a vCPU's registers"))
}
