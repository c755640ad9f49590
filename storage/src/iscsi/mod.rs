//! iSCSI targets by Debian's Open-iSCSI: a daemon of its logs in, and connects again when a target was away; the kernel reads
//! and writes.

mod netlink;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;
use thimble_spec::appliance::{Iscsi, Storage};

use crate::{Error, Result, doing, tools};

/// Sessions that the kernel has (drivers/scsi/scsi_transport_iscsi.c).
const SESSIONS: &str = "/sys/class/iscsi_session";
/// Where the daemon looks for its files.
const FILES: &str = "/etc/iscsi";
/// Where it keeps others out.
const LOCKS: &str = "/run/lock/iscsi";
const DAEMON: &str = "/sbin/iscsid";
/// What it hears commands by, among the abstract sockets of /proc/net/unix.
const SOCKET: &str = "@ISCSIADM_ABSTRACT_NAMESPACE";
/// How long it may take to hear them.
const DAEMON_LIMIT: Duration = Duration::from_secs(10);
/// How long targets may take, all together, when the host ends.
const END_LIMIT: Duration = Duration::from_secs(8);
/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(50);
/// Numbers of logical units that are written in one level have this bit (SAM-5, 4.7.7.5), and the kernel leaves it there.
const FLAT: u32 = 0x4000;

/// How the connection to a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Link {
    /// It is there.
    Up,
    /// It was, and is tried again: what is read and written waits.
    Away,
}

/// A session with a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The kernel's number of it.
    pub number: u32,
    /// The target's name.
    pub target: String,
    /// How it is.
    pub link: Link,
}

/// All that the kernel has.
pub fn sessions() -> Vec<Session> {
    let entries = fs::read_dir(SESSIONS).into_iter().flatten().flatten();
    let session = |path: &Path| {
        let read = |file: &str| fs::read_to_string(path.join(file)).ok().map(|text| text.trim().to_owned());
        let link = if read("state")? == "LOGGED_IN" { Link::Up } else { Link::Away };
        let number = path.file_name()?.to_str()?.strip_prefix("session")?.parse().ok()?;
        Some(Session { number, target: read("targetname")?, link })
    };
    entries.filter_map(|entry| session(&entry.path())).collect()
}

/// The target and the number of the logical unit that a disk of sysfs is, if it is one.
pub(crate) fn unit(sys: &Path) -> Option<(String, u16)> {
    let device = sys.join("device").canonicalize().ok()?;
    let (session, lun) = place(device.to_str()?)?;
    let target = fs::read_to_string(Path::new(SESSIONS).join(session).join("targetname")).ok()?;
    Some((target.trim().to_owned(), lun))
}

/// `.../host2/session1/target2:0:0/2:0:0:1`.
fn place(device: &str) -> Option<(&str, u16)> {
    let session = device.split('/').find(|part| {
        part.strip_prefix("session").is_some_and(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()))
    })?;
    let lun: u32 = device.rsplit(':').next()?.parse().ok()?;
    let lun = if (FLAT..2 * FLAT).contains(&lun) { lun - FLAT } else { lun };
    Some((session, u16::try_from(lun).ok()?))
}

/// Becomes the daemon, on a host of this name.
///
/// # Errors
/// A file cannot be written, or the program is not there; else there is no return.
pub fn become_daemon(storage: &Storage, host: &str) -> Result<()> {
    let error = daemon(storage, host)?.exec();
    Err(Error(format!("cannot start {DAEMON}: {error}")))
}

/// The daemon in the foreground, and its files.
fn daemon(storage: &Storage, host: &str) -> Result<Command> {
    for directory in [FILES, LOCKS] {
        doing(fs::create_dir_all(directory), || format!("make {directory}"))?;
    }
    let write = |name: &str, text: String| {
        let path = format!("{FILES}/{name}");
        doing(fs::write(&path, text), || format!("write {path}"))
    };
    write("initiatorname.iscsi", format!("InitiatorName={}\n", storage.initiator(host)))?;
    // A login is tried once and told; the next one is a matter of whoever asked.
    let settings =
        "node.startup = manual\nnode.conn[0].timeo.login_timeout = 10\nnode.session.initial_login_retry_max = 1\n";
    write("iscsid.conf", settings.to_owned())?;
    let mut command = Command::new(DAEMON);
    command.arg("--foreground").env_clear().current_dir("/");
    Ok(command)
}

/// Logs in to a target: its units are disks as soon as the kernel has looked at them.
///
/// # Errors
/// There is none of this name, or it refuses, or it does not answer.
pub fn log_in(storage: &Storage, name: &str) -> Result<()> {
    let found = storage.iscsi.iter().find(|iscsi| iscsi.name == name);
    let iscsi = found.ok_or_else(|| Error(format!("no iSCSI target {name} is declared")))?;
    if sessions().iter().any(|session| session.target == iscsi.target) {
        return Ok(());
    }
    wait_for_daemon()?;
    record(iscsi, &["--op", "new"])?;
    for (setting, value) in settings(iscsi) {
        record(iscsi, &["--op", "update", "--name", setting, "--value", &value])?;
    }
    record(iscsi, &["--login"])
}

/// What differs from the daemon's own settings.
fn settings(iscsi: &Iscsi) -> Vec<(&'static str, String)> {
    // Below zero, what is read and written waits for as long as the target is away.
    let patience = iscsi.give_up.map_or("-1".to_owned(), |seconds| seconds.to_string());
    let mut settings = vec![("node.session.timeo.replacement_timeout", patience)];
    if let Some(chap) = &iscsi.chap {
        settings.push(("node.session.auth.authmethod", "CHAP".to_owned()));
        settings.push(("node.session.auth.username", chap.user.clone()));
        settings.push(("node.session.auth.password", chap.password.clone()));
    }
    settings
}

fn record(iscsi: &Iscsi, words: &[&str]) -> Result<()> {
    let portal = iscsi.portal.to_string();
    let all = [&["--mode", "node", "--targetname", &iscsi.target, "--portal", &portal], words].concat();
    tools::run("iscsiadm", &all).map(drop).map_err(|error| Error(sentence(&error.0)))
}

/// What iscsiadm says in several lines: the reason behind its number, or the first one.
fn sentence(words: &str) -> String {
    let reason = words.rsplit_once(" (").and_then(|(_, rest)| rest.split_once(')')?.0.split_once(" - "));
    let first = || words.split("; ").next().unwrap_or(words).replace("--mode: ", "").replace("iscsiadm: ", "");
    reason.map_or_else(first, |(_, reason)| reason.to_owned())
}

fn wait_for_daemon() -> Result<()> {
    let end = Instant::now() + DAEMON_LIMIT;
    while !fs::read_to_string("/proc/net/unix").unwrap_or_default().contains(SOCKET) {
        if Instant::now() >= end {
            return Err(Error("the service iscsi does not run".to_owned()));
        }
        std::thread::sleep(INTERVAL);
    }
    Ok(())
}

/// Takes leave of targets that are away: nothing is waited for any more.
pub(crate) fn abandon() {
    give_up(&|session| session.link == Link::Away);
}

/// Logs out of all targets when a host of this name ends; a session that does not end in order ends all the same. Services are
/// over by then, the daemon among them: there is another one meanwhile.
pub(crate) fn log_out(storage: &Storage, host: &str) -> Vec<Error> {
    let open = sessions();
    if open.is_empty() {
        return Vec::new();
    }
    let spawned = daemon(storage, host).map(|mut command| command.stdin(Stdio::null()).stdout(Stdio::null()).spawn());
    if let Ok(Ok(mut daemon)) = spawned {
        let end = Instant::now() + END_LIMIT;
        for session in open {
            let Some(iscsi) = storage.iscsi.iter().find(|iscsi| iscsi.target == session.target) else { continue };
            // The daemon first learns what sessions there are.
            while wait_for_daemon().is_ok() && record(iscsi, &["--logout"]).is_err() && Instant::now() < end {
                std::thread::sleep(INTERVAL);
            }
        }
        let _ = daemon.kill();
        let _ = daemon.wait();
    }
    give_up(&|_| true)
}

/// Ends sessions without their targets.
fn give_up(which: &dyn Fn(&Session) -> bool) -> Vec<Error> {
    let chosen = sessions().into_iter().filter(|session| which(session));
    chosen.filter_map(|session| netlink::end(session.number).err()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_spec::appliance::Chap;

    #[test]
    fn a_unit_is_known_by_its_place() {
        let at = |lun: &str| format!("/sys/devices/platform/host2/session11/target2:0:0/2:0:0:{lun}");
        assert_eq!(place(&at("1")), Some(("session11", 1)));
        assert_eq!(place(&at("16640")), Some(("session11", 256)));
        assert_eq!(place(&at("x")), None);
        assert_eq!(place("/sys/devices/pci0000:00/0000:00:01.1/ata1/host0/target0:0:0/0:0:0:0"), None);
        assert_eq!(place("/sys/devices/session/0:0:0:0"), None);
    }

    #[test]
    fn a_target_is_waited_for_unless_somebody_says_how_long() {
        let mut iscsi = Iscsi {
            name: "store".to_owned(),
            portal: ([10, 1, 1, 8], 3260).into(),
            target: "iqn.2026-01.org.example:store".to_owned(),
            chap: None,
            give_up: None,
        };
        assert_eq!(settings(&iscsi), [("node.session.timeo.replacement_timeout", "-1".to_owned())]);
        iscsi.give_up = Some(20);
        iscsi.chap = Some(Chap { user: "node1".to_owned(), password: "twelve-bytes".to_owned() });
        let settings = settings(&iscsi);
        assert_eq!((settings.len(), settings[0].1.as_str()), (4, "20"));
    }

    #[test]
    fn the_reason_is_what_is_said() {
        let said = "iscsiadm --mode: iscsiadm: Could not login to [iface: default, target: iqn.a, portal: 10.0.0.1,3260].; \
                    iscsiadm: initiator reported error (24 - iSCSI login failed due to authorization failure); \
                    iscsiadm: Could not log into all portals";
        assert_eq!(sentence(said), "iSCSI login failed due to authorization failure");
        assert_eq!(sentence("iscsiadm --mode: iscsiadm: No records found"), "iscsiadm No records found");
    }
}
