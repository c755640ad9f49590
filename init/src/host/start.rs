//! The boot of a host, in order.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::signalfd::SignalFd;
use nix::sys::utsname::uname;
use thimble_spec::appliance::Appliance;
use thimble_spec::cmdline::Cmdline;
use thimble_spec::export::NFS;
use thimble_spec::json::Json;
use thimble_spec::paths::{APPLIANCE, END_MARKER, HOST_CONTROL, MODULES_DIR, MODULES_INDEX};
use thimble_spec::slot::Origin;

use super::answers::Commander;
use super::buttons::Buttons;
use super::commands::ALLOWED;
use super::control::Control;
use super::gate::Gate;
use super::journal::Journal;
use super::loading::{Loading, What};
use super::modules::Modules;
use super::network::Networking;
use super::node::Node;
use super::services::Services;
use super::steps::Steps;
use super::uevent::Uevents;
use super::{Announcement, Host, NODE_LIMIT, storage, sysctl};
use crate::clock::since_boot;
use crate::console;
use crate::early;
use crate::error::{Doing, Error, Result};
use crate::net;
use crate::power::{self, Ending};

/// What mounts an export of version 4.1 and newer: the daemon does, and no device asks for it.
const NFS_MODULE: &str = "nfsv4";
/// How long network cards may take to appear.
const CARDS_LIMIT: Duration = Duration::from_secs(10);
/// No card comes any more when the kernel announced nothing for so long: drivers that look for their hardware for longer
/// than this without finding any are those of disks.
const CARDS_QUIET: Duration = Duration::from_secs(3);
/// How long the modules that every host needs may take.
const MODULES_LIMIT: Duration = Duration::from_secs(30);
/// How long an error that keeps the host from starting stays readable.
const FATAL_PAUSE: Duration = Duration::from_secs(10);

impl<'a> Host<'a> {
    /// Everything up to the start of the daemon.
    pub fn start(line: &Cmdline, signals: &'a SignalFd) -> Self {
        let mut steps = Steps::begin();
        for error in early::create(early::HOST) {
            console::failed(&error);
        }
        let read = manifest_hash(Path::new(END_MARKER)).and_then(|hash| Ok((hash, appliance(Path::new(APPLIANCE))?)));
        let appliance = match read {
            Ok((hash, appliance)) => {
                // The same from flash and from the network: whoever compares two nodes compares this.
                console::text(&format!("{}: manifest {hash}", appliance.name));
                appliance
            }
            Err(error) => {
                // The next boot may load the whole image.
                console::failed(&error);
                power::end_after(FATAL_PAUSE, Ending::Reboot)
            }
        };
        // Before the first module: what appears by it is announced.
        let uevents = reported(Uevents::listen());
        let modules = modules();
        let loading = Loading::start(&appliance.name);
        steps.done("own files");
        let limit = Duration::from_secs(appliance.update.ready_within_s.into());
        let origin = Origin::of(line).unwrap_or_else(|error| {
            console::error(&format!("the boot loader does not say which slot it started: {error}"));
            None
        });
        let network = Networking::new(&appliance);
        let services = Services::new(&appliance);
        let mut host = Host {
            signals,
            uevents,
            modules,
            loading,
            steps,
            appliance,
            network,
            node: Node::new(),
            services,
            journal: Journal::open(),
            watchdog: None,
            watchdog_tried: false,
            gate: origin.map(|origin| Gate::new(origin, limit)),
            buttons: Buttons::default(),
            commander: line.has(ALLOWED).then(Commander::open).and_then(reported),
            control: reported(Control::listen(Path::new(HOST_CONTROL))),
            last_event: since_boot(),
            ending: None,
            announcement: Announcement::Early,
        };
        if line.has(NFS) {
            host.modules.load(NFS_MODULE);
        }
        sysctl::apply(&host.appliance.host.sysctl);
        host.buttons.scan();
        reported(net::set_host_name(&host.appliance.name));
        host.start_network();
        host.steps.done("network");
        host.start_storage();
        host.steps.done("storage");
        host.finish_modules();
        host.arm_watchdog();
        host.steps.done("modules");
        host.announcement = Announcement::Until(since_boot() + NODE_LIMIT);
        host
    }

    fn start_network(&mut self) {
        self.wait_for_cards();
        for name in self.network.missing() {
            console::error(&format!(
                "network card {name} did not appear: is it plugged in, and is its driver in a hardware set of the \
                 appliance?"
            ));
        }
        let (network, firewall) = (self.appliance.network.clone(), self.appliance.firewall.clone());
        for error in self.network.declare(network, firewall, &mut self.modules, since_boot()) {
            console::failed(&error);
        }
    }

    /// Waits for network cards as long as one may still come.
    fn wait_for_cards(&mut self) {
        let end = since_boot() + CARDS_LIMIT;
        loop {
            self.network.name_cards();
            let now = since_boot();
            let quiet_end = if self.loading.runs(What::Drivers) { end } else { self.last_event + CARDS_QUIET };
            if self.ending.is_some() || self.network.missing().is_empty() || now >= end || now >= quiet_end {
                return;
            }
            self.turn(Some(end.min(quiet_end)));
        }
    }

    fn start_storage(&mut self) {
        self.modules.load_for("fs-ext4");
        self.wait_for_data();
        match storage::find() {
            Some(device) => {
                if let Err(error) = storage::mount_partition(&device) {
                    console::error(&format!(
                        "{}; guests' disks live in memory until that is repaired",
                        error.sentence()
                    ));
                    reported(storage::mount_memory());
                }
            }
            None => {
                console::text("warning: no thimble-data partition, guests' disks live in memory and end with the host");
                console::notice("no data partition, tmpfs at /data");
                reported(storage::mount_memory());
            }
        }
    }

    /// Guests need what is loaded on every machine; a driver that still looks for its devices may go on.
    fn finish_modules(&mut self) {
        let end = since_boot() + MODULES_LIMIT;
        while self.ending.is_none() && self.loading.runs(What::Always) && since_boot() < end {
            self.turn(Some(end));
        }
        if self.ending.is_none() && self.loading.runs(What::Always) {
            console::error(&format!(
                "the modules that every host needs are not loaded after {} s: guests may not start",
                MODULES_LIMIT.as_secs()
            ));
        }
    }

    /// Waits for the data partition as long as a disk may still come.
    fn wait_for_data(&mut self) {
        let end = since_boot() + storage::LIMIT;
        while self.ending.is_none() && storage::find().is_none() {
            let now = since_boot();
            if self.loading.runs(What::Drivers) && now < end {
                self.turn(Some(end));
                continue;
            }
            let Some(patience) = storage::patience() else { return };
            let quiet_end = self.last_event + patience;
            if now >= end || now >= quiet_end {
                return;
            }
            self.turn(Some(end.min(quiet_end)));
        }
    }
}

/// Reports an error and goes on without what it was about.
fn reported<T>(result: Result<T>) -> Option<T> {
    result.map_err(|error| console::failed(&error)).ok()
}

/// The manifest hash, from the last member of the initramfs, which must be there, whole: 64 hexadecimal digits and a
/// newline.
fn manifest_hash(path: &Path) -> Result<String> {
    let sound = |text: &[u8]| matches!(text, [digits @ .., b'\n'] if digits.len() == 64 && digits.iter().all(u8::is_ascii_hexdigit));
    match fs::read(path) {
        Ok(text) if sound(&text) => Ok(String::from_utf8_lossy(&text).trim_end().to_owned()),
        _ => Err(Error::Said(format!(
            "the initrd is truncated: {} is missing or cut off; write the image again, or check what the boot loader fetched",
            path.display()
        ))),
    }
}

fn appliance(path: &Path) -> Result<Appliance> {
    let text = fs::read(path).doing(|| format!("read {}", path.display()))?;
    Appliance::from_json(&text)
        .map_err(|error| Error::Said(format!("{}: {error}: build the image again", path.display())))
}

/// The modules, if the image carries any and they are this kernel's.
fn modules() -> Modules {
    let directory = Path::new(MODULES_DIR);
    let modules = match Modules::open(directory, Path::new(MODULES_INDEX)) {
        Ok(modules) => modules,
        Err(error) => {
            console::failed(&error);
            return Modules::none(directory);
        }
    };
    let release = uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default();
    if release != modules.release() {
        console::error(&format!(
            "the kernel is {release}, the modules are for {}: boot the kernel that the image was built with",
            modules.release()
        ));
    }
    modules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncated_initrd_is_named() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("end");
        let error = |path: &Path| manifest_hash(path).unwrap_err().sentence();
        assert!(error(&path).starts_with("the initrd is truncated"));
        for broken in ["", "\n", &"a".repeat(64), &format!("{}\n", "a".repeat(63)), &format!("{}\n", "g".repeat(64))] {
            fs::write(&path, broken).unwrap();
            assert!(error(&path).starts_with("the initrd is truncated"), "{broken:?}");
        }
        fs::write(&path, format!("{}\n", "0aF9".repeat(16))).unwrap();
        assert_eq!(manifest_hash(&path).unwrap(), "0aF9".repeat(16));
    }
}
