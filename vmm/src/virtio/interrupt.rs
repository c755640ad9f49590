//! A device's interrupt: its status register and its line.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use vmm_sys_util::eventfd::EventFd;

/// `InterruptStatus`: a buffer was used (virtio 1.2, section 4.2.2).
pub const USED_BUFFER: u32 = 1;
/// `InterruptStatus`: the configuration, or the status, changed (section 4.2.2).
pub const CONFIG_CHANGED: u32 = 2;

/// Shared by the device's thread, which raises it, and the vCPUs, which read and acknowledge it. No lock: a vCPU in its
/// interrupt handler never waits for the device's thread.
#[derive(Debug)]
pub struct Interrupt {
    status: AtomicU32,
    raised_elsewhere: AtomicBool,
    line: EventFd,
}

impl Interrupt {
    /// An interrupt that pulses `line`, which KVM watches as an irqfd.
    pub fn new(line: EventFd) -> Self {
        Self { status: AtomicU32::new(0), raised_elsewhere: AtomicBool::new(false), line }
    }

    /// The event behind the line.
    pub fn line(&self) -> &EventFd {
        &self.line
    }

    /// The device used a buffer.
    pub fn used_buffer(&self) {
        self.raise(USED_BUFFER);
    }

    /// The device changed its configuration or needs a reset.
    pub fn config_changed(&self) {
        self.raise(CONFIG_CHANGED);
    }

    /// From now until the reset the line is pulsed by somebody who does not know this register (vhost, by its call
    /// event): it always says that a buffer was used. A driver that looks and finds none has lost nothing.
    pub fn raised_elsewhere(&self) {
        self.raised_elsewhere.store(true, Ordering::SeqCst);
    }

    fn raise(&self, cause: u32) {
        self.status.fetch_or(cause, Ordering::SeqCst);
        // The status comes first: the driver reads it when the interrupt arrives. A counter that cannot take one more
        // is one that KVM has yet to see, so that nothing is lost.
        let _ = self.line.write(1);
    }

    /// The register as the driver reads it.
    pub fn status(&self) -> u32 {
        let elsewhere = if self.raised_elsewhere.load(Ordering::SeqCst) { USED_BUFFER } else { 0 };
        self.status.load(Ordering::SeqCst) | elsewhere
    }

    /// The driver has handled `causes`.
    pub fn acknowledge(&self, causes: u32) {
        self.status.fetch_and(!causes, Ordering::SeqCst);
    }

    /// The device was reset: nothing is pending.
    pub fn reset(&self) {
        self.status.store(0, Ordering::SeqCst);
        self.raised_elsewhere.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_others_pulse_always_means_a_used_buffer_until_the_reset() {
        let interrupt = Interrupt::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
        interrupt.raised_elsewhere();
        interrupt.acknowledge(USED_BUFFER);
        assert_eq!(interrupt.status(), USED_BUFFER);
        interrupt.config_changed();
        assert_eq!(interrupt.status(), USED_BUFFER | CONFIG_CHANGED);
        interrupt.acknowledge(USED_BUFFER | CONFIG_CHANGED);
        assert_eq!(interrupt.status(), USED_BUFFER);
        interrupt.reset();
        assert_eq!(interrupt.status(), 0);
    }
}
