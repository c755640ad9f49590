//! The NFS export with the guests' images: mounted once it can be, which is when the network is up and the server there.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use thimble_spec::export::Export;
use thimble_spec::paths::EXPORT_DIR;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::proc::is_mounted;
use crate::say;

/// Time between two tries, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// The first failures are an address that DHCP has not given yet; they are told when it goes on.
const QUIET: u32 = 8;

/// Mounts the export at [`EXPORT_DIR`], however long it takes. A daemon that comes after another one finds it there.
pub async fn mounted(export: &Export) {
    let mut pause = PAUSE.0;
    for tries in 1_u32.. {
        let wanted = export.clone();
        // It waits for the network.
        let done = spawn_blocking(move || mount_once(&wanted)).await;
        match done.map_err(anyhow::Error::from).and_then(|done| done) {
            Ok(()) => return,
            Err(error) if tries == QUIET => {
                say::error(&format!("{error:#}: is the export's address right, and its server there? Trying on"));
            }
            Err(_) => {}
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

fn mount_once(export: &Export) -> Result<()> {
    if is_mounted(EXPORT_DIR, &fs::read_to_string("/proc/self/mounts").unwrap_or_default()) {
        return Ok(());
    }
    fs::create_dir_all(EXPORT_DIR).with_context(|| format!("making {EXPORT_DIR}"))?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME;
    mount(Some(export.source().as_str()), EXPORT_DIR, Some("nfs4"), flags, Some(export.mount_options().as_str()))
        .with_context(|| format!("mounting the NFS export {export}"))
}
