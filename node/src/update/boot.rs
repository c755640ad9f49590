//! The boot partition of the disk that this host was started from.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use thimble_spec::cmdline::Cmdline;
use thimble_spec::slot::{Origin, VolumeId};
use thimble_store::fat::{SECTOR, geometry};
use thimble_store::{Partition, Store};

/// How long to wait for whoever is at work on the boot partition: PID 1 has a boot confirmed, which takes a moment.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time between two tries.
const INTERVAL: Duration = Duration::from_millis(100);

/// Where this host came from.
///
/// # Errors
/// It did not come from a slot of a flash disk.
pub fn origin() -> Result<Origin> {
    let line = fs::read_to_string("/proc/cmdline").context("reading /proc/cmdline")?;
    let origin = Origin::of(&Cmdline::parse(&line)).context("the kernel command line does not name the slot")?;
    origin.context(
        "this host was not started from a flash disk, so it has no slots: a node that boots from the network is updated \
         on its server, one that boots from an ISO by another ISO",
    )
}

/// The boot partition, to write; nobody else does meanwhile.
///
/// # Errors
/// It is not there, or somebody else is at work on it.
pub fn open(volume: VolumeId) -> Result<Store<Partition>> {
    let path = find(volume)?;
    let end = Instant::now() + PATIENCE;
    let partition = loop {
        match Partition::open(&path) {
            Ok(partition) => break partition,
            Err(error) if error.kind() != ErrorKind::ResourceBusy => {
                return Err(error).with_context(|| format!("opening the boot partition {}", path.display()));
            }
            Err(_) if Instant::now() < end => sleep(INTERVAL),
            Err(_) => bail!("another update is at work on {}, or it is mounted: wait for it", path.display()),
        }
    };
    Store::open(partition).with_context(|| format!("the boot partition {}", path.display()))
}

/// The boot partition, to look at.
///
/// # Errors
/// It is not there.
pub fn look(volume: VolumeId) -> Result<Store<Partition>> {
    let path = find(volume)?;
    let partition = Partition::open_to_read(&path).with_context(|| format!("opening {}", path.display()))?;
    Store::open(partition).with_context(|| format!("the boot partition {}", path.display()))
}

fn find(volume: VolumeId) -> Result<PathBuf> {
    find_in(volume, Path::new("/sys/class/block"), Path::new("/dev"))
}

/// Looks at the first sector of every block device.
fn find_in(volume: VolumeId, names: &Path, devices: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(names).with_context(|| format!("reading {}", names.display()))?;
    let mut found: Vec<PathBuf> = entries
        .flatten()
        // In sysfs, `!` stands for the slash of a name such as cciss/c0d0p1.
        .map(|entry| devices.join(entry.file_name().to_string_lossy().replace('!', "/")))
        .filter(|path| volume_of(path) == Some(volume))
        .collect();
    found.sort();
    match &found[..] {
        [path] => Ok(path.clone()),
        [] => bail!("the boot partition (volume id {volume}) is not there: was its disk pulled?"),
        [one, other, ..] => bail!(
            "{} and {} both have the volume id {volume}, and only one of them is what this host was started from: unplug \
             the other disk",
            one.display(),
            other.display()
        ),
    }
}

fn volume_of(path: &Path) -> Option<VolumeId> {
    let mut sector = [0; SECTOR];
    File::open(path).ok()?.read_exact(&mut sector).ok()?;
    geometry::volume(&sector)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot_record(volume: u32) -> [u8; SECTOR] {
        let mut sector = [0; SECTOR];
        sector[38] = 0x29;
        sector[39..43].copy_from_slice(&volume.to_le_bytes());
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        sector
    }

    #[test]
    fn the_partition_is_known_by_its_volume_id_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (names, devices) = (dir.path().join("sys"), dir.path().join("dev"));
        fs::create_dir_all(devices.join("cciss")).unwrap();
        for (name, content) in [
            ("vda", vec![0; 4096]),
            ("vda1", boot_record(7).to_vec()),
            ("cciss!c0d0p1", boot_record(8).to_vec()),
            ("sr0", vec![]),
        ] {
            fs::create_dir_all(names.join(name)).unwrap();
            fs::write(devices.join(name.replace('!', "/")), content).unwrap();
        }
        fs::create_dir_all(names.join("gone")).unwrap();
        let find = |volume| find_in(VolumeId(volume), &names, &devices);
        assert_eq!(find(7).unwrap(), devices.join("vda1"));
        assert_eq!(find(8).unwrap(), devices.join("cciss/c0d0p1"));
        assert!(find(9).unwrap_err().to_string().contains("(volume id 0000-0009) is not there"));
        fs::create_dir_all(names.join("vdb1")).unwrap();
        fs::write(devices.join("vdb1"), boot_record(7)).unwrap();
        let told = find(7).unwrap_err().to_string();
        assert!(told.contains("vda1 and ") && told.contains("vdb1 both have the volume id 0000-0007"), "{told}");
    }
}
