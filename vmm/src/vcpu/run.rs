//! One vCPU's loop: enter the guest, serve what it leaves for, enter again.

use kvm_ioctls::{VcpuExit, VcpuFd};
use thimble_spec::vmm::ExitReason;

use crate::bus::Bus;

/// What an exit from the guest leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// The guest goes on.
    Continue,
    /// Somebody kicked the vCPU, or a signal came: look at what is wanted.
    Kicked,
    /// The guest is at its end.
    End(ExitReason),
}

/// `KVM_SYSTEM_EVENT_SHUTDOWN` (linux/kvm.h).
const SYSTEM_EVENT_SHUTDOWN: u32 = 1;
/// `KVM_SYSTEM_EVENT_RESET` (linux/kvm.h).
const SYSTEM_EVENT_RESET: u32 = 2;

/// Runs the vCPU until it leaves the guest, and serves that one exit.
pub fn step(vcpu: &mut VcpuFd, bus: &Bus) -> Step {
    match vcpu.run() {
        Ok(VcpuExit::IoIn(port, data)) => bus.port_read(port, data),
        Ok(VcpuExit::IoOut(port, data)) => {
            if let Some(reason) = bus.port_write(port, data) {
                return Step::End(reason);
            }
        }
        Ok(VcpuExit::MmioRead(address, data)) => bus.memory_read(address, data),
        Ok(VcpuExit::MmioWrite(address, data)) => bus.memory_write(address, data),
        Ok(VcpuExit::Shutdown) => return Step::End(ExitReason::TripleFault),
        Ok(VcpuExit::SystemEvent(SYSTEM_EVENT_SHUTDOWN, _)) => return Step::End(ExitReason::PowerOff),
        Ok(VcpuExit::SystemEvent(SYSTEM_EVENT_RESET, _)) => return Step::End(ExitReason::Reboot),
        Ok(VcpuExit::Intr) => return Step::Kicked,
        Ok(VcpuExit::FailEntry(reason, _)) => {
            return error(format!("the processor refused to enter the guest (hardware reason {reason:#x})"));
        }
        Ok(VcpuExit::InternalError) => {
            return error("KVM met an instruction of the guest that it cannot carry out".to_owned());
        }
        Ok(exit) => return error(format!("the guest left for a reason that the VMM does not serve: {exit:?}")),
        Err(failure) if matches!(failure.errno(), libc::EINTR | libc::EAGAIN) => return Step::Kicked,
        Err(failure) => return error(format!("KVM cannot run a vCPU: {failure}")),
    }
    Step::Continue
}

fn error(sentence: String) -> Step {
    Step::End(ExitReason::Error(sentence))
}
