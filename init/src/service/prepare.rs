//! What must be so before services start: sysctls and directories.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use thimble_spec::service::Directory;

use crate::error::{Doing, Result};

/// The file of a sysctl: dots part its name; a slash stands for a dot within a part, as sysctl(8) has it.
fn sysctl_path(root: &Path, key: &str) -> PathBuf {
    let part = |character| match character {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    root.join(key.chars().map(part).collect::<String>())
}

/// Sets one, below `root`, which is /proc/sys.
pub fn sysctl(root: &Path, key: &str, value: &str) -> Result<()> {
    fs::write(sysctl_path(root, key), value).doing(|| format!("set sysctl {key} to `{value}`"))
}

/// Makes a directory, or gives one that exists its owner and mode.
pub fn directory(directory: &Directory) -> Result<()> {
    let path = Path::new(&directory.path);
    fs::create_dir_all(path)
        .and_then(|()| chown(path, Some(directory.uid), Some(directory.gid)))
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(directory.mode)))
        .doing(|| format!("make directory {}", directory.path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctls_are_files() {
        let path = |key: &str| sysctl_path(Path::new("/proc/sys"), key).display().to_string();
        assert_eq!(path("net.core.somaxconn"), "/proc/sys/net/core/somaxconn");
        assert_eq!(path("net.ipv4.conf.eth0/10.forwarding"), "/proc/sys/net/ipv4/conf/eth0.10/forwarding");
    }

    #[test]
    fn directories_get_owner_and_mode() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a/b");
        let wanted = Directory { path: path.to_str().unwrap().to_owned(), uid: 33, gid: 34, mode: 0o2750 };
        for _ in 0..2 {
            directory(&wanted).unwrap();
            let metadata = fs::metadata(&path).unwrap();
            use std::os::unix::fs::MetadataExt;
            assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (33, 34, 0o2750));
        }
    }
}
