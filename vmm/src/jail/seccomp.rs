//! System call filters (Linux `Documentation/userspace-api/seccomp_filter.rst`), one for each kind of thread, and one for
//! the minder.
//!
//! Each is a list of what the thread may do. Anything else ends the process at once, and the minder tells with which
//! signal: a system call outside of these lists is a guest that has taken over, or a fault of ours, and in both cases
//! the guest must not go on. A thread installs its filter as its first act; the threads are made before the main
//! thread's own filter, which then allows no more.
//!
//! The lists hold what the code calls, and what the C library and Rust's runtime call for it: memory from the heap
//! (`brk`, `mmap`, ...), locks (`futex`), a thread's end (`madvise`, `munmap`, `exit`) and a panic's (`tgkill`, ...).

use std::collections::BTreeMap;
use std::io;

use libc::{
    AF_UNIX, F_GETFD, PROT_EXEC, SYS_accept4, SYS_brk, SYS_clock_gettime, SYS_clock_nanosleep, SYS_close, SYS_connect,
    SYS_epoll_ctl, SYS_epoll_pwait, SYS_epoll_wait, SYS_exit, SYS_exit_group, SYS_fallocate, SYS_fcntl, SYS_fdatasync,
    SYS_fstat, SYS_fsync, SYS_ftruncate, SYS_futex, SYS_getpid, SYS_getrandom, SYS_gettid, SYS_io_uring_enter,
    SYS_ioctl, SYS_kill, SYS_lseek, SYS_madvise, SYS_mmap, SYS_mprotect, SYS_mremap, SYS_munmap, SYS_newfstatat,
    SYS_openat, SYS_poll, SYS_ppoll, SYS_pread64, SYS_preadv, SYS_preadv2, SYS_pwrite64, SYS_pwritev, SYS_pwritev2,
    SYS_read, SYS_readv, SYS_recvfrom, SYS_rename, SYS_restart_syscall, SYS_rt_sigaction, SYS_rt_sigprocmask,
    SYS_rt_sigreturn, SYS_sched_yield, SYS_sendto, SYS_shutdown, SYS_sigaltstack, SYS_socket, SYS_statx, SYS_tgkill,
    SYS_timerfd_settime, SYS_unlink, SYS_wait4, SYS_write, SYS_writev,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter, apply_filter_all_threads,
};

use nix::unistd::Pid;
use thimble_spec::vmm::GuestConfig;

use crate::error::{Error, Result};

/// What a thread is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Duty {
    /// The main thread: clients, signals, the guest's life.
    Supervisor,
    /// Runs a virtual processor, and starts and stops devices for its driver.
    Vcpu,
    /// A lane of a disk.
    Disk,
    /// A lane of a network interface.
    Net,
    /// The socket device's lane.
    Vsock,
    /// A lane that touches nothing but its rings and events: entropy, console, balloon.
    Plain,
}

/// All of them.
const DUTIES: [Duty; 6] = [Duty::Supervisor, Duty::Vcpu, Duty::Disk, Duty::Net, Duty::Vsock, Duty::Plain];

/// What must hold of an argument, counted from 0.
#[derive(Clone, Copy, Debug)]
enum Only {
    /// Nothing: the call is allowed whatever its arguments are.
    Any,
    /// It is this 32-bit value.
    Is(u8, u32),
    /// It has none of these bits.
    Lacks(u8, u32),
}

/// A system call that is allowed.
type Entry = (libc::c_long, Only);

/// What every thread needs.
const COMMON: &[Entry] = &[
    (SYS_brk, Only::Any),
    (SYS_clock_gettime, Only::Any),
    (SYS_clock_nanosleep, Only::Any),
    (SYS_close, Only::Any),
    (SYS_epoll_pwait, Only::Any),
    (SYS_epoll_wait, Only::Any),
    (SYS_exit, Only::Any),
    (SYS_exit_group, Only::Any),
    // Builds with assertions look at each descriptor before they close it.
    (SYS_fcntl, Only::Is(1, F_GETFD as u32)),
    (SYS_futex, Only::Any),
    (SYS_getpid, Only::Any),
    (SYS_getrandom, Only::Any),
    (SYS_gettid, Only::Any),
    (SYS_madvise, Only::Any),
    (SYS_mmap, Only::Lacks(2, PROT_EXEC as u32)),
    (SYS_mprotect, Only::Lacks(2, PROT_EXEC as u32)),
    (SYS_mremap, Only::Any),
    (SYS_munmap, Only::Any),
    (SYS_read, Only::Any),
    (SYS_restart_syscall, Only::Any),
    (SYS_rt_sigaction, Only::Any),
    (SYS_rt_sigprocmask, Only::Any),
    (SYS_rt_sigreturn, Only::Any),
    (SYS_sched_yield, Only::Any),
    (SYS_sigaltstack, Only::Any),
    // To threads of its own: it sees no other process.
    (SYS_tgkill, Only::Any),
    (SYS_write, Only::Any),
];

/// Clients of the control socket, signals, and the interrupt of the power button.
const SUPERVISOR: &[Entry] = &[
    (SYS_accept4, Only::Any),
    (SYS_epoll_ctl, Only::Any),
    (SYS_ioctl, Only::Is(1, ioctl::FIONBIO)),
    (SYS_ioctl, Only::Is(1, ioctl::KVM_IRQ_LINE)),
    (SYS_recvfrom, Only::Any),
    (SYS_sendto, Only::Any),
    (SYS_shutdown, Only::Any),
];

/// The vCPU itself, and the interrupt of the power button.
const VCPU: &[Entry] = &[
    (SYS_ioctl, Only::Is(1, ioctl::KVM_RUN)),
    (SYS_ioctl, Only::Is(1, ioctl::KVM_KVMCLOCK_CTRL)),
    (SYS_ioctl, Only::Is(1, ioctl::KVM_IRQ_LINE)),
    (SYS_epoll_ctl, Only::Any),
];

/// A disk's file: its lanes read and write it, and the supervisor gives it another size.
const FILE: &[Entry] = &[
    (SYS_fallocate, Only::Any),
    (SYS_fdatasync, Only::Any),
    (SYS_fstat, Only::Any),
    (SYS_fsync, Only::Any),
    (SYS_ftruncate, Only::Any),
    (SYS_lseek, Only::Any),
    (SYS_newfstatat, Only::Any),
    (SYS_pread64, Only::Any),
    (SYS_preadv, Only::Any),
    (SYS_preadv2, Only::Any),
    (SYS_pwrite64, Only::Any),
    (SYS_pwritev, Only::Any),
    (SYS_pwritev2, Only::Any),
    (SYS_statx, Only::Any),
];

/// A disk's io_uring, which is bound to the same, and the timer of its limits.
const DISK: &[Entry] = &[(SYS_io_uring_enter, Only::Any), (SYS_timerfd_settime, Only::Any)];

/// A tap, and the host kernel's own network back end.
const NET: &[Entry] = &[
    (SYS_ioctl, Only::Is(1, ioctl::TUNSETOFFLOAD)),
    (SYS_ioctl, Only::Is(1, ioctl::TUNSETTXFILTER)),
    (SYS_ioctl, Only::Is(1, ioctl::TUNSETQUEUE)),
    (SYS_ioctl, Only::Is(1, ioctl::VHOST_SET_OWNER)),
    (SYS_ioctl, Only::Is(1, ioctl::VHOST_SET_FEATURES)),
    (SYS_ioctl, Only::Is(1, ioctl::VHOST_SET_MEM_TABLE)),
    (SYS_ioctl, Only::Is(1, ioctl::VHOST_SET_VRING_NUM)),
    (SYS_ioctl, Only::Is(1, ioctl::VHOST_SET_VRING_ADDR)),
    (SYS_ioctl, Only::Is(1, ioctl::VHOST_SET_VRING_BASE)),
    (SYS_ioctl, Only::Is(1, ioctl::VHOST_SET_VRING_KICK)),
    (SYS_ioctl, Only::Is(1, ioctl::VHOST_SET_VRING_CALL)),
    (SYS_ioctl, Only::Is(1, ioctl::VHOST_SET_VRING_ERR)),
    (SYS_ioctl, Only::Is(1, ioctl::VHOST_NET_SET_BACKEND)),
    (SYS_poll, Only::Any),
    (SYS_ppoll, Only::Any),
    (SYS_readv, Only::Any),
    (SYS_recvfrom, Only::Any),
    (SYS_sendto, Only::Any),
    (SYS_timerfd_settime, Only::Any),
    (SYS_writev, Only::Any),
];

/// Connections to Unix sockets in the one directory that is left.
const VSOCK: &[Entry] = &[
    (SYS_accept4, Only::Any),
    (SYS_connect, Only::Any),
    (SYS_epoll_ctl, Only::Any),
    (SYS_ioctl, Only::Is(1, ioctl::FIONBIO)),
    (SYS_readv, Only::Any),
    (SYS_recvfrom, Only::Any),
    (SYS_sendto, Only::Any),
    (SYS_shutdown, Only::Any),
    (SYS_socket, Only::Is(0, AF_UNIX as u32)),
    (SYS_writev, Only::Any),
];

/// The minder: its VMM's end, the console between a terminal and a socket, the exit file, and the sockets that are left.
const MINDER: &[Entry] = &[
    (SYS_connect, Only::Any),
    (SYS_fsync, Only::Any),
    (SYS_ioctl, Only::Is(1, ioctl::TCGETS)),
    (SYS_ioctl, Only::Is(1, ioctl::TCSETS)),
    (SYS_openat, Only::Any),
    (SYS_poll, Only::Any),
    (SYS_recvfrom, Only::Any),
    (SYS_rename, Only::Any),
    (SYS_sendto, Only::Any),
    (SYS_shutdown, Only::Any),
    (SYS_socket, Only::Is(0, AF_UNIX as u32)),
    (SYS_unlink, Only::Any),
    (SYS_wait4, Only::Any),
];

/// Requests of ioctl(2).
mod ioctl {
    #![allow(missing_docs)]
    // asm-generic/ioctls.h
    pub const TCGETS: u32 = 0x5401;
    pub const TCSETS: u32 = 0x5402;
    pub const FIONBIO: u32 = 0x5421;
    // linux/kvm.h
    pub const KVM_RUN: u32 = 0xae80;
    pub const KVM_KVMCLOCK_CTRL: u32 = 0xaead;
    pub const KVM_IRQ_LINE: u32 = 0x4008_ae61;
    // linux/if_tun.h
    pub const TUNSETOFFLOAD: u32 = 0x4004_54d0;
    pub const TUNSETTXFILTER: u32 = 0x4004_54d1;
    pub const TUNSETQUEUE: u32 = 0x4004_54d9;
    // linux/vhost.h
    pub const VHOST_SET_FEATURES: u32 = 0x4008_af00;
    pub const VHOST_SET_OWNER: u32 = 0xaf01;
    pub const VHOST_SET_MEM_TABLE: u32 = 0x4008_af03;
    pub const VHOST_SET_VRING_NUM: u32 = 0x4008_af10;
    pub const VHOST_SET_VRING_ADDR: u32 = 0x4028_af11;
    pub const VHOST_SET_VRING_BASE: u32 = 0x4008_af12;
    pub const VHOST_SET_VRING_KICK: u32 = 0x4008_af20;
    pub const VHOST_SET_VRING_CALL: u32 = 0x4008_af21;
    pub const VHOST_SET_VRING_ERR: u32 = 0x4008_af22;
    pub const VHOST_NET_SET_BACKEND: u32 = 0x4008_af30;
}

/// The devices with files of their own that a guest has: what it has not got, none of its threads needs system calls for.
#[derive(Clone, Copy, Debug)]
pub struct Devices {
    /// A disk.
    pub disk: bool,
    /// A network interface.
    pub net: bool,
    /// The socket device.
    pub vsock: bool,
}

impl Devices {
    /// Those of the guest that `config` describes.
    pub fn of(config: &GuestConfig) -> Self {
        Self { disk: !config.disks.is_empty(), net: !config.nets.is_empty(), vsock: config.vsock.is_some() }
    }
}

impl Duty {
    /// The lists that make up its filter beside these devices; none if no thread has this duty. A vCPU's holds those of the
    /// devices too: its driver starts and stops them on the vCPU's thread.
    fn lists(self, devices: Devices) -> Option<Vec<&'static [Entry]>> {
        let Devices { disk, net, vsock } = devices;
        let lists: &[(bool, &'static [Entry])] = match self {
            Self::Supervisor => &[(true, SUPERVISOR), (disk, FILE)],
            Self::Vcpu => &[(true, VCPU), (disk, FILE), (disk, DISK), (net, NET)],
            Self::Disk => &[(disk, FILE), (disk, DISK)],
            Self::Net => &[(net, NET)],
            Self::Vsock => &[(vsock, VSOCK)],
            Self::Plain => &[(true, &[])],
        };
        let mut wanted = lists.iter().filter(|(wanted, _)| *wanted).map(|(_, list)| *list).peekable();
        wanted.peek()?;
        Some(std::iter::once(COMMON).chain(wanted).collect())
    }
}

/// The filter that allows what is in `lists`, and ends the process for anything else.
fn compile(lists: &[&[Entry]]) -> std::result::Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<libc::c_long, Vec<SeccompRule>> = BTreeMap::new();
    let mut free = Vec::new();
    for (call, only) in lists.iter().copied().flatten() {
        let condition = match *only {
            Only::Any => {
                free.push(*call);
                continue;
            }
            Only::Is(argument, value) => {
                SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value.into())
            }
            Only::Lacks(argument, bits) => {
                let op = SeccompCmpOp::MaskedEq(bits.into());
                SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, 0)
            }
        };
        rules.entry(*call).or_default().push(SeccompRule::new(vec![condition?])?);
    }
    // No rule at all is any argument.
    rules.extend(free.into_iter().map(|call| (call, Vec::new())));
    let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, TargetArch::x86_64)?;
    filter.try_into()
}

/// Binds every thread of a minder to what it has left to do. It sends signals to `vmm` and itself alone.
///
/// # Errors
/// The host's kernel has no filters.
pub fn bind_minder(vmm: Pid) -> Result<()> {
    let kill = [vmm, Pid::this()].map(|pid| (SYS_kill, Only::Is(0, pid.as_raw().cast_unsigned())));
    let filter =
        compile(&[COMMON, MINDER, &kill]).map_err(io::Error::other).map_err(Error::jail("compile its filter"))?;
    apply_filter_all_threads(&filter).map_err(io::Error::other).map_err(Error::jail("install a filter"))
}

/// The filters of a VMM, compiled before its threads start; or none, without a jail.
#[derive(Clone, Debug, Default)]
pub struct Filters(Option<BTreeMap<Duty, BpfProgram>>);

impl Filters {
    /// Compiles those of a guest with these devices. The kernel runs each for every system call there is when it is
    /// installed (`seccomp_cache_prepare`, kernel/seccomp.c): short ones start a guest sooner.
    ///
    /// # Errors
    /// None is expected: the lists are constants.
    pub fn compile(devices: Devices) -> Result<Self> {
        let compile = |duty: Duty| Some((duty, duty.lists(devices).map(|lists| compile(&lists))?));
        let compiled = DUTIES.into_iter().filter_map(compile).map(|(duty, filter)| Ok((duty, filter?)));
        let filters: std::result::Result<_, seccompiler::BackendError> = compiled.collect();
        let filters = filters.map_err(io::Error::other).map_err(Error::jail("compile its filters"))?;
        Ok(Self(Some(filters)))
    }

    /// Binds the calling thread to the filter of its duty.
    ///
    /// # Errors
    /// The host's kernel has no filters; the guest has no device with this duty.
    pub fn apply(&self, duty: Duty) -> Result<()> {
        let Some(filters) = &self.0 else { return Ok(()) };
        let missing = || io::Error::other(format!("no thread was to be {duty:?}"));
        let filter = filters.get(&duty).ok_or_else(missing).map_err(Error::jail("install a filter"))?;
        apply_filter(filter).map_err(io::Error::other).map_err(Error::jail("install a filter"))
    }

    /// [`Self::apply`] for a thread that must not run without; it cannot fail where it did not fail before.
    pub fn bind(&self, duty: Duty) {
        if let Err(error) = self.apply(duty) {
            eprintln!("thimble-vmm: {}", error.sentence());
            std::process::abort();
        }
    }
}
