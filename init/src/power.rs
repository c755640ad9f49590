//! The end of the machine.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, sync};
use thimble_spec::cmdline::Cmdline;
use thimble_spec::paths::GUESTS_READY;
use thimble_spec::slot::TRIAL_WORD;

use crate::clock::since_boot;
use crate::console;
use crate::error::{Doing, Result};
use crate::process;

/// What comes after the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The machine goes off.
    PowerOff,
    /// It starts again.
    Reboot,
    /// The kernel starts another one that was loaded before (kexec_file_load(2)), without the firmware: only a host's.
    #[cfg_attr(not(feature = "host"), allow(dead_code))]
    Kexec,
}

/// Ends the machine. File systems must be settled by now; `sync` is there for those who come here on the way of errors.
pub fn end(ending: Ending) -> ! {
    sync();
    if ending == Ending::PowerOff {
        port::write();
    }
    let mode = match ending {
        Ending::PowerOff => RebootMode::RB_POWER_OFF,
        Ending::Reboot => RebootMode::RB_AUTOBOOT,
        Ending::Kexec => {
            let Err(errno) = reboot(RebootMode::RB_KEXEC);
            console::error(&format!(
                "no kernel could be started by kexec ({errno}), the machine starts by its firmware"
            ));
            RebootMode::RB_AUTOBOOT
        }
    };
    let Err(errno) = reboot(mode);
    console::error(&format!("the kernel refuses to {ending:?}: {errno}; switch the machine off by hand"));
    loop {
        nix::unistd::pause();
    }
}

/// Ends the machine after a moment in which a person can read why.
pub fn end_after(delay: Duration, ending: Ending) -> ! {
    std::thread::sleep(delay);
    end(ending)
}

/// Sends `SIGTERM` to every process and, after `limit`, `SIGKILL`; returns when none is left.
pub fn end_all_processes(limit: Duration) {
    /// Between `SIGKILL` and giving a process up that hangs in the kernel.
    const KILL_LIMIT: Duration = Duration::from_secs(2);
    let everybody = Pid::from_raw(-1);
    for (signal, limit) in [(Signal::SIGTERM, limit), (Signal::SIGKILL, KILL_LIMIT)] {
        // ESRCH: there is nobody.
        let _ = kill(everybody, signal);
        // A stopped process sees no SIGTERM before it goes on.
        let _ = kill(everybody, Signal::SIGCONT);
        if process::wait_for_all(limit) {
            return;
        }
    }
    console::notice("processes hang in the kernel, going on without them");
}

/// Makes the file system at `path` read-only, which writes its journal out.
pub fn remount_read_only(path: &Path) -> Result<()> {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(None::<&str>, path, None::<&str>, flags, None::<&str>).doing(|| format!("make {} read-only", path.display()))
}

/// The same by an open descriptor of a mount that has no path any more.
pub fn remount_read_only_by(descriptor: &impl AsRawFd) -> Result<()> {
    remount_read_only(Path::new(&format!("/proc/self/fd/{}", descriptor.as_raw_fd())))
}

/// Unmounts what is mounted at `path`; where something still holds it, makes it read-only.
pub fn settle(path: &Path) -> Result<()> {
    match umount2(path, MntFlags::UMOUNT_NOFOLLOW) {
        // Not a mount point, or not there.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(_) => remount_read_only(path),
    }
}

/// The last resort when PID 1 itself is wrong: called by the panic hook. It cannot go on with its work, but as long as
/// it is there the kernel does not panic and what runs goes on running: it reaps, and ends the machine when asked. A
/// release on trial has failed if its guests were not ready before: it starts again after a moment, and the boot loader
/// counts.
pub fn limp() -> ! {
    /// Time to read why.
    const TRIAL_PAUSE: Duration = Duration::from_secs(30);
    let signals = crate::signals::listen();
    let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let failed = Cmdline::parse(&line).has(TRIAL_WORD) && !Path::new(GUESTS_READY).exists();
    let end_of_trial = failed.then(|| since_boot() + TRIAL_PAUSE);
    loop {
        while process::reap().is_some() {}
        let asked = signals.as_ref().ok().and_then(crate::signals::read);
        let over = end_of_trial.filter(|end| *end <= since_boot()).map(|_| Ending::Reboot);
        if let Some(ending) = asked.or(over) {
            end_all_processes(Duration::from_secs(10));
            sync();
            settle_all();
            end(ending);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Settles every block device's file system that /proc/mounts names, the last one first.
pub fn settle_all() {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    for path in block_mounts(&mounts).into_iter().rev() {
        if let Err(error) = settle(Path::new(path)) {
            console::failed(&error);
        }
    }
}

/// Mount points of block devices in the text of /proc/mounts (proc(5)): device, path, type, options.
fn block_mounts(mounts: &str) -> Vec<&str> {
    let path = |line: &'_ str| -> Option<usize> { line.starts_with("/dev/").then(|| line.find(' ')).flatten() };
    mounts.lines().filter_map(|line| path(line).and_then(|at| line[at + 1..].split(' ').next())).collect()
}

/// The power-off register of a guest's machine.
mod port {
    use super::{console, since_boot};
    use thimble_spec::vmm::{POWER_OFF, POWER_PORT};

    /// Writes [`POWER_OFF`] to [`POWER_PORT`]. On hardware that is what ACPI's own power-off writes on a PIIX4 or ICH9
    /// and nothing on others, so only a machine that looks like ours (no ACPI) gets it.
    pub fn write() {
        if std::path::Path::new("/sys/firmware/acpi").exists() {
            return;
        }
        // SAFETY: ioperm(2) takes no pointers; it only widens this process's I/O permission bitmap.
        if unsafe { libc::ioperm(libc::c_ulong::from(POWER_PORT), 2, 1) } != 0 {
            console::notice("no permission for the power-off port");
            return;
        }
        console::notice(&format!("power-off at {:.2}", since_boot().as_secs_f64()));
        // SAFETY: the port was granted above; a 16-bit write to it touches no memory.
        unsafe {
            std::arch::asm!("out dx, ax", in("dx") POWER_PORT, in("ax") POWER_OFF, options(nomem, nostack, preserves_flags));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_block_devices_are_settled() {
        let mounts =
            "rootfs / rootfs rw 0 0\n/dev/sda1 /data ext4 rw 0 0\nproc /proc proc rw 0 0\n/dev/vdb\n/dev/b /x y\n";
        assert_eq!(block_mounts(mounts), ["/data", "/x"]);
    }
}
