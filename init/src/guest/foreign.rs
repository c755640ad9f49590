//! A guest without an image: the root is on its own disk, with an init of its own, which gets the machine.
//!
//! What the guest is told reaches it without a change to its disk: the address by netlink and, for systemd-networkd, as a
//! file in `/run/systemd/network` (systemd.network(5)); name servers and keys as files in memory in the place of the
//! disk's; the host name on the kernel command line. A process of ours stays behind as its child: it is the other end of
//! the VMM's line. systemd tells it when it is up (`NOTIFY_SOCKET`, sd_notify(3)); at the end systemd comes back to us in
//! `/run/initramfs/shutdown` (bootup(7), "System Manager Shutdown"), which knows how this machine goes off.

use std::convert::Infallible;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::{ForkResult, Pid, fork, setsid};
use thimble_spec::cmdline::GuestParams;
use thimble_spec::console::Line;

use super::agent::Agent;
use super::exec::Door;
use super::freeze::Freeze;
use super::{keys, root};
use crate::clock::since_boot;
use crate::console;
use crate::early::make_directory;
use crate::error::{Doing, Error, Result};
use crate::events;
use crate::net;
use crate::power::{self, Ending};
use crate::process::{self, Program, Streams};

/// Where a system's own init is, whatever it is.
const INIT: &str = "/sbin/init";
/// What switches a system off, whatever its init is.
const POWER_OFF: &str = "/sbin/poweroff";
/// systemd puts this directory in the place of the root at its end, and runs `shutdown` in it as PID 1.
const SHUTDOWN_DIR: &str = "/run/initramfs";
/// The name that we have there, as the first argument: an absolute path of the root that it then is.
pub const SHUTDOWN: &str = "/shutdown";
/// Where systemd says that it is up.
const NOTIFY: &str = "/run/thimble-ready";
/// What systemd-networkd reads before the files of the disk.
const NETWORK_DIR: &str = "/run/systemd/network";
/// The name servers, in the place of the disk's.
const RESOLV: &str = "/run/thimble-resolv.conf";

/// Mounts the root that is on `device` and runs its init in the place of this process.
pub fn hand_over(params: &GuestParams, device: &str) -> Result<Infallible> {
    let ourselves = fs::read("/proc/self/exe").doing(|| "read our own program".to_owned())?;
    root::enter_own(device)?;
    let init = fs::canonicalize(INIT).map_err(|error| {
        Error::Said(format!("{device} has no {INIT} ({error}): put a system onto the guest's disk"))
    })?;
    let told =
        [keep(&ourselves), network_file(params), resolv_conf(params), keys::authorize(&params.parameters.ssh_keys)];
    for error in told.into_iter().filter_map(Result::err) {
        console::failed(&error);
    }
    // Another init says nothing: it is up as soon as it runs.
    let speaks = init.file_name().is_some_and(|name| name == "systemd");
    let notify =
        if speaks { UnixDatagram::bind(NOTIFY).map_err(|error| Error::Said(error.to_string())).ok() } else { None };
    let mut command = Command::new(INIT);
    command.env_clear().env("TERM", "linux");
    if notify.is_some() {
        command.env("NOTIFY_SOCKET", NOTIFY);
    }
    // SAFETY: this process has no other threads, so the child may do whatever it likes.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => Companion {
            name: params.name.clone(),
            agent: Agent::open(),
            door: Door::open(params.commands, &params.name),
            notify,
            root: File::open("/").ok(),
            freeze: Freeze::default(),
        }
        .run(),
        Ok(ForkResult::Parent { .. }) => drop(notify),
        Err(errno) => console::error(&format!("nobody will tell the VMM how the guest is: {errno}")),
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).doing(|| "let signals through".to_owned())?;
    Err(command.exec()).doing(|| format!("run {INIT} of {device}"))
}

/// Puts our program where systemd finds it at its end.
fn keep(ourselves: &[u8]) -> Result<()> {
    make_directory(SHUTDOWN_DIR, 0o755)?;
    let path = format!("{SHUTDOWN_DIR}{SHUTDOWN}");
    let kept = fs::write(&path, ourselves).and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)));
    kept.doing(|| format!("write {path}"))
}

/// The end, when systemd has come back to us: its root is at `/oldroot`, read-only if it could be.
pub fn end(verb: &str) -> ! {
    power::settle_all();
    power::end(if verb == "reboot" || verb == "kexec" { Ending::Reboot } else { Ending::PowerOff })
}

/// Tells systemd-networkd the address that the interface has.
fn network_file(params: &GuestParams) -> Result<()> {
    let Some(name) = net::first_interface() else { return Ok(()) };
    let mac = fs::read_to_string(Path::new(net::INTERFACES).join(&name).join("address"));
    let mac = mac.doing(|| format!("read the Ethernet address of {name}"))?;
    let Some(text) = network_unit(params, mac.trim()) else { return Ok(()) };
    fs::create_dir_all(NETWORK_DIR)
        .and_then(|()| fs::write(Path::new(NETWORK_DIR).join("10-thimble.network"), text))
        .doing(|| format!("write to {NETWORK_DIR}"))
}

/// A systemd.network(5): by the Ethernet address, for udev may give the interface another name.
fn network_unit(params: &GuestParams, mac: &str) -> Option<String> {
    let address = params.address?;
    let mut text = format!("[Match]\nMACAddress={mac}\nType=ether\n\n[Network]\nAddress={address}\n");
    text.extend(params.gateway.map(|gateway| format!("Gateway={gateway}\n")));
    text.extend(params.dns.iter().map(|server| format!("DNS={server}\n")));
    Some(text)
}

/// Puts the name servers in the place of the disk's file. Where that is a link, somebody of the system's own writes it.
fn resolv_conf(params: &GuestParams) -> Result<()> {
    const TARGET: &str = "/etc/resolv.conf";
    let is_file = fs::symlink_metadata(TARGET).is_ok_and(|metadata| metadata.is_file());
    if params.dns.is_empty() || !is_file {
        return Ok(());
    }
    fs::write(RESOLV, net::resolv_conf(&params.dns)).doing(|| format!("write {RESOLV}"))?;
    mount(Some(RESOLV), TARGET, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .doing(|| format!("put {RESOLV} in the place of {TARGET}"))
}

/// The other end of the VMM's line, beside the system's own init.
struct Companion {
    name: String,
    agent: Option<Agent>,
    door: Option<Door>,
    /// Where systemd says that it is up; none if that is not to be waited for.
    notify: Option<UnixDatagram>,
    /// The root, to be frozen while its disk is copied.
    root: Option<File>,
    freeze: Freeze,
}

impl Companion {
    fn run(mut self) -> ! {
        let _ = setsid();
        // At its end, systemd asks every process to go, and waits.
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
        if self.notify.is_none() {
            self.ready();
        }
        loop {
            let agent = self.agent.as_ref().map(AsFd::as_fd);
            let notify = self.notify.as_ref().map(AsFd::as_fd);
            let door = self.door.as_ref().map(AsFd::as_fd);
            events::wait([agent, notify, door].into_iter().flatten(), [], self.freeze.deadline());
            self.freeze.look();
            if self.notify.as_ref().is_some_and(says_ready) {
                self.notify = None;
                self.ready();
            }
            match self.agent.as_mut().map(|agent| agent.heed(&mut self.freeze, self.root.as_ref())) {
                Some(Some(true)) => self.power_off(),
                Some(None) => self.agent = None,
                Some(Some(false)) | None => {}
            }
            while let Some((pid, _)) = process::reap() {
                if let Some(door) = &mut self.door {
                    door.ended(pid);
                }
            }
            if let Some(door) = &mut self.door {
                door.welcome();
            }
        }
    }

    fn ready(&self) {
        let after = since_boot();
        console::line(&Line::ReadyInGuest { name: &self.name, after });
        if let Some(agent) = &self.agent {
            agent.ready(after);
        }
    }

    /// Asks the system to switch itself off, in its own way.
    fn power_off(&self) {
        let (exec, environment) = ([POWER_OFF.to_owned()], &std::collections::BTreeMap::new());
        let program = Program {
            exec: &exec,
            uid: 0,
            gid: 0,
            host: &self.name,
            environment,
            streams: Streams::Console,
            group: None,
        };
        let started: Result<Pid> = process::start(&program);
        if let Err(error) = started {
            console::failed(&error);
        }
    }
}

/// Reads what came; whether it says that the system is up.
fn says_ready(socket: &UnixDatagram) -> bool {
    let mut buffer = [0; 4096];
    let mut ready = false;
    // Bounded: who speaks on and on does not keep the VMM's words from being read.
    for _ in 0..16 {
        if socket.set_nonblocking(true).is_err() {
            return ready;
        }
        let Ok(count) = socket.recv(&mut buffer) else { return ready };
        ready |= buffer[..count].split(|byte| *byte == b'\n').any(|line| line == b"READY=1");
    }
    ready
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_spec::cmdline::Cmdline;

    #[test]
    fn networkd_is_told_what_the_guest_is_told() {
        let unit = |line: &str| network_unit(&GuestParams::read(&Cmdline::parse(line)).unwrap(), "02:00:00:00:00:0b");
        assert_eq!(unit("thimble.name=a thimble.root=/dev/vda"), None);
        assert_eq!(
            unit("thimble.name=a thimble.address=10.1.1.11/24 thimble.gateway=10.1.1.1 thimble.dns=10.1.1.2,10.1.1.3")
                .unwrap(),
            "[Match]\nMACAddress=02:00:00:00:00:0b\nType=ether\n\n[Network]\nAddress=10.1.1.11/24\n\
             Gateway=10.1.1.1\nDNS=10.1.1.2\nDNS=10.1.1.3\n"
        );
    }

    #[test]
    fn systemd_says_when_it_is_up() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("s");
        let socket = UnixDatagram::bind(&path).unwrap();
        let speaker = UnixDatagram::unbound().unwrap();
        let says = |text: &[u8]| {
            speaker.send_to(text, &path).unwrap();
            says_ready(&socket)
        };
        assert!(!says(b"STATUS=Starting"));
        assert!(!says(b"X_READY=1\nNOT_READY=1"));
        assert!(says(b"READY=1\nSTATUS=Startup finished in 3.1s."));
        assert!(!says_ready(&socket));
    }
}
