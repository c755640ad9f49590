//! What a VMM gives up before its guest's first instruction, so that a guest that takes it over has won nothing.
//!
//! | file | what is gone then |
//! | --- | --- |
//! | `root` | every path, process, socket and interface of the host: namespaces and an empty root |
//! | `privileges`, `capabilities` | root's user, its capabilities, and every way to get them back |
//! | `landlock` | opening files, TCP, signals and abstract sockets, if a way to one should be left after all |
//! | [`seccomp`] | the system calls that a thread does not need |
//!
//! The order matters: each step needs what the next one takes away. `vmm/THREAT_MODEL.md` says what each is for. What a
//! VMM works with, its disks, its taps and `/dev/kvm`, is open before.

pub(crate) mod capabilities;
mod landlock;
mod privileges;
mod root;
pub mod seccomp;

use std::path::Path;

use thimble_spec::vmm::{GuestConfig, Jail};

use crate::error::{Error, Result};

/// Shuts this process in. To be called while it has one thread: most of this is a thread's own.
///
/// # Errors
/// A layer cannot be had: then the guest must not start. Landlock alone may be missing, for old kernels lack it; then
/// one line on standard error says so.
pub fn enter(jail: &Jail, config: &GuestConfig) -> Result<()> {
    if jail.uid == 0 || jail.gid == 0 {
        return Err(Error::Config("a jailed VMM cannot be user or group 0: give it ids of its own".to_owned()));
    }
    let vsock = config.vsock.as_ref().and_then(|vsock| vsock.path.parent());
    let here = |directory| if directory == Path::new("") { Path::new(".") } else { directory };
    root::leave_the_host(vsock.map(here)).map_err(explain)?;
    privileges::drop_all(jail).map_err(explain)?;
    if !landlock::forbid_all().map_err(explain)? {
        eprintln!("thimble-vmm: this host's kernel has no Landlock: the jail does without");
    }
    Ok(())
}

/// Why a layer cannot be had.
#[derive(Debug)]
struct Failure {
    action: &'static str,
    source: std::io::Error,
}

/// For `map_err` behind a system call of a layer.
fn failed<E: Into<std::io::Error>>(action: &'static str) -> impl FnOnce(E) -> Failure {
    move |error| Failure { action, source: error.into() }
}

fn explain(failure: Failure) -> Error {
    Error::Jail { action: failure.action, source: failure.source }
}
