//! From the definition of a guest to what its VMM is told. No file is touched here.

use std::path::{Path, PathBuf};

use thimble_spec::appliance::{Guest, GuestDisk};
use thimble_spec::cmdline::{Cmdline, CmdlineError, DEFAULT_IMAGE, GuestParams};
use thimble_spec::names::{INTERFACE_NAME_MAX, fnv1a};
use thimble_spec::paths;
use thimble_spec::vmm::{Disk, GuestConfig, Jail, Net};

/// Where a guest's own block device is in the guest: behind the shared image.
const OWN_DISK: &str = "/dev/vdb";
/// Words for every guest's kernel. `reboot=k` resets through the keyboard controller, which the VMM takes for a reboot;
/// `panic=-1` reboots at once, so that a guest that panicked is started again.
const KERNEL_WORDS: &str = "console=ttyS0 quiet panic=-1 reboot=k";

/// The files of one guest on the host.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its run directory.
    pub run: PathBuf,
}

impl Place {
    /// The place of the guest with this name.
    pub fn of(guest: &str) -> Self {
        Self { run: Path::new(paths::GUEST_RUN_DIR).join(guest) }
    }

    /// A file in the run directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.run.join(name)
    }
}

/// The guest's own block device on the host, if it has one.
pub fn own_disk(guest: &Guest) -> Option<PathBuf> {
    Some(match guest.disk.as_ref()? {
        GuestDisk::Size(_) => Path::new(paths::GUEST_DISKS_DIR).join(&guest.name).join("disk.raw"),
        GuestDisk::Device(path) | GuestDisk::File(path) => PathBuf::from(path),
    })
}

/// Users and groups of VMMs begin here. The host has no other users than root.
const FIRST_ID: u32 = 60_000;

/// The jail of the guest at `index` of the appliance: a user and a group of its own.
pub fn jail(index: u32, cgroup: Option<PathBuf>) -> Jail {
    let id = FIRST_ID.saturating_add(index);
    Jail { uid: id, gid: id, cgroup }
}

/// What the guest's VMM is told.
///
/// # Errors
/// A kernel command line that cannot be written.
pub fn config(guest: &Guest, jail: Jail) -> Result<GuestConfig, CmdlineError> {
    let own = own_disk(guest);
    let network = guest.network.as_ref();
    let mut cmdline = Cmdline::parse(KERNEL_WORDS);
    GuestParams {
        name: guest.name.clone(),
        address: network.and_then(|network| network.address),
        gateway: network.and_then(|network| network.gateway),
        dns: network.map(|network| network.dns.clone()).unwrap_or_default(),
        image: DEFAULT_IMAGE.to_owned(),
        disk: own.is_some().then(|| OWN_DISK.to_owned()),
    }
    .write(&mut cmdline);
    let image = Path::new(paths::IMAGES_DIR).join(format!("{}.erofs", guest.image));
    let disk = |(path, read_only)| Disk { path, read_only, ..Disk::default() };
    let disks = [Some((image, true)), own.map(|path| (path, false))];
    Ok(GuestConfig {
        name: guest.name.clone(),
        vcpus: guest.vcpus,
        // The definition allows whole MiB only, and no more than fit.
        memory_mib: u32::try_from(guest.memory.bytes() >> 20).unwrap_or(u32::MAX),
        kernel: paths::GUEST_KERNEL.into(),
        initrd: Some(paths::GUEST_INITRD.into()),
        cmdline: cmdline.render()?,
        disks: disks.into_iter().flatten().map(disk).collect(),
        nets: network.map(|network| Net::new(tap_name(&guest.name), network.mac)).into_iter().collect(),
        jail: Some(jail),
        ..GuestConfig::default()
    })
}

/// The name of a guest's tap on the host: `tap-NAME` where that fits the kernel's limit, else with a hash of the name.
pub fn tap_name(guest: &str) -> String {
    const PREFIX: &str = "tap-";
    if PREFIX.len() + guest.len() <= INTERFACE_NAME_MAX {
        return format!("{PREFIX}{guest}");
    }
    // Its lower 40 bits print as ten digits, `.` keeps them apart from any guest's real name.
    format!("{PREFIX}.{:010x}", fnv1a(guest.bytes()) & 0xff_ffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_spec::appliance::GuestNetwork;
    use thimble_spec::names::{Mac, check_interface};
    use thimble_spec::units::ByteSize;

    fn web1() -> Guest {
        Guest {
            name: "web1".to_owned(),
            image: "web".to_owned(),
            vcpus: 2,
            memory: ByteSize::mib(128),
            network: Some(GuestNetwork {
                bridge: "br0".to_owned(),
                address: Some("10.1.1.11/24".parse().unwrap()),
                gateway: Some("10.1.1.1".parse().unwrap()),
                dns: Vec::new(),
                vlan: None,
                mac: Mac::derived("demo", "web1"),
            }),
            disk: Some(GuestDisk::Size(ByteSize::mib(16))),
            autostart: true,
        }
    }

    #[test]
    fn two_guests_differ_in_network_disk_and_user_only() {
        let mut other = web1();
        other.name = "web2".to_owned();
        let network = other.network.as_mut().unwrap();
        network.address = Some("10.1.1.12/24".parse().unwrap());
        network.mac = Mac::derived("demo", "web2");
        let (one, two) = (config(&web1(), jail(0, None)).unwrap(), config(&other, jail(1, None)).unwrap());

        let alike = |config: &GuestConfig, name: &str, address: &str| {
            let mut config = config.clone();
            config.cmdline = config.cmdline.replace(name, "NAME").replace(address, "ADDRESS");
            config.name.clear();
            config.nets.clear();
            config.jail = None;
            assert_eq!(config.disks.remove(1).path, Path::new("/data/guests").join(name).join("disk.raw"));
            config
        };
        assert_eq!(alike(&one, "web1", "10.1.1.11"), alike(&two, "web2", "10.1.1.12"));
        assert_ne!(one.nets, two.nets);
        let ids = [&one, &two].map(|config| config.jail.as_ref().map(|jail| (jail.uid, jail.gid)));
        assert_eq!(ids, [Some((60_000, 60_000)), Some((60_001, 60_001))]);
    }

    #[test]
    fn a_guest_without_disk_or_network_is_told_of_none() {
        let config = config(&Guest { network: None, disk: None, ..web1() }, jail(0, None)).unwrap();
        assert!(!config.cmdline.contains("thimble.disk") && !config.cmdline.contains("thimble.address"));
        assert_eq!((config.disks.len(), config.nets.len()), (1, 0));
    }

    #[test]
    fn tap_names_fit_and_differ() {
        let names = ["web1", "a-very-long-guest-name-1", "a-very-long-guest-name-2"].map(tap_name);
        assert_eq!(names[0], "tap-web1");
        assert_ne!(names[1], names[2]);
        for name in names {
            assert_eq!(check_interface(&name), Ok(()));
        }
    }
}
