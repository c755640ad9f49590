//! The watchdog: the machine's, or the kernel's own, which resets a machine whose PID 1 is silent.
//!
//! It is petted in the loop of PID 1, so it also bites when that loop hangs; and only as long as the node daemon says that
//! it is well, or may still be helped ([`policy`]). It is armed as soon as the drivers are loaded, so that a boot that hangs
//! ends too.

mod policy;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use thimble_spec::appliance;

use super::Host;
use super::loading::What;
use super::modules::Modules;
use crate::clock::since_boot;
use crate::console;
use crate::error::{Doing, Error, Result};
use policy::{Policy, Step};

/// Watchdogs that are there.
const CLASS: &str = "/sys/class/watchdog";
/// The kernel's own, for a machine that has none, and how it calls itself (drivers/watchdog/softdog.c).
const SOFTDOG: (&str, &str) = ("softdog", "Software Watchdog");
/// What makes closing it stop it (Documentation/watchdog/watchdog-api.rst, "Magic Close feature").
const MAGIC_CLOSE: &[u8] = b"V";

/// A watchdog that is armed.
pub struct Watchdog {
    device: File,
    /// So often it is petted.
    interval: Duration,
    timeout_s: u32,
    next: Duration,
    node: Policy,
    node_s: u32,
}

mod ioctl {
    // `WDIOC_SETTIMEOUT` (linux/watchdog.h): seconds in, what the device took out.
    nix::ioctl_readwrite!(set_timeout, b'W', 6, nix::libc::c_int);
}

impl Watchdog {
    /// Arms the machine's watchdog, or the kernel's own.
    ///
    /// # Errors
    /// There is none, or it refuses.
    pub fn arm(wanted: &appliance::Watchdog, modules: &mut Modules) -> Result<Self> {
        if list(Path::new(CLASS)).is_empty() {
            modules.load(SOFTDOG.0);
        }
        let Some((path, identity)) = choose(list(Path::new(CLASS))) else {
            let message = "there is no watchdog, not even the kernel's own: a host that hangs stays so";
            return Err(Error::Said(message.to_owned()));
        };
        let device = OpenOptions::new().write(true).open(&path).doing(|| format!("open {}", path.display()))?;
        let mut seconds = libc::c_int::try_from(wanted.timeout_s).unwrap_or(libc::c_int::MAX);
        // SAFETY: the descriptor is open and the request takes the address of one int, which lives.
        let set = unsafe { ioctl::set_timeout(device.as_raw_fd(), &raw mut seconds) };
        if let Err(errno) = set {
            console::error(&format!(
                "the watchdog {identity} does not take {} s ({errno}) and has a limit of its own",
                wanted.timeout_s
            ));
        }
        console::notice(&format!("watchdog {identity} armed, {seconds} s"));
        let timeout_s = u32::try_from(seconds).unwrap_or(wanted.timeout_s).max(1);
        Ok(Self {
            device,
            interval: Duration::from_millis(u64::from(timeout_s) * 1000 / 4),
            timeout_s,
            next: Duration::ZERO,
            node: Policy::new(Duration::from_secs(wanted.node_s.into())),
            node_s: wanted.node_s,
        })
    }

    /// When it must be petted.
    pub fn deadline(&self) -> Duration {
        self.next
    }

    /// The node daemon is well.
    pub fn heard(&mut self, now: Duration) {
        self.node.heard(now);
    }

    /// It does not bite any more: the machine goes off.
    pub fn disarm(mut self) {
        if let Err(error) = self.device.write_all(MAGIC_CLOSE) {
            console::error(&format!("cannot stop the watchdog, it may start the machine again: {error}"));
        }
    }

    fn pet(&mut self) {
        if let Err(error) = self.device.write_all(b"\0") {
            console::error(&format!("cannot pet the watchdog: {error}"));
        }
    }
}

/// Node below /dev, and how it calls itself, of each watchdog, in order.
fn list(class: &Path) -> Vec<(PathBuf, String)> {
    let mut found: Vec<(PathBuf, String)> = fs::read_dir(class)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| {
            let identity = fs::read_to_string(entry.path().join("identity")).unwrap_or_default();
            (Path::new("/dev").join(entry.file_name()), identity.trim().to_owned())
        })
        .collect();
    found.sort();
    found
}

/// A machine's own one rather than the kernel's.
fn choose(mut found: Vec<(PathBuf, String)>) -> Option<(PathBuf, String)> {
    let own = found.iter().position(|(_, identity)| identity != SOFTDOG.1).unwrap_or(0);
    (own < found.len()).then(|| found.swap_remove(own))
}

impl Host<'_> {
    /// Arms it, if the definition asks for it and nobody did before.
    pub fn arm_watchdog(&mut self) {
        let Some(wanted) = self.appliance.host.watchdog.filter(|_| !self.watchdog_tried) else { return };
        self.watchdog_tried = true;
        match Watchdog::arm(&wanted, &mut self.modules) {
            Ok(watchdog) => self.watchdog = Some(watchdog),
            Err(error) => console::failed(&error),
        }
    }

    /// Pets it, if that is due and nothing speaks against it.
    pub fn tend_watchdog(&mut self) {
        // The machine's own is there once the drivers are; the boot goes on meanwhile, and its end is the last moment.
        if !self.watchdog_tried && !self.loading.runs(What::Drivers) {
            self.arm_watchdog();
        }
        let now = since_boot();
        let node_runs = self.node.pid().is_some();
        let Some(watchdog) = &mut self.watchdog else { return };
        if watchdog.next > now {
            return;
        }
        watchdog.next = now + watchdog.interval;
        if node_runs {
            watchdog.node.started(now);
        }
        // While the host ends, PID 1 itself sees to the daemon's end.
        let step = if self.ending.is_some() { Step::Fine } else { watchdog.node.step(now) };
        match step {
            Step::Fine => {}
            Step::Kill => {
                let seconds = watchdog.node_s;
                console::error(&format!("the node daemon gave no sign for {seconds} s and is killed; guests go on"));
                self.node.signal(Signal::SIGKILL);
            }
            Step::GiveUp => {
                let seconds = watchdog.timeout_s;
                console::error(&format!(
                    "the node daemon gives no sign though it was started again: the watchdog resets the machine in {seconds} s"
                ));
                return;
            }
            Step::Starve => return,
        }
        watchdog.pet();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machines_own_watchdog_comes_first() {
        let place = tempfile::tempdir().unwrap();
        assert!(choose(list(place.path())).is_none());
        for (name, identity) in [("watchdog0", "Software Watchdog\n"), ("watchdog1", "i6300ESB timer\n")] {
            fs::create_dir(place.path().join(name)).unwrap();
            fs::write(place.path().join(name).join("identity"), identity).unwrap();
        }
        let chosen = choose(list(place.path())).unwrap();
        assert_eq!((chosen.0.to_str(), chosen.1.as_str()), (Some("/dev/watchdog1"), "i6300ESB timer"));
        fs::remove_dir_all(place.path().join("watchdog1")).unwrap();
        assert_eq!(choose(list(place.path())).unwrap().1, SOFTDOG.1);
    }
}
