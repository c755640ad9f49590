//! The configuration device: a small disk with what does not fit on the command line.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use thimble_spec::cmdline::Cmdline;
use thimble_spec::parameters::{self, CONFIG, MAX_BYTES};

use super::root::DEVICE_LIMIT;
use crate::clock::wait_until;
use crate::error::{Doing, Error, Result};

/// The kernel's directory of block devices.
const BLOCK_DEVICES: &str = "/sys/block";

/// The command line with what is on the configuration device behind it, if the line names one.
pub fn complete(line: &Cmdline) -> Result<Cmdline> {
    let mut whole = line.clone();
    let Some(serial) = line.get(CONFIG) else { return Ok(whole) };
    let mut found = None;
    wait_until(DEVICE_LIMIT, || {
        found = by_serial(Path::new(BLOCK_DEVICES), serial);
        found.is_some()
    });
    let device = found.ok_or_else(|| {
        let limit = DEVICE_LIMIT.as_secs();
        Error::Said(format!(
            "no disk with the serial number {serial} appeared in {limit} s: give the guest its parameters"
        ))
    })?;
    let mut bytes = Vec::new();
    let read = File::open(&device).and_then(|disk| disk.take(MAX_BYTES as u64).read_to_end(&mut bytes));
    read.doing(|| format!("read the guest's parameters from {}", device.display()))?;
    let more = parameters::read(&bytes).map_err(|error| Error::Said(format!("{}: {error}", device.display())))?;
    whole.extend(more);
    Ok(whole)
}

/// The node of the disk that has this serial number.
fn by_serial(devices: &Path, serial: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(devices).ok()?;
    let has = |entry: &fs::DirEntry| {
        fs::read_to_string(entry.path().join("serial")).is_ok_and(|text| text.trim_end_matches(['\0', '\n']) == serial)
    };
    Some(Path::new("/dev").join(entries.flatten().find(has)?.file_name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_found_by_its_serial_number() {
        let devices = tempfile::tempdir().unwrap();
        for (name, serial) in [("vda", "disk0"), ("vdb", "thimble-config\n"), ("vdc", "thimble-configured")] {
            fs::create_dir(devices.path().join(name)).unwrap();
            fs::write(devices.path().join(name).join("serial"), serial).unwrap();
        }
        fs::create_dir(devices.path().join("ram0")).unwrap();
        assert_eq!(by_serial(devices.path(), "thimble-config"), Some("/dev/vdb".into()));
        assert_eq!(by_serial(devices.path(), "thimble"), None);
    }

    #[test]
    fn a_line_that_names_none_is_all() {
        let line = Cmdline::parse("thimble.name=web1 quiet");
        assert_eq!(complete(&line).unwrap(), line);
    }
}
