//! Namespaces of its own, and a root with nothing in it.

use std::fs;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, chroot, pivot_root};

use super::{Failure, failed};

/// Where the new root is mounted before it is the root: a directory that every host has. In our own mount namespace
/// nobody misses what was there.
const PLACE: &str = "/proc";
/// Nothing in the root is run, is a device, or gives rights.
const BARE: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);
/// Room for the few directories that lead to `keep`.
const TMPFS: &str = "size=64k,mode=0755";

/// Leaves the host's mounts, network, IPC objects and names behind; what is open stays open. `keep` is a directory that
/// stays visible at its own path.
pub(super) fn leave_the_host(keep: Option<&Path>) -> Result<(), Failure> {
    let keep =
        keep.map(|path| path.canonicalize().map_err(failed("find the socket device's directory"))).transpose()?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWCGROUP,
    )
    .map_err(failed("get namespaces of its own (it needs root)"))?;
    let none = None::<&str>;
    // What is mounted here from now on is seen by nobody else.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(failed("keep its mounts to itself"))?;
    mount(Some("none"), PLACE, Some("tmpfs"), BARE, Some(TMPFS)).map_err(failed("make an empty root"))?;
    if let Some(keep) = keep.as_deref() {
        // An absolute path: behind its first slash it is one below the new root.
        let inside = Path::new(PLACE).join(keep.strip_prefix("/").unwrap_or(keep));
        let action = "show the socket device's directory in the jail";
        fs::create_dir_all(&inside).map_err(failed(action))?;
        mount(Some(keep), &inside, none, MsFlags::MS_BIND, none).map_err(failed(action))?;
        mount(none, &inside, none, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | BARE, none).map_err(failed(action))?;
    }
    chdir(PLACE).map_err(failed("enter the empty root"))?;
    enter_here().map_err(failed("make the empty root its root"))?;
    let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | BARE;
    mount(none, "/", none, read_only, none).map_err(failed("make the empty root read-only"))
}

/// Makes the current directory, which is a mount, the root.
fn enter_here() -> nix::Result<()> {
    match pivot_root(".", ".") {
        // The old root is stacked below the new one now, and goes.
        Ok(()) => umount2(".", MntFlags::MNT_DETACH)?,
        // A host that lives in its initramfs has a root that cannot be exchanged (pivot_root(2), NOTES): it is covered
        // instead. Only CAP_SYS_CHROOT leads back, which goes next.
        Err(nix::Error::EINVAL) => {
            mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
            chroot(".")?;
        }
        Err(error) => return Err(error),
    }
    chdir("/")
}
