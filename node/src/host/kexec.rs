//! `thimble-node power kexec`: loads the running release's kernel and initramfs, which PID 1 starts at the end of this one
//! without the machine's firmware (kexec_file_load(2)).

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::memfd::{MFdFlags, memfd_create};
use thimble_spec::slot::TRIAL_WORD;

use crate::update::boot;

/// Most bytes of an object: more than a disk of this kind holds.
const OBJECT_MAX: u64 = 1 << 30;

/// Loads the kernel.
///
/// # Errors
/// This host has no flash disk, or starts another release next, or its kernel refuses.
pub fn load() -> Result<()> {
    let origin = boot::origin()?;
    ensure!(!origin.trial, "the running release is on trial and must be confirmed before: wait, or reboot");
    let store = boot::look(origin.volume)?;
    let next = store.state()?.next();
    if next != origin.slot {
        bail!("slot {next} starts next, and only the boot loader counts how often: reboot instead");
    }
    let envelope = store.release(origin.slot)?.with_context(|| format!("slot {} is empty", origin.slot))?;
    let release = envelope.release();
    let kernel = memory("kernel", &store.object(&release.kernel, OBJECT_MAX)?)?;
    let parts = release.initrd.iter().map(|part| store.object(part, OBJECT_MAX));
    let mut initrd = Vec::new();
    for part in parts {
        // Parts of an initramfs begin at multiples of four bytes, as boot loaders place them.
        initrd.resize(initrd.len().next_multiple_of(4), 0);
        initrd.extend(part?);
    }
    let initrd = memory("initrd", &initrd)?;
    let line = fs::read_to_string("/proc/cmdline").context("reading /proc/cmdline")?;
    let line = CString::new(words(&line)).context("the kernel command line holds a zero byte")?;
    let length = line.as_bytes_with_nul().len();
    // SAFETY: both descriptors are open, the text is `length` bytes long with its end, and the kernel copies all of it.
    let result = unsafe {
        nix::libc::syscall(
            nix::libc::SYS_kexec_file_load,
            kernel.as_raw_fd(),
            initrd.as_raw_fd(),
            length,
            line.as_ptr(),
            0_usize,
        )
    };
    if result != 0 {
        return Err(std::io::Error::last_os_error()).context(
            "loading the kernel by kexec_file_load(2): a kernel that is locked down takes none that it cannot verify",
        );
    }
    Ok(())
}

/// The running kernel's words, without what the boot loader says of this start.
fn words(line: &str) -> String {
    let stays = |word: &&str| *word != TRIAL_WORD && !word.starts_with("BOOT_IMAGE=");
    line.split_ascii_whitespace().filter(stays).collect::<Vec<_>>().join(" ")
}

/// A file in memory.
fn memory(name: &str, content: &[u8]) -> Result<File> {
    let name = CString::new(name)?;
    let descriptor = memfd_create(name.as_c_str(), MFdFlags::MFD_CLOEXEC).context("making a file in memory")?;
    let mut file = File::from(descriptor);
    file.write_all(content)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_one_start_are_left_out() {
        let line = "BOOT_IMAGE=/x console=ttyS0 thimble.slot=a thimble.trial quiet\n";
        assert_eq!(words(line), "console=ttyS0 thimble.slot=a quiet");
    }
}
