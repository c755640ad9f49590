//! All of it taken down when the host ends, so that the next boot finds everything clean: mounts, swap, volumes, containers,
//! arrays, sessions with iSCSI targets.
//!
//! What is on top goes first. A layer that is still in use keeps what is below it; the rest goes all the same.

use std::fs;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use thimble_spec::appliance::Storage;
use thimble_spec::paths::DATA_DIR;

use crate::observe::{array_directory, mounts, swaps};
use crate::tools::{lvm, run};
use crate::{Error, Result, doing, iscsi, luks};

/// More layers than stand on each other.
const LAYERS_MAX: usize = 8;

/// Takes it down on a host of this name; gives what could not be, a sentence each.
pub fn end(storage: &Storage, host: &str) -> Vec<Error> {
    iscsi::abandon();
    let mut errors = Vec::new();
    let mut note = |result: Result<()>| errors.extend(result.err());
    for point in below_data(mounts()) {
        note(unmount(&point));
    }
    for name in swaps() {
        note(swap_off(&name));
    }
    // What stands on another one goes before it: another round as long as one goes.
    let mut off: Vec<Result<()>> = Vec::new();
    for _ in 0..LAYERS_MAX {
        off = storage.groups.iter().map(|group| lvm(&["vgchange", "-an", &group.name]).map(drop)).collect();
        let (open, running) = (luks::containers(), arrays());
        let closed = open.keys().filter(|name| luks::close(name).is_ok()).count();
        let stopped = running.iter().filter(|name| run("mdadm", &["--stop", &format!("/dev/{name}")]).is_ok()).count();
        let (gone, all) = (closed + stopped, open.len() + running.len());
        if gone == 0 || (gone == all && off.iter().all(Result::is_ok)) {
            break;
        }
    }
    errors.extend(off.into_iter().filter_map(Result::err));
    let containers = luks::containers().into_keys().map(|name| format!("the LUKS container {name}"));
    let left = containers.chain(arrays().into_iter().map(|name| format!("the array {name}")));
    errors.extend(left.map(|what| Error(format!("{what} is in use and was not taken down"))));
    errors.extend(iscsi::log_out(storage, host));
    errors
}

/// Mount points below the data directory, the last one mounted first. The data directory itself is PID 1's.
fn below_data(mounts: Vec<(String, String)>) -> Vec<String> {
    let below = |point: &String| point.strip_prefix(DATA_DIR).is_some_and(|rest| rest.starts_with('/'));
    mounts.into_iter().map(|(_, point)| point).filter(below).rev().collect()
}

fn unmount(point: &str) -> Result<()> {
    // Without MNT_FORCE, an export whose server is away would keep the host.
    match umount2(point, MntFlags::MNT_FORCE | MntFlags::UMOUNT_NOFOLLOW) {
        Err(Errno::EINVAL) => Ok(()),
        unmounted => doing(unmounted, || format!("unmount {point}")),
    }
}

fn swap_off(name: &str) -> Result<()> {
    let path = format!("/dev/{name}");
    let what = || format!("take the swap on {path} back");
    let text = doing(std::ffi::CString::new(path.as_str()), what)?;
    // SAFETY: the path is a C string that lives until the call is over.
    let result = unsafe { libc::swapoff(text.as_ptr()) };
    doing(Errno::result(result), what).map(drop)
}

/// The kernel's names of arrays that it has, started or not.
fn arrays() -> Vec<String> {
    let names = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let is_array = |name: &String| {
        let state = fs::read_to_string(array_directory(name).join("array_state"));
        state.is_ok_and(|state| state.trim() != "clear") && Path::new("/dev").join(name).exists()
    };
    names.filter(is_array).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_last_goes_first_and_data_stays() {
        let mounts =
            ["/", "/data", "/data/a", "/database", "/data/a/b"].map(|point| ("9:0".to_owned(), point.to_owned()));
        assert_eq!(below_data(mounts.to_vec()), ["/data/a/b", "/data/a"]);
    }
}
