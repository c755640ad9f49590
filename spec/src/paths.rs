//! Where things lie inside the host's and the guest's trees. The builder packs them there, PID 1, the daemon and the
//! VMM find them there.

/// PID 1, in both roles: the kernel starts it from the initramfs under this name.
pub const INIT: &str = "/init";
/// The daemon that supervises the guests.
pub const NODE: &str = "/usr/bin/thimble-node";
/// What an administrator asks the daemon with: another name of [`NODE`].
pub const CTL: &str = "/usr/bin/thimblectl";
/// The virtual machine monitor: one process a guest.
pub const VMM: &str = "/usr/bin/thimble-vmm";

/// The checked definition ([`crate::appliance::Appliance`] as JSON).
pub const APPLIANCE: &str = "/thimble/appliance.json";
/// Where the daemon answers over the network: the authority that signs its clients' certificates, its own certificate, and the
/// key that goes with that, all PEM.
pub const API_CA: &str = "/thimble/api/ca.pem";
/// See [`API_CA`].
pub const API_CERTIFICATE: &str = "/thimble/api/server.pem";
/// See [`API_CA`].
pub const API_KEY: &str = "/thimble/api/server.key";
/// Where the log goes by TLS: `ca.pem`, who signs the server's certificate, and, if the server asks for one of the host's,
/// `cert.pem` and `key.pem`, all PEM.
pub const SYSLOG_KEYS: &str = "/thimble/syslog";
/// Kernel modules (`NAME.ko`) and their index ([`crate::modules::ModuleIndex`] as JSON).
pub const MODULES_DIR: &str = "/thimble/modules";
/// The index in [`MODULES_DIR`].
pub const MODULES_INDEX: &str = "/thimble/modules/index.json";
/// The kernel that all guests share: an ELF `vmlinux` with a PVH note.
pub const GUEST_KERNEL: &str = "/thimble/guest/vmlinux";
/// The initramfs that all guests share: an uncompressed cpio archive.
pub const GUEST_INITRD: &str = "/thimble/guest/initrd";
/// The read-only images, `NAME.erofs`, whichever file system they have.
pub const IMAGES_DIR: &str = "/thimble/images";
/// What the guests share, by content ([`crate::catalogue::Catalogue`] as JSON).
pub const CATALOGUE: &str = "/thimble/catalogue.json";
/// Where the export is mounted that the command line names, see [`crate::export`].
pub const EXPORT_DIR: &str = "/thimble/export";
/// The last member of the host's initramfs, and what PID 1 looks for to know that it was not truncated. It holds the
/// manifest hash: 64 hexadecimal digits and a newline.
pub const END_MARKER: &str = "/thimble/end";

/// Name of the GPT partition that holds the node's own data.
pub const DATA_PARTITION: &str = "thimble-data";
/// Where the data partition is mounted on the host, and where a guest sees its own disk before it is the root.
pub const DATA_DIR: &str = "/data";
/// Below the data directory: a directory a guest, with `disk.raw` in it.
pub const GUEST_DISKS_DIR: &str = "/data/guests";
/// Run-time state: a directory a guest; see [`crate::vmm`] for the files in it.
pub const RUN_DIR: &str = "/run/thimble";
/// Below the run directory: a directory a guest.
pub const GUEST_RUN_DIR: &str = "/run/thimble/guests";
/// The control socket of the host's PID 1, see [`crate::host`].
pub const HOST_CONTROL: &str = "/run/thimble/init.sock";
/// The socket of the node daemon's API, see [`crate::api`].
pub const NODE_API: &str = "/run/thimble/node.sock";
/// Who changed what, where there is a data partition; else below the run directory.
pub const AUDIT_DIR: &str = "/data/audit";
/// Guests that were defined on the node: a file each; below the run directory where there is no data partition.
pub const DEFINITIONS_DIR: &str = "/data/definitions";
/// A file whose presence tells PID 1 that the node daemon has done its start-up; it holds nothing.
pub const NODE_READY: &str = "/run/thimble/node.ready";

/// What the storage service has brought up so far, for the node daemon: see [`crate::host::storage::State`].
pub const STORAGE_STATE: &str = "/run/thimble/storage.json";
/// A file whose presence tells PID 1 that the storage service has done what it can; it holds nothing.
pub const STORAGE_SETTLED: &str = "/run/thimble/storage.settled";

/// A file whose presence tells PID 1 that all guests that start by themselves have been ready, at the same time; it holds
/// nothing.
pub const GUESTS_READY: &str = "/run/thimble/guests.ready";
/// Why the last release on trial was given up: one sentence, which PID 1 writes for the release that comes after it.
pub const GIVEN_UP: &str = "/data/update.given-up";

/// In a guest's initramfs: an empty ext4 file system as a list of the blocks that are not zero, see
/// [`crate::template`].
pub const DISK_TEMPLATE: &str = "/thimble/disk.template";
/// In a guest: which machine it is (machine-id(5)).
pub const MACHINE_ID: &str = "/etc/machine-id";
/// In a guest's image: its services ([`crate::service::Services`] as JSON).
pub const SERVICES: &str = "/etc/thimble/services.json";
