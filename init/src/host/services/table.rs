//! The services that a host has by itself, each if its definition asks for what it does: one entry a service.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::Path;

use thimble_spec::appliance::Appliance;
use thimble_spec::paths::{NODE, STORAGE_SETTLED, STORAGE_STATE};
use thimble_spec::service::{Limits, Ready, Restart, Service, ServiceKind};

use super::{Kind, netserve};
use crate::error::{Doing, Result};

/// A service of the host's own.
pub struct BuiltIn {
    /// Its name; [`thimble_spec::service::BUILT_IN`] has it too.
    pub name: &'static str,
    /// Whether an appliance asks for it.
    pub wanted: fn(&Appliance) -> bool,
    /// Where it reads and writes.
    pub kind: Kind,
    /// What it is.
    pub service: fn(&Appliance) -> Service,
    /// What must be so before it is started, each time.
    pub prepare: fn(&Appliance) -> Result<()>,
    /// What it writes when it goes on without having done what it is there for: it is started again then.
    pub gave_up: Option<&'static str>,
}

/// All of them, in the order in which they start.
pub const TABLE: &[BuiltIn] = &[
    BuiltIn {
        name: "iscsi",
        wanted: |appliance| !appliance.storage.iscsi.is_empty(),
        kind: Kind::Logged,
        service: |_| daemon("iscsi", &[NODE, "storage", "initiator"]),
        prepare: |_| Ok(()),
        gave_up: None,
    },
    BuiltIn {
        name: "storage",
        wanted: |appliance| !appliance.storage.is_empty(),
        kind: Kind::Told,
        service: |_| Service {
            ready: Some(Ready::File(STORAGE_SETTLED.to_owned())),
            ..daemon("storage", &[NODE, "storage", "keep"])
        },
        // One before it may have left them.
        prepare: |_| {
            for path in [STORAGE_STATE, STORAGE_SETTLED] {
                let _ = fs::remove_file(path);
            }
            Ok(())
        },
        gave_up: None,
    },
    BuiltIn {
        name: "syslog",
        wanted: |appliance| appliance.host.syslog.is_some(),
        kind: Kind::Logged,
        service: |_| daemon("syslog", &[NODE, "syslog"]),
        prepare: |_| Ok(()),
        gave_up: None,
    },
    BuiltIn {
        name: "ntp",
        wanted: |appliance| !appliance.host.time_servers.is_empty(),
        kind: Kind::Logged,
        // In the foreground, with its messages on standard error; -s sets the clock at the start.
        service: |_| daemon("ntp", &["/usr/sbin/ntpd", "-d", "-s", "-f", NTP_CONFIG]),
        prepare: prepare_ntp,
        // It asks once, and then not for five minutes, and sets the clock at its start only.
        gave_up: Some("skipping initial time setting"),
    },
    BuiltIn {
        name: NETSERVE,
        wanted: |appliance| appliance.network.served().next().is_some(),
        kind: Kind::Logged,
        // In the foreground, with its messages on standard error.
        service: |_| daemon(NETSERVE, &["/usr/sbin/dnsmasq", "--keep-in-foreground", netserve::CONFIG_WORD]),
        prepare: netserve::prepare,
        gave_up: None,
    },
    BuiltIn {
        name: "ssh",
        wanted: |appliance| appliance.host.ssh.is_some(),
        kind: Kind::Logged,
        service: |appliance| {
            let port = appliance.host.ssh.as_ref().map_or(22, |ssh| ssh.port);
            // In the foreground, messages on standard error, no passwords, no forwarding either way; keys of the host are
            // made when somebody comes for the first time.
            let dropbear = format!("{TOOLS}; exec /usr/sbin/dropbear -F -E -s -j -k -R -p {port}");
            daemon("ssh", &["/bin/sh", "-c", &dropbear])
        },
        prepare: prepare_ssh,
        gave_up: None,
    },
    BuiltIn {
        name: "shell",
        wanted: |appliance| appliance.host.shell,
        kind: Kind::Terminal,
        service: |_| {
            let shell = format!("{TOOLS}; exec /bin/sh -l");
            Service {
                environment: [("TERM".into(), "linux".into())].into(),
                ..daemon("shell", &["/bin/sh", "-c", &shell])
            }
        },
        prepare: |_| Ok(()),
        gave_up: None,
    },
];

/// Addresses and names for guests.
pub const NETSERVE: &str = "netserve";

/// Gives busybox's tools their names; those that other packages brought keep theirs.
const TOOLS: &str = "/bin/busybox --install -s /bin 2>/dev/null";

/// A program that stays.
pub fn daemon(name: &str, exec: &[&str]) -> Service {
    Service {
        name: name.to_owned(),
        exec: exec.iter().map(|word| (*word).to_owned()).collect(),
        kind: ServiceKind::Daemon,
        after: Vec::new(),
        uid: 0,
        gid: 0,
        environment: Default::default(),
        restart: Restart::Always,
        ready: None,
        limits: Limits::default(),
    }
}

/// OpenNTPD's configuration.
const NTP_CONFIG: &str = "/run/thimble/ntpd.conf";
/// Where it keeps what it learned of the clock's drift.
const NTP_STATE: &str = "/var/lib/openntpd/db";
/// Where it can be asked what it knows.
const NTP_SOCKET: &str = "/var/lib/openntpd/run";
/// The home of its user, to which it locks itself up: nothing is in it.
const NTP_JAIL: &str = "/nonexistent";

fn prepare_ntp(appliance: &Appliance) -> Result<()> {
    for directory in [NTP_STATE, NTP_SOCKET, NTP_JAIL] {
        fs::create_dir_all(directory).doing(|| format!("make {directory}"))?;
    }
    fs::write(NTP_CONFIG, ntp_config(&appliance.host.time_servers)).doing(|| format!("write {NTP_CONFIG}"))
}

/// `servers` takes all addresses of a name (ntpd.conf(5)).
fn ntp_config(servers: &[String]) -> String {
    servers.iter().map(|server| format!("servers {server}\n")).collect()
}

/// Where dropbear looks for the host's keys, and makes them.
const SSH_HOST_KEYS: &str = "/etc/dropbear";
/// Where they are: they stay the same over restarts if the node has a disk.
const SSH_KEPT_KEYS: &str = "/data/ssh";
/// Who may log in.
const SSH_AUTHORIZED: &str = "/root/.ssh/authorized_keys";

fn prepare_ssh(appliance: &Appliance) -> Result<()> {
    let directory =
        |path: &str| fs::DirBuilder::new().recursive(true).mode(0o700).create(path).doing(|| format!("make {path}"));
    directory(SSH_KEPT_KEYS)?;
    directory("/root/.ssh")?;
    if !Path::new(SSH_HOST_KEYS).exists() {
        symlink(SSH_KEPT_KEYS, SSH_HOST_KEYS).doing(|| format!("make {SSH_HOST_KEYS}"))?;
    }
    let keys = appliance.host.ssh.iter().flat_map(|ssh| &ssh.keys);
    let text: String = keys.map(|key| format!("{key}\n")).collect();
    fs::write(SSH_AUTHORIZED, text)
        .and_then(|()| fs::set_permissions(SSH_AUTHORIZED, fs::Permissions::from_mode(0o600)))
        .and_then(|()| fs::set_permissions("/root", fs::Permissions::from_mode(0o700)))
        .doing(|| format!("write {SSH_AUTHORIZED}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_spec::service::BUILT_IN;

    #[test]
    fn every_name_is_taken_by_the_definition() {
        assert!(TABLE.iter().all(|built_in| BUILT_IN.contains(&built_in.name)));
    }

    #[test]
    fn every_server_has_its_line() {
        assert_eq!(
            ntp_config(&["10.0.0.1".to_owned(), "ntp.example".to_owned()]),
            "servers 10.0.0.1\nservers ntp.example\n"
        );
    }
}
