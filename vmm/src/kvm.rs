//! The virtual machine as the host's KVM keeps it (Linux `Documentation/virt/kvm/api.rst`).

use kvm_bindings::{
    CpuId, KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VcpuFd, VmFd};
use std::io;
use std::sync::Arc;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::acpi::power::Line;
use crate::error::{Error, Result};
use crate::layout;
use crate::virtio::registers::offset;
use crate::virtio::transport::Transport;

/// What the VMM rests on, and what to call it when it is not there.
const NEEDED: [(Cap, &str); 9] = [
    (Cap::Irqchip, "an interrupt controller (KVM_CAP_IRQCHIP)"),
    (Cap::Pit2, "a timer (KVM_CAP_PIT2)"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::SetIdentityMapAddr, "KVM_CAP_SET_IDENTITY_MAP_ADDR"),
    (Cap::UserMemory, "guest memory (KVM_CAP_USER_MEMORY)"),
    (Cap::ExtCpuid, "CPUID of its own (KVM_CAP_EXT_CPUID)"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// A virtual machine with its interrupt controllers, timer and memory, before its vCPUs run.
#[derive(Debug)]
pub struct Machine {
    kvm: Kvm,
    vm: Arc<VmFd>,
}

/// An interrupt line at a level.
struct LevelLine {
    vm: Arc<VmFd>,
    irq: u32,
}

impl Line for LevelLine {
    fn set(&self, high: bool) {
        // It fails only without an interrupt controller, which every machine has.
        let _ = self.vm.set_irq_line(self.irq, high);
    }
}

impl Machine {
    /// Opens `/dev/kvm` and makes a virtual machine on `memory`.
    ///
    /// # Errors
    /// KVM is missing, too old, or refuses.
    pub fn new(memory: &GuestMemoryMmap, vcpus: u8) -> Result<Self> {
        let kvm = Kvm::new().map_err(|error| Error::KvmMissing(io::Error::from_raw_os_error(error.errno())))?;
        if kvm.get_api_version() != KVM_API_VERSION as i32 {
            return Err(Error::KvmLacks("API version 12"));
        }
        if let Some((_, name)) = NEEDED.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
            return Err(Error::KvmLacks(name));
        }
        let most = kvm.get_max_vcpus();
        if vcpus == 0 || vcpus > super::vcpu::MAX || usize::from(vcpus) > most {
            let most = most.min(super::vcpu::MAX.into());
            return Err(Error::Config(format!("a guest cannot have {vcpus} vCPUs: give it 1 to {most}")));
        }
        let vm = Arc::new(kvm.create_vm().map_err(Error::kvm("make a virtual machine"))?);
        let machine = Self { kvm, vm };
        machine.add_controllers()?;
        machine.add_memory(memory)?;
        Ok(machine)
    }

    fn add_controllers(&self) -> Result<()> {
        self.vm
            .set_identity_map_address(layout::KVM_IDENTITY_MAP)
            .map_err(Error::kvm("set the address of its identity map"))?;
        self.vm.set_tss_address(layout::KVM_TSS).map_err(Error::kvm("set the address of its TSS"))?;
        self.vm.create_irq_chip().map_err(Error::kvm("make an interrupt controller"))?;
        let timer = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        self.vm.create_pit2(timer).map_err(Error::kvm("make a timer"))
    }

    fn add_memory(&self, memory: &GuestMemoryMmap) -> Result<()> {
        for (slot, region) in memory.iter().enumerate() {
            let host = memory.get_host_address(region.start_addr()).map_err(Error::memory("find"))?;
            let region = kvm_userspace_memory_region {
                slot: slot as u32,
                flags: 0,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: host as u64,
            };
            // SAFETY: the region is mapped for its whole length and stays so while the virtual machine exists: both
            // belong to the guest's run, which drops the machine first. Slots do not overlap, as regions do not.
            unsafe { self.vm.set_user_memory_region(region) }.map_err(Error::kvm("use the guest's memory"))?;
        }
        Ok(())
    }

    /// Makes vCPU `index`.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn add_vcpu(&self, index: u8) -> Result<VcpuFd> {
        self.vm.create_vcpu(index.into()).map_err(Error::kvm("make a vCPU"))
    }

    /// The CPUID that the host can give its guests.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn cpuid(&self) -> Result<CpuId> {
        self.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(Error::kvm("tell its CPUID"))
    }

    /// Whether local APIC timers can be set in ticks of the time stamp counter.
    pub fn has_tsc_deadline(&self) -> bool {
        self.kvm.check_extension(Cap::TscDeadlineTimer)
    }

    /// Connects an interrupt line to an event.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn connect_irq(&self, event: &vmm_sys_util::eventfd::EventFd, irq: u32) -> Result<()> {
        self.vm.register_irqfd(event, irq).map_err(Error::kvm("connect an interrupt"))
    }

    /// ACPI's interrupt.
    pub fn sci(&self) -> Box<dyn Line> {
        Box::new(LevelLine { vm: self.vm.clone(), irq: layout::SCI_IRQ })
    }

    /// Connects a device's interrupt and notifications, so that neither takes a way through a vCPU's thread.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn connect(&self, device: &Transport, base: u64, irq: u32) -> Result<()> {
        self.connect_irq(device.interrupt().line(), irq)?;
        let notify = IoEventAddress::Mmio(base + offset::QUEUE_NOTIFY);
        for (queue, kick) in device.kicks().iter().enumerate() {
            self.vm
                .register_ioevent(kick, &notify, queue as u32)
                .map_err(Error::kvm("connect a device's notifications"))?;
        }
        Ok(())
    }
}
