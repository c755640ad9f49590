//! The boot of a host, in order.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::signalfd::SignalFd;
use nix::sys::utsname::uname;
use thimble_spec::appliance::{Address, Appliance};
use thimble_spec::cmdline::Cmdline;
use thimble_spec::export::NFS;
use thimble_spec::paths::{APPLIANCE, END_MARKER, MODULES_DIR, MODULES_INDEX};
use thimble_spec::slot::Origin;

use super::answers::Commander;
use super::buttons::Buttons;
use super::commands::ALLOWED;
use super::dhcp::Dhcp;
use super::gate::Gate;
use super::modules::Modules;
use super::node::Node;
use super::uevent::Uevents;
use super::{Announcement, Host, NODE_LIMIT, network, storage};
use crate::clock::since_boot;
use crate::console;
use crate::early;
use crate::error::{Doing, Error, Result};
use crate::net::{self, Network};
use crate::power::{self, Ending};

/// What mounts an export of version 4.1 and newer: the daemon does, and no device asks for it.
const NFS_MODULE: &str = "nfsv4";
/// How long network cards may take to appear.
const CARDS_LIMIT: Duration = Duration::from_secs(10);
/// How long an error that keeps the host from starting stays readable.
const FATAL_PAUSE: Duration = Duration::from_secs(10);

impl<'a> Host<'a> {
    /// Everything up to the start of the daemon.
    pub fn start(line: &Cmdline, signals: &'a SignalFd) -> Self {
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
        let limit = Duration::from_secs(appliance.update.ready_within_s.into());
        let origin = Origin::of(line).unwrap_or_else(|error| {
            console::error(&format!("the boot loader does not say which slot it started: {error}"));
            None
        });
        let mut host = Host {
            signals,
            uevents,
            modules: modules(),
            appliance,
            network: reported(Network::open()),
            dhcp: Vec::new(),
            node: Node::new(),
            gate: origin.map(|origin| Gate::new(origin, limit)),
            buttons: Buttons::default(),
            commander: line.has(ALLOWED).then(Commander::open).and_then(reported),
            last_event: since_boot(),
            network_changed: false,
            ending: None,
            announcement: Announcement::Early,
        };
        host.modules.load_always();
        if line.has(NFS) {
            host.modules.load(NFS_MODULE);
        }
        host.modules.load_all();
        host.buttons.scan();
        reported(net::set_host_name(&host.appliance.name));
        host.start_network();
        host.start_storage();
        if !host.appliance.raids.is_empty() {
            console::error("storage.raid: arrays are not supported yet, the host goes on without them");
        }
        host.announcement = Announcement::Until(since_boot() + NODE_LIMIT);
        host
    }

    fn start_network(&mut self) {
        network::load_modules(&self.appliance, &mut self.modules);
        let Some(network) = &mut self.network else { return };
        reported(net::loopback(network));
        self.turn_until(CARDS_LIMIT, |host| network::missing(&host.appliance).is_empty());
        for name in network::missing(&self.appliance) {
            console::error(&format!(
                "network card {name} did not appear in {} s: is its driver in a hardware set of the appliance?",
                CARDS_LIMIT.as_secs()
            ));
        }
        self.apply_network();
        let name = &self.appliance.name;
        let by_dhcp = self.appliance.bridges.iter().filter(|(_, bridge)| bridge.address == Address::Dhcp);
        self.dhcp = by_dhcp.filter_map(|(bridge, _)| reported(Dhcp::start(bridge, name, since_boot()))).collect();
        // The first question goes out now; the answer comes while the boot goes on.
        self.run_dhcp();
        self.write_dns();
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

    /// Waits for the data partition as long as a disk may still come.
    fn wait_for_data(&mut self) {
        let end = since_boot() + storage::LIMIT;
        while self.ending.is_none() && storage::find().is_none() {
            let now = since_boot();
            let Some(patience) = storage::patience() else { return };
            let quiet_end = self.last_event + patience;
            if now >= end || now >= quiet_end {
                return;
            }
            self.turn(Some(end.min(quiet_end)));
        }
    }

    /// Takes turns until `condition` holds or `limit` has passed or the end is wanted.
    fn turn_until(&mut self, limit: Duration, condition: impl Fn(&Self) -> bool) {
        let end = since_boot() + limit;
        while self.ending.is_none() && !condition(self) && since_boot() < end {
            self.turn(Some(end));
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
    serde_json::from_slice(&text)
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
