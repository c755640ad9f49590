//! What the guest's image tells PID 1, and the tree that its services find.

use std::fs;
use std::path::Path;

use thimble_spec::json::Json;
use thimble_spec::paths::SERVICES;
use thimble_spec::service::Services;

use super::root;
use crate::console;
use crate::error::{Doing, Error, Result};
use crate::service::prepare::{directory, sysctl};

/// Reads what the image tells PID 1.
pub fn read() -> Result<Services> {
    let text = fs::read(SERVICES).doing(|| format!("read {SERVICES} in the guest's image"))?;
    Services::from_json(&text).map_err(|error| Error::Said(format!("{SERVICES} in the guest's image: {error}")))
}

/// Sets the sysctls, makes the directories and, if so told, the root read-only. What fails is reported and does not keep
/// services from starting.
pub fn prepare(services: &Services) {
    let sysctls = services.sysctl.iter().map(|(key, value)| sysctl(Path::new("/proc/sys"), key, value));
    let directories = services.directories.iter().map(directory);
    for error in sysctls.chain(directories).filter_map(Result::err) {
        console::failed(&error);
    }
    if services.read_only_root
        && let Err(error) = root::close(&services.directories)
    {
        console::failed(&error);
    }
}
