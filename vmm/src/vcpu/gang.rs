//! The vCPUs' threads, held, let go and ended together.
//!
//! A vCPU in the guest hears nothing; it is kicked out by a signal. The flag `immediate_exit`, which KVM looks at
//! before it enters, closes the gap between the last look at what is wanted and the entry (Linux
//! `Documentation/virt/kvm/api.rst`, section 5).

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use kvm_ioctls::VcpuFd;
use thimble_spec::vmm::ExitReason;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use super::affinity;
use super::run::{Step, step};
use crate::bus::Bus;
use crate::error::{Error, Result};
use crate::exit::Ending;
use crate::jail::seccomp::{Duty, Filters};
use crate::phases::{self, Phase};
use crate::sync::{STACK_BYTES, lock};

/// What the vCPUs are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Run,
    Hold,
    End,
}

/// The order that holds, and a bell for those who wait for the next.
#[derive(Debug)]
struct Parade {
    order: Mutex<Order>,
    changed: Condvar,
}

/// A vCPU's `immediate_exit`, in the page that it shares with KVM.
#[derive(Clone, Copy)]
struct KickFlag(*const AtomicU8);

// SAFETY: the flag is an atomic byte; the page behind it is shared with the kernel anyway.
unsafe impl Send for KickFlag {}

impl KickFlag {
    fn of(vcpu: &mut VcpuFd) -> Self {
        Self((&raw mut vcpu.get_kvm_run().immediate_exit).cast())
    }

    /// # Safety
    /// The vCPU exists still.
    unsafe fn set(self, value: u8) {
        // SAFETY: the page is mapped as long as the vCPU exists; a byte has no alignment.
        unsafe { (*self.0).store(value, Ordering::SeqCst) };
    }
}

/// A vCPU's thread, and what others do to it and want to know of it.
struct Member {
    thread: JoinHandle<VcpuFd>,
    flag: KickFlag,
    exits: Arc<AtomicU64>,
}

/// All vCPUs of the guest.
pub struct Gang {
    parade: Arc<Parade>,
    members: Vec<Member>,
}

extern "C" fn ignore(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

impl Gang {
    /// Starts a thread for each vCPU, on the host's processors that `pins` gives for its index. The first of them to
    /// meet the guest's end tells `ending`.
    ///
    /// # Errors
    /// The host gives no threads.
    pub fn start(
        vcpus: Vec<VcpuFd>,
        pins: &[Vec<u16>],
        bus: &Arc<Bus>,
        ending: &Arc<Ending>,
        filters: &Filters,
    ) -> Result<Self> {
        // A handler that does nothing: the signal has only to interrupt.
        register_signal_handler(SIGRTMIN(), ignore)
            .map_err(|error| Error::Host { action: "handle signals", source: error.into() })?;
        let parade = Arc::new(Parade { order: Mutex::new(Order::Run), changed: Condvar::new() });
        let mut gang = Self { parade, members: Vec::new() };
        for (index, mut vcpu) in vcpus.into_iter().enumerate() {
            let flag = KickFlag::of(&mut vcpu);
            let exits = Arc::new(AtomicU64::new(0));
            let (parade, bus, ending, count) = (gang.parade.clone(), bus.clone(), ending.clone(), exits.clone());
            let pins = pins.get(index).cloned().unwrap_or_default();
            let filters = filters.clone();
            let thread = thread::Builder::new()
                .name(format!("vcpu{index}"))
                .stack_size(STACK_BYTES)
                .spawn(move || {
                    if let Err(error) = affinity::pin(&pins) {
                        ending.end(ExitReason::Error(format!("vCPU {index} cannot be pinned: {}", error.desc())));
                    }
                    filters.bind(Duty::Vcpu);
                    follow(vcpu, &parade, &bus, &ending, &count)
                })
                .map_err(Error::host("start a vCPU's thread"))?;
            gang.members.push(Member { thread, flag, exits });
        }
        Ok(gang)
    }

    /// How often each vCPU left the guest.
    pub fn exits(&self) -> Vec<u64> {
        self.members.iter().map(|member| member.exits.load(Ordering::Relaxed)).collect()
    }

    /// Holds each vCPU before its next entry to the guest, and kicks those inside out. It does not wait for them: one
    /// may be waiting for a slow disk, and the control socket shall not.
    pub fn hold(&self) {
        self.give(Order::Hold);
    }

    /// Lets them go on.
    pub fn release(&self) {
        self.give(Order::Run);
    }

    fn give(&self, order: Order) {
        *lock(&self.parade.order) = order;
        self.parade.changed.notify_all();
        if order == Order::Run {
            return;
        }
        for Member { thread, flag, .. } in &self.members {
            // SAFETY: a vCPU lives until its thread has been joined: the thread returns it.
            unsafe { flag.set(1) };
            // It may have ended already.
            let _ = thread.kill(SIGRTMIN());
        }
    }
}

impl Drop for Gang {
    /// Ends the threads and waits for them.
    fn drop(&mut self) {
        self.give(Order::End);
        for member in self.members.drain(..) {
            let _ = member.thread.join();
        }
    }
}

fn follow(mut vcpu: VcpuFd, parade: &Parade, bus: &Bus, ending: &Ending, exits: &AtomicU64) -> VcpuFd {
    // A panic is the VMM's fault, not the guest's; the guest ends with it all the same.
    let run = std::panic::AssertUnwindSafe(|| obey(&mut vcpu, parade, bus, exits));
    match std::panic::catch_unwind(run) {
        Ok(Some(reason)) => ending.end(reason),
        Ok(None) => {}
        Err(_) => ending.end(ExitReason::Error("a vCPU's thread panicked: this is a fault of the VMM".to_owned())),
    }
    vcpu
}

/// Runs a vCPU as ordered; comes back with a reason if the guest is at its end.
fn obey(vcpu: &mut VcpuFd, parade: &Parade, bus: &Bus, exits: &AtomicU64) -> Option<ExitReason> {
    phases::mark(Phase::Enter);
    loop {
        let step = step(vcpu, bus);
        phases::mark(Phase::Leave);
        exits.fetch_add(1, Ordering::Relaxed);
        match step {
            Step::Continue => {}
            Step::End(reason) => return Some(reason),
            Step::Kicked => {
                // The flag goes first: an order given from here on sets it again.
                vcpu.set_kvm_immediate_exit(0);
                std::sync::atomic::fence(Ordering::SeqCst);
                let mut order = lock(&parade.order);
                let held = *order == Order::Hold;
                while *order == Order::Hold {
                    order = parade.changed.wait(order).unwrap_or_else(PoisonError::into_inner);
                }
                if held {
                    // Its clock went on: the guest's watchdogs are told not to wonder. One without that clock has none.
                    let _ = vcpu.kvmclock_ctrl();
                }
                if *order == Order::End {
                    return None;
                }
            }
        }
    }
}
