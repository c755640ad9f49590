//! Starting a VMM process, in an order that can be cut anywhere: lock, disk, tap, cgroup, sockets, configuration, process.

use std::fs::{self, File, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};
use rtnetlink::Handle;
use thimble_spec::appliance::Guest;
use thimble_spec::json::Json;
use thimble_spec::names::tap_name;
use thimble_spec::paths;
use thimble_spec::vmm::{CONFIG_FILE, CONTROL_FILE, EXIT_FILE, Exit, ExitReason, READY_FILE};
use tokio::process::{Child, Command};

use crate::bid::{BID_FILE, SUSPENDED};
use crate::definitions::Defined;
use crate::lock::{self, Lock};
use crate::plan::{self, PARAMETERS_FILE, Place};
use crate::room::PAUSED;
use crate::shared::{self, Shared};
use crate::still::STILL;
use crate::{cgroup, disk, tap};

/// A file that says: the console was told that the guest runs; [`READY_FILE`] says the same of its readiness. A daemon that adopts the guest tells only what
/// the one before it had no time to tell.
pub const TOLD_RUNNING: &str = "told.running";
/// The definition that it runs by, as JSON.
const DEFINITION_FILE: &str = "definition.json";
/// What the VMM printed: one sentence when it failed early.
const LOG_FILE: &str = "vmm.log";
/// How much of it is looked at.
const LOG_TAIL: u64 = 4096;

/// What came of the wish to start a guest.
#[derive(Debug)]
pub enum Start {
    /// A VMM was started.
    Started(Child),
    /// One runs already, started by a daemon before us.
    RunsAlready,
}

/// Starts the guest's VMM, unless it runs. `guest` is what it is to have of what was defined.
///
/// # Errors
/// Its disk, its tap or its process cannot be made.
pub async fn start(guest: &Guest, defined: &Defined, handle: &Handle) -> Result<Start> {
    let place = Place::of(&guest.name);
    fs::create_dir_all(&place.run).with_context(|| format!("making {}", place.run.display()))?;
    fs::set_permissions(&place.run, Permissions::from_mode(0o700))?;
    let lock = match lock::take(&place.run)? {
        Lock::Free(lock) => lock,
        Lock::Taken => return Ok(Start::RunsAlready),
    };
    disk::prepare(guest).await?;
    if let Some(network) = &guest.network {
        tap::plug(handle, &tap_name(&guest.name), network).await?;
    }
    let cgroup = cgroup::make(&guest.name, guest.memory.bytes(), plan::threads(guest)).context("making its cgroup")?;
    let jail = plan::jail(defined.index, cgroup);
    if guest.cid().is_some() {
        let vsock = place.file(plan::VSOCK_DIR);
        fs::create_dir_all(&vsock).with_context(|| format!("making {}", vsock.display()))?;
        // The jailed VMM, another user, connects to what listens there.
        fs::set_permissions(&vsock, Permissions::from_mode(0o755))?;
    }
    let version = Shared::default().next();
    shared::record(&place, version.hashes.as_ref().filter(|_| guest.boot.is_none()))?;
    runs_by(&place, &defined.guest)?;
    let (config, parameters) = plan::config(guest, &version, jail)?;
    let config = serde_json::to_vec_pretty(&config)?;
    write_whole(&place.file(CONFIG_FILE), &config)?;
    if let Some(parameters) = parameters {
        write_whole(&place.file(PARAMETERS_FILE), &parameters)?;
    }
    for stale in [EXIT_FILE, CONTROL_FILE, TOLD_RUNNING, READY_FILE, PAUSED, STILL, SUSPENDED, BID_FILE] {
        match fs::remove_file(place.file(stale)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    let log = File::create(place.file(LOG_FILE))?;
    let inherited = lock::inheritable(&lock)?;
    let mut command = Command::new(paths::VMM);
    command.arg("--config").arg(place.file(CONFIG_FILE));
    command.arg("--control").arg(place.file(CONTROL_FILE));
    command.arg("--exit-file").arg(place.file(EXIT_FILE));
    command.arg("--hold").arg(inherited.as_raw_fd().to_string());
    command.args(["--console", "none"]).current_dir("/").stdin(Stdio::null());
    command.stdout(log.try_clone()?).stderr(log);
    // A session of its own: no signal to the daemon's group reaches a guest.
    // SAFETY: setsid(2) is async-signal-safe, and nothing else happens between fork and exec.
    unsafe { command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(Into::into)) };
    let child = command.spawn().with_context(|| format!("starting {}", paths::VMM))?;
    drop((inherited, lock));
    Ok(Start::Started(child))
}

/// Remembers the definition that the guest runs by, for the daemons to come.
///
/// # Errors
/// It cannot be written.
pub fn runs_by(place: &Place, guest: &Guest) -> Result<()> {
    write_whole(&place.file(DEFINITION_FILE), &guest.to_json()?)
}

/// The definition that the guest was started by, with what it took on while it ran, if it is known.
pub fn started_by(place: &Place) -> Option<Guest> {
    Guest::from_json(&fs::read(place.file(DEFINITION_FILE)).ok()?).ok()
}

/// Whether the guest was started on this host, since the host was.
pub fn was_started(place: &Place) -> bool {
    place.file(DEFINITION_FILE).exists()
}

/// Whether this life of the guest sees `what` for the first time; from then on it doesn't, whichever daemon asks.
pub fn first_time(place: &Place, what: &str) -> bool {
    File::create_new(place.file(what)).is_ok()
}

/// Why the guest's VMM ended, from what it left behind. One that left nothing is told by the last line that it printed.
pub fn exit(place: &Place) -> Exit {
    let left = fs::read(place.file(EXIT_FILE)).ok().and_then(|json| serde_json::from_slice(&json).ok());
    left.unwrap_or_else(|| {
        let reason = last_line(&place.file(LOG_FILE)).map_or(ExitReason::Lost, ExitReason::Error);
        Exit::new(reason, 0.0)
    })
}

fn last_line(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL))).ok()?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    text.lines().rev().find(|line| !line.trim().is_empty()).map(|line| line.trim().to_owned())
}

/// Replaces a file in one step. The run directory is memory: there is nothing to sync.
///
/// # Errors
/// It cannot be written.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(content)?;
    fs::rename(&beside, path).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_what_the_vmm_left_or_printed() {
        let run = tempfile::tempdir().unwrap();
        let place = Place { run: run.path().to_owned() };
        assert_eq!(exit(&place).reason, ExitReason::Lost);
        fs::write(place.file(LOG_FILE), "a warning\nopening /dev/kvm: there is none\n\n").unwrap();
        assert_eq!(exit(&place).reason, ExitReason::Error("opening /dev/kvm: there is none".to_owned()));
        let left = Exit::new(ExitReason::Reboot, 2.0);
        fs::write(place.file(EXIT_FILE), serde_json::to_vec(&left).unwrap()).unwrap();
        assert_eq!(exit(&place), left);
        fs::write(place.file(EXIT_FILE), "{").unwrap();
        assert!(matches!(exit(&place).reason, ExitReason::Error(_)));
    }
}
