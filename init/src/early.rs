//! The file system that must be there before anything else works, as a table of data.

use std::fmt;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::error::{Doing, Error, Result};

/// One thing to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A directory; one that exists keeps its content and gets the mode.
    Directory {
        /// Where.
        path: &'static str,
        /// Permission bits.
        mode: u32,
    },
    /// A symbolic link.
    Symlink {
        /// What it points to.
        target: &'static str,
        /// Where.
        path: &'static str,
    },
    /// A mounted file system.
    Mount {
        /// Type.
        kind: &'static str,
        /// Where.
        path: &'static str,
        /// Flags of mount(2).
        flags: MsFlags,
        /// Options of the file system.
        options: &'static str,
        /// Whether the kernel may lack this type without that being an error.
        optional: bool,
    },
    /// A character device, where the kernel did not make it.
    Device {
        /// Where.
        path: &'static str,
        /// Major and minor number (Documentation/admin-guide/devices.txt).
        number: (u64, u64),
        /// Permission bits.
        mode: u32,
    },
}

/// Nothing that is executed, no devices, no set-user-ID.
const DATA: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);
/// Nothing privileged.
const SAFE: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);

/// Shorthand for the table.
const fn directory(path: &'static str, mode: u32) -> Entry {
    Entry::Directory { path, mode }
}

/// Shorthand for the table.
const fn mounted(kind: &'static str, path: &'static str, flags: MsFlags, options: &'static str) -> Entry {
    Entry::Mount { kind, path, flags, options, optional: false }
}

/// Host and guest alike, in this order.
pub const COMMON: &[Entry] = &[
    directory("/dev", 0o755),
    mounted("devtmpfs", "/dev", MsFlags::MS_NOSUID, "mode=755"),
    // A devtmpfs always has these; a tree whose kernel lacks it must still be able to speak.
    Entry::Device { path: "/dev/console", number: (5, 1), mode: 0o600 },
    Entry::Device { path: "/dev/null", number: (1, 3), mode: 0o666 },
    Entry::Device { path: "/dev/kmsg", number: (1, 11), mode: 0o600 },
    directory("/proc", 0o555),
    mounted("proc", "/proc", DATA, ""),
    directory("/sys", 0o555),
    mounted("sysfs", "/sys", DATA, ""),
    directory("/dev/pts", 0o755),
    // Group 5 is `tty` in every distribution.
    mounted("devpts", "/dev/pts", MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC), "gid=5,mode=620,ptmxmode=666"),
    directory("/dev/shm", 0o1777),
    mounted("tmpfs", "/dev/shm", SAFE, "mode=1777"),
    Entry::Symlink { target: "/proc/self/fd", path: "/dev/fd" },
    Entry::Symlink { target: "/proc/self/fd/0", path: "/dev/stdin" },
    Entry::Symlink { target: "/proc/self/fd/1", path: "/dev/stdout" },
    Entry::Symlink { target: "/proc/self/fd/2", path: "/dev/stderr" },
    directory("/run", 0o755),
    mounted("tmpfs", "/run", SAFE, "mode=755"),
    directory("/tmp", 0o1777),
    mounted("tmpfs", "/tmp", SAFE, "mode=1777"),
];

/// What the host has besides.
#[cfg(feature = "host")]
pub const HOST: &[Entry] = &[
    directory("/etc", 0o755),
    directory("/run/thimble", 0o755),
    // The kernel makes this mount point itself, when it has control groups. A process moves into a group at once: the kernel
    // has a thread of its own for each virtual machine, which it moves while its maker waits, and without `favordynmods` each
    // move lasts until every processor has passed through the scheduler (Documentation/admin-guide/cgroup-v2.rst; Linux 6.0).
    Entry::Mount {
        kind: "cgroup2",
        path: "/sys/fs/cgroup",
        flags: DATA,
        options: "nsdelegate,favordynmods",
        optional: true,
    },
];

impl Entry {
    /// Makes it; what is there already is fine.
    pub fn create(&self) -> Result<()> {
        match *self {
            Self::Directory { path, mode } => make_directory(path, mode),
            Self::Symlink { target, path } => match symlink(target, path) {
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
                made => made.doing(|| format!("make {self}")),
            },
            Self::Mount { kind, path, flags, options, optional } => {
                match mount(Some(kind), path, Some(kind), flags, Some(options)) {
                    Err(Errno::EBUSY) => Ok(()),
                    Err(Errno::ENODEV | Errno::ENOENT) if optional => Ok(()),
                    made => made.doing(|| format!("make {self}")),
                }
            }
            Self::Device { path, number: (major, minor), mode } => {
                match mknod(path, SFlag::S_IFCHR, Mode::from_bits_truncate(mode), makedev(major, minor)) {
                    Err(Errno::EEXIST) => Ok(()),
                    made => made.doing(|| format!("make {self}")),
                }
            }
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory { path, mode } => write!(f, "directory {path} mode {mode:o}"),
            Self::Symlink { target, path } => write!(f, "symlink {path} to {target}"),
            Self::Mount { kind, path, options, .. } => write!(f, "mount {kind} at {path} options \"{options}\""),
            Self::Device { path, number: (major, minor), mode } => {
                write!(f, "device {path} {major}:{minor} mode {mode:o}")
            }
        }
    }
}

/// Makes a directory and those above it, and sets its mode whatever the umask is.
pub fn make_directory(path: impl AsRef<Path>, mode: u32) -> Result<()> {
    let path = path.as_ref();
    fs::create_dir_all(path).doing(|| format!("make directory {}", path.display()))?;
    match fs::set_permissions(path, fs::Permissions::from_mode(mode)) {
        // A mount point that shows a file system which has no modes, or a read-only one.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EROFS)) => Ok(()),
        set => set.doing(|| format!("set mode {mode:o} on {}", path.display())),
    }
}

/// Makes all of `table`; gives back what failed, for the console is not there yet.
pub fn create(table: &[Entry]) -> Vec<Error> {
    table.iter().filter_map(|entry| entry.create().err()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(entry: &Entry) -> &'static str {
        match entry {
            Entry::Directory { path, .. }
            | Entry::Symlink { path, .. }
            | Entry::Mount { path, .. }
            | Entry::Device { path, .. } => path,
        }
    }

    fn whole() -> Vec<Entry> {
        #[cfg(feature = "host")]
        return [COMMON, HOST].concat();
        #[cfg(not(feature = "host"))]
        COMMON.to_vec()
    }

    #[test]
    fn every_mount_point_is_made_before_it_is_used() {
        let mut known = vec!["/", "/sys/fs/cgroup"];
        for entry in whole() {
            let parent =
                path(&entry).rsplit_once('/').map_or("/", |(parent, _)| if parent.is_empty() { "/" } else { parent });
            match entry {
                Entry::Mount { path, .. } => assert!(known.contains(&path), "{entry}"),
                _ => assert!(known.contains(&parent), "{entry}"),
            }
            known.push(path(&entry));
        }
    }

    #[test]
    fn entries_print_as_sentences() {
        assert_eq!(COMMON[0].to_string(), "directory /dev mode 755");
        assert_eq!(COMMON[1].to_string(), "mount devtmpfs at /dev options \"mode=755\"");
        assert_eq!(COMMON[2].to_string(), "device /dev/console 5:1 mode 600");
        let link = Entry::Symlink { target: "/proc/self/fd", path: "/dev/fd" };
        assert_eq!(link.to_string(), "symlink /dev/fd to /proc/self/fd");
    }

    #[test]
    fn making_twice_is_making_once() {
        let place = tempfile::tempdir().unwrap();
        let path: &'static str = place.path().join("a").to_str().unwrap().to_owned().leak();
        let link: &'static str = format!("{path}/link").leak();
        let table = [directory(path, 0o1777), Entry::Symlink { target: "x", path: link }];
        for _ in 0..2 {
            assert!(create(&table).is_empty());
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o7777, 0o1777);
            assert_eq!(fs::read_link(link).unwrap().to_str(), Some("x"));
        }
    }
}
